"""A class-conditional DiT in pixel space on Fashion-MNIST."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from omegaconf import DictConfig
from torch import Tensor, nn

from scripts.training.curves import Panel
from scripts.training.draws import Garments, flip_half, generator
from scripts.training.muon import Muon


class DiffusionTransformer:
    """Noise prediction by a small DiT, its loss Min-SNR weighted (Hang et al. 2023)."""

    loss_name = "Min-SNR weighted loss"
    panel = Panel("class_gap", "rise with a wrong class (1e-4)", 1e4)

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.garments = Garments(cfg.data, cfg.held_out)
        self.scheduler = DDIMScheduler(
            num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", clip_sample=True
        )

    def identity(self) -> dict[str, Any]:
        return self.garments.data.identity()

    def build(self, device: torch.device) -> DiTTransformer2DModel:
        self.objective = Objective(self.scheduler, self.cfg.snr_gamma, device)
        return build_model(self.cfg.model, len(self.garments.data.classes)).to(device)

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, p in model.named_parameters():
            matrix = p.ndim == 2 and (".attn1." in name or ".ff." in name)
            (hidden if matrix else rest).append(p)
        return [
            Muon(hidden, lr=self.cfg.learning_rate),
            torch.optim.AdamW(
                rest, lr=self.cfg.adam_learning_rate, betas=(0.9, 0.99), weight_decay=0.0
            ),
        ]

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Images, times stratified over 0..999, noise and classes, as `Objective` takes them."""
        cfg, images = self.cfg, self.garments.images
        g, size = generator(cfg.seed, step), cfg.batch_size
        index = torch.randint(len(images), (size,), generator=g)
        x = flip_half(images[index], g)
        y = self.garments.labels[index]
        null = len(self.garments.data.classes)
        y = torch.where(torch.rand(size, generator=g) < cfg.label_dropout, null, y)
        strata = torch.randperm(size, generator=g) + torch.rand(size, generator=g)
        t = (strata / size * 1000).long().clamp_(max=999)  # rounding may reach 1000
        return x, t, torch.randn(x.shape, generator=g), y

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        return self.objective(model, *batch).mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss with the true class and mean rise with a wrong one, on the held-out images."""
        images, labels = self.garments.held_images, self.garments.held_labels
        device = next(model.parameters()).device
        g = torch.Generator().manual_seed(0)
        t = torch.linspace(0, 999, len(images)).long()
        noise = torch.randn(images.shape, generator=g)
        wrong = (labels + torch.randint(1, 10, labels.shape, generator=g)) % 10
        right, misled = [
            torch.cat(
                [
                    self.objective(model, *(v.to(device) for v in batch))
                    for batch in zip(*(v.split(64) for v in (images, t, noise, y)), strict=True)
                ]
            )
            for y in (labels, wrong)
        ]
        return {"val_loss": right.mean().item(), "class_gap": (misled - right).mean().item()}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Nothing: the card's accuracy is a run of its own."""
        return {}

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, DiTTransformer2DModel)
        model.save_pretrained(folder / "transformer")
        self.scheduler.save_pretrained(folder / "scheduler")


def build_model(cfg: DictConfig, classes: int) -> DiTTransformer2DModel:
    """A DiT on 32x32 one-channel images in 2x2 patches: 256 tokens, as DiT-XL/2 at 256 px."""
    model = DiTTransformer2DModel(
        num_attention_heads=cfg.heads,
        attention_head_dim=cfg.head_dim,
        num_layers=cfg.layers,
        in_channels=1,
        out_channels=1,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=classes,
        activation_fn="gelu",
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.pos_embed.proj.weight.view(model.inner_dim, -1))
    for block in model.transformer_blocks:
        embedding = block.norm1.emb
        # diffusers drops labels block by block; guidance needs the whole model to lose them at once
        embedding.class_embedder.dropout_prob = 0.0
        nn.init.normal_(embedding.class_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(embedding.timestep_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(embedding.timestep_embedder.linear_2.weight, std=0.02)
        nn.init.zeros_(block.norm1.linear.weight)  # adaLN-Zero (Peebles and Xie 2023)
    nn.init.zeros_(model.proj_out_1.weight)
    nn.init.zeros_(model.proj_out_2.weight)
    return model


class Objective:
    """Min-SNR weighted noise-prediction loss (Hang et al. 2023, arXiv 2303.09556)."""

    def __init__(self, scheduler: DDIMScheduler, gamma: float, device: torch.device) -> None:
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device)
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        self.weight = snr.clamp(max=gamma) / snr

    def __call__(self, model: nn.Module, x: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        """Weighted loss of each sample, [B]; x and noise [B,1,32,32], t and y int64 [B]."""
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        predicted = model(a.sqrt() * x + (1 - a).sqrt() * noise, timestep=t, class_labels=y).sample
        return self.weight[t] * (predicted.float() - noise).square().mean((1, 2, 3))

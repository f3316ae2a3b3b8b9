"""A class-conditional DiT in pixel space on Fashion-MNIST."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from omegaconf import DictConfig
from torch import Tensor, nn

from bigain.training.curves import Panel
from bigain.training.denoising import MinSNR, class_gap, times
from bigain.training.draws import Garments, flip_half, generator
from bigain.training.muon import muon_and_adam


class DiffusionTransformer:
    """Noise prediction by a small DiT, with a Min-SNR weighted loss (Hang et al. 2023)."""

    loss_name = "Min-SNR weighted loss"
    panel = Panel("class_gap", "loss added by a wrong class (1e-4)", 1e4)

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.garments = Garments(cfg.data, cfg.held_out)
        self.scheduler = DDIMScheduler(
            num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", clip_sample=True
        )

    def identity(self) -> dict[str, Any]:
        return self.garments.data.identity()

    def build(self, device: torch.device) -> DiTTransformer2DModel:
        self.objective = MinSNR(predict, self.scheduler, self.cfg.snr_gamma, device)
        return build_model(self.cfg.model, len(self.garments.data.classes)).to(device)

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def is_hidden(name: str, p: nn.Parameter) -> bool:
            return p.ndim == 2 and (".attn1." in name or ".ff." in name)

        return muon_and_adam(self.cfg, model, is_hidden)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Images, stratified timesteps, noise and classes, as `MinSNR` takes them."""
        cfg, images = self.cfg, self.garments.images
        g, size = generator(cfg.seed, step), cfg.batch_size
        index = torch.randint(len(images), (size,), generator=g)
        x = flip_half(images[index], g)
        y = self.garments.labels[index]
        null = len(self.garments.data.classes)
        y = torch.where(torch.rand(size, generator=g) < cfg.label_dropout, null, y)
        t = times(size, g)
        return x, t, torch.randn(x.shape, generator=g), y

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        return self.objective(model, *batch).mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss with the true class and its mean rise with a wrong one, on held-out images."""
        garments = self.garments
        images, labels = garments.held_images, garments.held_labels
        return class_gap(self.objective, model, images, labels, lambda y: y)

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Nothing: the accuracy on the model's card comes from a separate run."""
        return {}

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder / "transformer")
        self.scheduler.save_pretrained(folder / "scheduler")


def build_model(cfg: DictConfig, classes: int) -> DiTTransformer2DModel:
    """A DiT on 32x32 one-channel images in 2x2 patches: 256 tokens, like DiT-XL/2 at 256 px."""
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
        # diffusers drops labels per block; guidance needs them dropped in the whole model at once
        embedding.class_embedder.dropout_prob = 0.0
        nn.init.normal_(embedding.class_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(embedding.timestep_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(embedding.timestep_embedder.linear_2.weight, std=0.02)
        nn.init.zeros_(block.norm1.linear.weight)  # adaLN-Zero (Peebles and Xie 2023)
    nn.init.zeros_(model.proj_out_1.weight)
    nn.init.zeros_(model.proj_out_2.weight)
    return model


def predict(model: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The noise in x [B, 1, 32, 32] at t [B] for classes y [B]."""
    found: Tensor = model(x, timestep=t, class_labels=y).sample
    return found

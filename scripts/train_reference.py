"""Train the embedded reference model: a class-conditional DiT in pixel space on Fashion-MNIST.

    python scripts/train_reference.py data=/path/to/fashion-mnist

Every step draws from a generator keyed by (seed, step), so a run that is killed and started again
with the same command sees the same batches as one that was not.
Settings: configs/train_reference.yaml.
"""

import csv
import json
import os
import time
from pathlib import Path
from typing import cast

import hydra
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from bigain.datasets.fashion_mnist import FashionMNIST
from bigain.errors import BiGainError


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan et al. 2024, "Muon").

    torch.optim.Muon iterates in bfloat16, which processors without native bfloat16 only emulate;
    this one iterates in float32. Steps are scaled by 0.2 * sqrt(max(rows, columns)), which gives
    them AdamW's usual size (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.sub_(update, alpha=group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonalise(g: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix of ``g`` [rows, columns], to about 0.3 in singular values."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


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


def build_optimizers(model: nn.Module, cfg: DictConfig) -> list[torch.optim.Optimizer]:
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        matrix = p.ndim == 2 and (".attn1." in name or ".ff." in name)
        (hidden if matrix else rest).append(p)
    return [
        Muon(hidden, lr=cfg.learning_rate),
        torch.optim.AdamW(rest, lr=cfg.adam_learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]


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


def draw_batch(cfg: DictConfig, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, ...]:
    """Batch of a step, keyed by (seed, step); t is stratified over 0..999."""
    g = torch.Generator().manual_seed((cfg.seed << 32) + step)
    b = cfg.batch_size
    index = torch.randint(len(images), (b,), generator=g)
    x = images[index]
    x = torch.where((torch.rand(b, generator=g) < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)
    y = labels[index]
    y = torch.where(torch.rand(b, generator=g) < cfg.label_dropout, int(labels.max()) + 1, y)
    strata = torch.randperm(b, generator=g) + torch.rand(b, generator=g)
    t = (strata / b * 1000).long().clamp_(max=999)  # rounding may reach 1000
    return x, t, torch.randn(x.shape, generator=g), y


@torch.no_grad()
def validate(model: nn.Module, objective: Objective, images: Tensor, labels: Tensor) -> list[float]:
    """Loss with the true class and mean rise with a wrong one, on the held-out images."""
    device = next(model.parameters()).device
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0, 999, len(images)).long()
    noise = torch.randn(images.shape, generator=g)
    wrong = (labels + torch.randint(1, 10, labels.shape, generator=g)) % 10
    losses = [
        torch.cat(
            [
                objective(model, *(v.to(device) for v in batch))
                for batch in zip(*(v.split(64) for v in (images, t, noise, y)), strict=True)
            ]
        )
        for y in (labels, wrong)
    ]
    return [losses[0].mean().item(), (losses[1] - losses[0]).mean().item()]


def rate(cfg: DictConfig, seen: int) -> float:
    """Learning-rate factor: linear warm-up, constant, linear fall to zero."""
    warmup = min(1.0, (seen + cfg.batch_size) / cfg.warmup_images)
    return min(warmup, (cfg.images - seen) / (cfg.decay_fraction * cfg.images))


def native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text()


def save_atomically(state: dict, path: Path) -> None:
    part = path.with_suffix(".tmp")
    torch.save(state, part)
    os.replace(part, path)


def draw_curve(log: Path, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(csv.DictReader(log.open()))
    seen = [int(r["images"]) / 1000 for r in rows]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    axes[0].plot(seen, [float(r["train_loss"]) for r in rows], label="train", color="#0072B2")
    axes[0].plot(seen, [float(r["val_loss"]) for r in rows], label="held out, EMA", color="#D55E00")
    axes[0].set(xlabel="images seen (thousand)", ylabel="Min-SNR weighted loss", yscale="log")
    axes[0].legend(frameon=False)
    axes[1].plot(seen, [float(r["class_gap"]) * 1e4 for r in rows], color="#009E73")
    axes[1].set(xlabel="images seen (thousand)", ylabel="rise with a wrong class (1e-4)")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=150)


def export(
    cfg: DictConfig, model: DiTTransformer2DModel, scheduler: DDIMScheduler, facts: dict
) -> None:
    out = Path(cfg.output)
    model.save_pretrained(out / "transformer")
    scheduler.save_pretrained(out / "scheduler")
    draw_curve(Path(cfg.checkpoints) / "log.csv", out / "loss.png")
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


@hydra.main(version_base=None, config_path="../configs", config_name="train_reference")
def main(cfg: DictConfig) -> None:
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    )
    bf16 = native_bf16(device) if cfg.precision == "auto" else cfg.precision == "bf16"
    data = FashionMNIST(cfg.data, split="train")
    images, labels = data.tensors()
    images, held_images = images[: -cfg.held_out], images[-cfg.held_out :]
    labels, held_labels = labels[: -cfg.held_out], labels[-cfg.held_out :]

    torch.manual_seed(cfg.seed)
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", clip_sample=True
    )
    model = build_model(cfg.model, len(data.classes)).to(device)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(cfg.ema_decay))
    optimizers = build_optimizers(model, cfg)
    objective = Objective(scheduler, cfg.snr_gamma, device)

    folder = Path(cfg.checkpoints)
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest.pt"
    step, seconds = 0, 0.0
    if latest.exists():
        state = torch.load(latest, map_location=device, weights_only=True)
        if state["model_config"] != OmegaConf.to_container(cfg.model):
            raise BiGainError(
                f"{latest} holds another model ({state['model_config']}); "
                "remove the folder or set checkpoints=..."
            )
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, seconds = state["step"], state["seconds"]

    log = folder / "log.csv"
    if not log.exists():
        log.write_text("step,images,seconds,train_loss,val_loss,class_gap\n")
    steps = cfg.images // cfg.batch_size
    bar = tqdm(total=cfg.images, initial=step * cfg.batch_size, unit="img", smoothing=0.05)
    started, running = time.monotonic() - seconds, []
    while step < steps:
        factor = rate(cfg, step * cfg.batch_size)
        for optimizer, base in zip(
            optimizers, (cfg.learning_rate, cfg.adam_learning_rate), strict=True
        ):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        batch = [v.to(device, non_blocking=True) for v in draw_batch(cfg, images, labels, step)]
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = objective(model, *batch).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(model)
        running.append(loss.detach())
        step += 1
        bar.update(cfg.batch_size)
        if step % cfg.log_every == 0 or step == steps:
            ema.eval()
            train_loss = torch.stack(running).mean().item()
            val_loss, gap = validate(ema.module, objective, held_images, held_labels)
            running = []
            row = [step, step * cfg.batch_size, f"{time.monotonic() - started:.0f}"]
            with log.open("a") as f:
                csv.writer(f).writerow([*row, *(f"{v:.6f}" for v in (train_loss, val_loss, gap))])
            bar.set_postfix(train=f"{train_loss:.4f}", val=f"{val_loss:.4f}", gap=f"{gap:.2e}")
        if step % cfg.save_every == 0 or step == steps:
            state = {
                "model_config": OmegaConf.to_container(cfg.model),
                "model": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
                "seconds": time.monotonic() - started,
            }
            save_atomically(state, latest)
    bar.close()

    rows = list(csv.DictReader(log.open()))
    settings = cast(dict, OmegaConf.to_container(cfg))
    facts = {
        "config": {k: v for k, v in settings.items() if k not in ("data", "output", "checkpoints")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": step,
        "images": step * cfg.batch_size,
        "hours": round((time.monotonic() - started) / 3600, 2),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if bf16 else "fp32",
        "torch": torch.__version__,
        "train_loss": float(rows[-1]["train_loss"]),
        "val_loss": float(rows[-1]["val_loss"]),
    }
    export(cfg, cast(DiTTransformer2DModel, ema.module).float(), scheduler, facts)


if __name__ == "__main__":
    main()

"""Noise prediction, shared by the recipes of the diffusion models."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


class Objective:
    """Min-SNR weighted noise-prediction loss (Hang et al. 2023, arXiv 2303.09556).

    Args:
        predict: maps (model, noisy x, t, condition) to the predicted noise, of x's shape.
        scheduler: a diffusers scheduler, for its ``alphas_cumprod``.
        gamma: the largest weight, counted as the weight of a loss on x_0.
    """

    def __init__(
        self, predict: Predict, scheduler: Any, gamma: float, device: torch.device
    ) -> None:
        self.predict = predict
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.to(device)
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        self.weight = snr.clamp(max=gamma) / snr

    def __call__(self, model: nn.Module, x: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        """Weighted loss of each sample, [B]; x and noise [B, c, h, w], t int64 [B], y [B, ...]."""
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        predicted = self.predict(model, a.sqrt() * x + (1 - a).sqrt() * noise, t, y)
        return self.weight[t] * (predicted.float() - noise).square().mean((1, 2, 3))


def times(size: int, g: torch.Generator) -> Tensor:
    """Timesteps stratified over 0..999 in random order, int64 [size]."""
    strata = torch.randperm(size, generator=g) + torch.rand(size, generator=g)
    return (strata / size * 1000).long().clamp_(max=999)  # rounding may reach 1000


def class_gap(
    objective: Objective,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    condition: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """The loss with the true class, and its mean rise with a wrong one.

    Args:
        x: clean images or latents, [N, c, h, w].
        labels: int64 [N] in 0..9.
        condition: maps labels [N] to the model's condition [N, ...].
    """
    device = next(model.parameters()).device
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0, 999, len(x)).long()
    noise = torch.randn(x.shape, generator=g)
    wrong = (labels + torch.randint(1, 10, labels.shape, generator=g)) % 10
    right, misled = [
        torch.cat(
            [
                objective(model, *(v.to(device) for v in batch))
                for batch in zip(*(v.split(64) for v in (x, t, noise, condition(y))), strict=True)
            ]
        )
        for y in (labels, wrong)
    ]
    return {"val_loss": right.mean().item(), "class_gap": (misled - right).mean().item()}

"""Objectives of the diffusion models, shared by their recipes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
# of (model, x, t, noise, y): x and noise [B, c, h, w], t int64 [B], y [B, ...]; the losses are [B]
Objective = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]


class MinSNR:
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
        """Weighted loss of each sample, [B]; see `Objective`."""
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        predicted = self.predict(model, a.sqrt() * x + (1 - a).sqrt() * noise, t, y)
        return self.weight[t] * (predicted.float() - noise).square().mean((1, 2, 3))


class FlowMatching:
    """Velocity prediction on straight paths (Liu et al. 2022, arXiv 2209.03003).

    Args:
        predict: maps (model, noisy x, t, condition) to the predicted velocity, noise - x, of x's
            shape; its t is 1000 times the noise level, float32.
    """

    def __init__(self, predict: Predict) -> None:
        self.predict = predict

    def __call__(self, model: nn.Module, x: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        """Loss of each sample, [B]; see `Objective`. The noise level is (t + 1) / 1000."""
        scaled = t.float() + 1
        sigma = (scaled / 1000).view(-1, 1, 1, 1)
        predicted = self.predict(model, (1 - sigma) * x + sigma * noise, scaled, y)
        return (predicted.float() - (noise - x)).square().mean((1, 2, 3))


def times(size: int, g: torch.Generator) -> Tensor:
    """Timesteps stratified over 0..999 in random order, int64 [size]."""
    return _timesteps(_strata(size, g))


def logit_normal_times(size: int, g: torch.Generator) -> Tensor:
    """Timesteps stratified over a logit-normal density, int64 [size] in 0..999.

    It is the best that Esser et al. 2024 (arXiv 2403.03206, section 3.1) found for flow matching.
    """
    return _timesteps(torch.special.ndtri(_strata(size, g)).sigmoid())


def _strata(size: int, g: torch.Generator) -> Tensor:
    return (torch.randperm(size, generator=g) + torch.rand(size, generator=g)) / size


def _timesteps(share: Tensor) -> Tensor:
    return (share * 1000).long().clamp_(max=999)  # rounding may reach 1000


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

"""Muon (Jordan et al. 2024) in float32."""

from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan et al. 2024, "Muon").

    torch.optim.Muon iterates in bfloat16, which processors without native bfloat16 only emulate,
    and accepts only matrices. This one iterates in float32 and treats a convolution's kernel as the
    matrix [out, in * height * width]. Steps are scaled by 0.2 * sqrt(max(rows, columns)), which
    gives them AdamW's usual size (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]).flatten(1))
                scale = 0.2 * max(update.shape) ** 0.5
                p.sub_(update.reshape(p.shape), alpha=group["lr"] * scale)


def orthogonalise(g: Tensor) -> Tensor:
    """The semi-orthogonal matrix nearest to ``g`` [rows, columns].

    The iteration is approximate: singular values come within about 0.3 of 1.
    """
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def muon_and_adam(
    cfg: DictConfig, model: nn.Module, is_hidden: Callable[[str, nn.Parameter], bool]
) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices and kernels, AdamW for everything else.

    Args:
        cfg: the settings of the reference model, for both learning rates.
        is_hidden: whether a parameter is such a matrix or kernel, by its name and itself.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (hidden if is_hidden(name, p) else rest).append(p)
    adam = torch.optim.AdamW(rest, lr=cfg.adam_learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    return [Muon(hidden, lr=cfg.learning_rate), adam]

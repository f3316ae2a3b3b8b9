"""What the training loop needs of a reference model."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bigain.training.curves import Panel


class Recipe(Protocol):
    """A reference model and how it is trained; each has a file of its own.

    Attributes:
        loss_name: name of the loss, for the figure.
        panel: what the figure shows beside the loss.
    """

    loss_name: str
    panel: Panel

    def identity(self) -> dict[str, Any]:
        """What identifies the training data, never by a path."""

    def build(self, device: torch.device) -> nn.Module:
        """The model, initialised from torch's generator."""

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """The optimizers at their full learning rates, which the loop scales."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The batch of a step, on the CPU; it depends only on the seed and the step."""

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """``val_loss`` and other measures of the averaged model on the held-out images."""

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """The finished model's scores, for training.json."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the finished model's files."""

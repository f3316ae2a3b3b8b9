"""What the loop needs of a reference model."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bigain.training.curves import Panel


class Recipe(Protocol):
    """A reference model and how it learns; one file each.

    Attributes:
        loss_name: of the loss, for the figure.
        panel: what the figure shows beside the loss.
    """

    loss_name: str
    panel: Panel

    def identity(self) -> dict[str, Any]:
        """What names the training data; never a path."""

    def build(self, device: torch.device) -> nn.Module:
        """The model, initialised from torch's generator."""

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Each at its full rate, which the loop scales."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """A step's batch on the CPU, a function of seed and step alone."""

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """``val_loss`` and more, of the averaged model on the images held out."""

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """What the finished model is to be known by, for training.json."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the finished model's files."""

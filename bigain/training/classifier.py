"""The Fashion-MNIST classifier whose features score generated images."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from bigain.datasets.fashion_mnist import FashionMNIST
from bigain.errors import BiGainError
from bigain.features.fashion import CONFIG, WEIGHTS, GarmentNet
from bigain.metrics.accuracy import top1
from bigain.training.curves import Panel
from bigain.training.draws import EPOCHS, Garments, flip_half, generator, shift
from bigain.training.muon import muon_and_adam


class Classifier:
    """`GarmentNet` trained by cross-entropy on flipped and shifted images, each once per epoch."""

    loss_name = "cross-entropy"
    panel = Panel("val_accuracy", "held-out accuracy (%)", 100)

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.garments = Garments(cfg.data, cfg.held_out)
        if not 1 <= cfg.batch_size <= len(self.garments.images):
            raise BiGainError(
                f"batch_size must lie in 1..{len(self.garments.images)}, the images of an epoch; "
                f"got {cfg.batch_size}"
            )
        # opened now, so that a missing file is reported before the training and not after it
        self.test = FashionMNIST(cfg.data, split="test")

    def identity(self) -> dict[str, Any]:
        return self.garments.data.identity()

    def build(self, device: torch.device) -> GarmentNet:
        model = GarmentNet(**self.cfg.model, classes=len(self.test.classes))
        # twice as fast on a CPU
        return model.to(device).to(memory_format=torch.channels_last)

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return muon_and_adam(self.cfg, model, lambda _, p: p.ndim == 4)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Images [B, 1, 32, 32] and labels [B]."""
        size, images = self.cfg.batch_size, self.garments.images
        epoch, place = divmod(step, len(images) // size)
        order = torch.randperm(len(images), generator=generator(self.cfg.seed, EPOCHS + epoch))
        index = order[place * size : (place + 1) * size]
        g = generator(self.cfg.seed, step)
        x = shift(flip_half(images[index], g), self.cfg.max_shift, g)
        return x, self.garments.labels[index]

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x.contiguous(memory_format=torch.channels_last))[2]
        return F.cross_entropy(logits.float(), y)

    def validate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.garments.held_images, self.garments.held_labels
        device = next(model.parameters()).device
        logits = model(x.to(device))[2].float().cpu()
        accuracy = (logits.argmax(1) == y).float().mean().item()
        return {"val_loss": F.cross_entropy(logits, y).item(), "val_accuracy": accuracy}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Accuracy on the test split, which nothing else uses."""
        device = next(model.parameters()).device
        x, y = self.test.tensors()
        found = torch.cat([model(part.to(device))[2].argmax(1).cpu() for part in x.split(500)])
        return {"test_accuracy": asdict(top1((found == y).numpy()))}

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, GarmentNet)
        (folder / CONFIG).write_text(json.dumps(model.config, indent=1) + "\n")
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(weights, folder / WEIGHTS)

"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193), the network of FD-DINOv2."""

from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, to_tensor
from transformers import Dinov2Model

from bigain.errors import BiGainError
from bigain.features import pretrained
from bigain.features.base import Features, as_rgb
from bigain.utils import model_folders

SIZE = 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's


class DinoV2:
    """The class token after the last layer norm (Stein et al. 2023, arXiv 2306.04675).

    Images are resized as in their code, dgm-eval: both sides to 224 with PIL's bicubic filter, in
    8 bits. The network is transformers' port, which interpolates position embeddings without the
    original's offset of 0.1, so distances differ slightly from dgm-eval's. It has only pooled
    features, [N, 1024] for ViT-L/14.

    Args:
        path: a hub id, or a folder as written by save_pretrained; nothing is loaded yet.
    """

    name = "dinov2"

    def __init__(self, path: str = "facebook/dinov2-large") -> None:
        self.path = path

    def identity(self) -> dict[str, Any]:
        """The name, the network's config and its weights' SHA-256; missing files are fetched.

        Raises:
            BiGainError: if the files cannot be obtained.
        """
        return {"name": self.name, **self._digest}

    def load(self, device: torch.device) -> Self:
        """Load the weights and return the network itself.

        Raises:
            BiGainError: if they cannot be obtained, or belong to a different network.
        """
        kind = model_folders.config(self._folder / "config.json").get("model_type")
        if kind != "dinov2":
            raise BiGainError(f"{self._folder} holds a {kind} model; features.path needs a dinov2")
        network: nn.Module = Dinov2Model.from_pretrained(self._folder)
        self.network = network.to(device, torch.float32).eval().requires_grad_(False)
        self.device = device
        return self

    def prepare(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 1 or 3] to float32 [3, 224, 224], normalised by ImageNet's statistics."""
        resized = Image.fromarray(as_rgb(image)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return normalize(to_tensor(resized), MEAN, STD)

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Features:
        """The features of prepared images [B, 3, 224, 224]."""
        return Features(self.network(batch.to(self.device)).pooler_output.float().cpu())

    @cached_property
    def _folder(self) -> Path:
        return pretrained.folder(self.path, "features.path")

    @cached_property
    def _digest(self) -> dict[str, Any]:
        return model_folders.digest(self._folder)

"""CLIP score: how well an image matches its prompt (Hessel et al. 2021, arXiv 2104.08718)."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm
from transformers import CLIPModel, CLIPProcessor

from bigain.errors import BiGainError
from bigain.features import pretrained
from bigain.features.base import as_rgb, batches
from bigain.utils import model_folders


class ClipScore:
    """100 * max(cos, 0) of the embeddings of an image and its prompt, scaled as in torchmetrics.

    Args:
        path: a hub id such as "openai/clip-vit-large-patch14", or a folder as written by
            save_pretrained that includes the processor; nothing is loaded yet.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def identity(self) -> dict[str, Any]:
        """The network's config and its weights' SHA-256; missing files are fetched.

        Raises:
            BiGainError: if the files cannot be obtained.
        """
        return self._digest

    def load(self, device: torch.device) -> Self:
        """Load the weights and return the network itself.

        Raises:
            BiGainError: if they cannot be obtained, or belong to a different network.
        """
        kind = model_folders.config(self._folder / "config.json").get("model_type")
        if kind != "clip":
            raise BiGainError(f"{self._folder} holds a {kind} model; evaluation.clip needs a clip")
        network: nn.Module = CLIPModel.from_pretrained(self._folder)
        self.network = network.to(device, torch.float32).eval().requires_grad_(False)
        self.processor = CLIPProcessor.from_pretrained(self._folder)
        self.device = device
        return self

    @torch.inference_mode()
    def scores(
        self, images: Iterable[np.ndarray], prompts: Sequence[str], batch_size: int
    ) -> np.ndarray:
        """One score per image, float64 [N] in [0, 100].

        Args:
            images: N images, uint8 [H, W, 1 or 3] each.
            prompts: one per image, truncated to the text model's length.
        """
        parts = []
        pairs = zip(batches(prompts, batch_size), batches(images, batch_size), strict=True)
        with tqdm(total=len(prompts), unit="img", desc="CLIP score", disable=None) as bar:
            for texts, batch in pairs:
                pictures = [Image.fromarray(as_rgb(image)) for image in batch]
                inputs = self.processor(
                    text=texts, images=pictures, return_tensors="pt", padding=True, truncation=True
                )
                found = self.network(**inputs.to(self.device))
                cosine = (found.image_embeds * found.text_embeds).sum(-1)
                parts.append(100 * cosine.clamp(min=0).double().cpu())
                bar.update(len(texts))
        return torch.cat(parts).numpy()

    @cached_property
    def _folder(self) -> Path:
        return pretrained.folder(self.path, "evaluation.clip")

    @cached_property
    def _digest(self) -> dict[str, Any]:
        return model_folders.digest(self._folder)

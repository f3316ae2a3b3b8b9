"""The Inception-v3 of 2015, the network of FID (Heusel et al. 2017), loaded by clean-fid.

The same weights come in two forms: NVIDIA's TorchScript file and pytorch-fid's state dict.
"""

import warnings
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self
from unittest.mock import patch

import cleanfid.inception_pytorch
import numpy as np
import torch
from cleanfid.downloads_helper import inception_url
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn

from bigain.errors import BiGainError, reason_of
from bigain.features.base import Features, as_rgb
from bigain.utils.hash_cache import sha256

URLS = {"clean": inception_url, "legacy_pytorch": cleanfid.inception_pytorch.FID_WEIGHTS_URL}
SPATIAL = 7  # number of channels to use of the 17x17 map


class Inception:
    """Features in one of clean-fid's modes (Parmar, Zhang and Zhu 2022, arXiv 2104.11222).

    "clean" resizes to 299x299 with PIL's bicubic filter in float; "legacy_pytorch" resizes
    bilinearly without antialiasing, as pytorch-fid did. Pooled features are [N, 2048]. Spatial
    features are the first 7 channels of mixed_6/conv after its ReLU, [N, 7 * 17 * 17] (sFID, Nash
    et al. 2021; the choice of ADM's evaluator). Logits are [N, 1008] without bias, as in the
    Inception Score.

    Args:
        mode: "clean" or "legacy_pytorch".
        path: the file with the weights or its folder; None downloads them once.

    Raises:
        BiGainError: if the mode is unknown.
    """

    def __init__(self, mode: str = "clean", path: str | None = None) -> None:
        if mode not in URLS:
            raise BiGainError(f"features.mode must be one of {', '.join(URLS)}; got {mode}")
        self.mode, self.path = mode, path
        self.name = f"inception-{mode}"
        with warnings.catch_warnings():  # clean-fid silences all warnings of the process
            self._resize = build_resizer(mode)

    def identity(self) -> dict[str, Any]:
        """The name, which says how images are resized, and the weights' SHA-256."""
        return {"name": self.name, "weights": self._sha256}

    def load(self, device: torch.device) -> Self:
        """Load the weights, after a download if necessary, and return the network itself.

        Raises:
            BiGainError: if they cannot be obtained, or belong to a different network.
        """
        build = _TorchScript if self.mode == "clean" else _StateDict
        try:
            self.network = build(self._weights).to(device).eval().requires_grad_(False)
        except (RuntimeError, AttributeError, LookupError, EOFError, UnpicklingError) as error:
            reason = reason_of(error)
            raise BiGainError(
                f"{self._weights} holds no weights for {self.name} ({reason}); remove it and get "
                f"{URLS[self.mode]} again"
            ) from error
        self.device = device
        return self

    def prepare(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 1 or 3] to float32 [3, 299, 299] in [0, 255]."""
        return torch.from_numpy(self._resize(as_rgb(image)).transpose(2, 0, 1).copy())

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Features:
        """The features of prepared images [B, 3, 299, 299]."""
        return Features(*(part.float().cpu() for part in self.network(batch.to(self.device))))

    @cached_property
    def _weights(self) -> Path:
        """The file with the weights, downloaded if no path was given and it is not there yet."""
        url = URLS[self.mode]
        name = url.rpartition("/")[2]
        if self.path is not None:
            given = Path(self.path)
            file = given if given.name == name else given / name
            if not file.is_file():
                raise BiGainError(
                    f"{file} not found; get {url} and name it or its folder with features.path=..."
                )
            return file
        file = Path(torch.hub.get_dir()) / "checkpoints" / name
        if not file.is_file():
            _download(url, file)
        return file

    @cached_property
    def _sha256(self) -> str:
        return sha256(self._weights)


class _TorchScript(nn.Module):
    """NVIDIA's file as read by clean-fid: images in [0, 255] to pooled, spatial and logits."""

    head: Tensor

    def __init__(self, file: Path) -> None:
        super().__init__()
        whole = InceptionV3W(str(file.parent), download=False)
        self.layers = nn.ModuleDict(dict(whole.layers.named_children()))
        self.spatial = whole.layers.mixed_6.conv
        self.register_buffer("head", whole.base.output.weight.detach())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (x - 128) / 128
        for name, layer in self.layers.items():
            if name == "mixed_6":
                spatial = self.spatial(x)[:, :SPATIAL].flatten(1)
            x = layer(x)
        pooled = x.flatten(1)
        return pooled, spatial, pooled @ self.head.T


class _StateDict(nn.Module):
    """pytorch-fid's file in clean-fid's network, with the same inputs and outputs."""

    head: Tensor

    def __init__(self, file: Path) -> None:
        super().__init__()
        state = torch.load(file, map_location="cpu", weights_only=True)
        module = cleanfid.inception_pytorch
        with patch.object(module, "load_state_dict_from_url", return_value=state):  # takes no path
            self.network = module.InceptionV3(output_blocks=[2, 3], resize_input=False)
        self.register_buffer("head", state["fc.weight"])
        self.network.blocks[2][6].branch1x1.register_forward_hook(self._keep)  # Mixed_6d

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.spatial = output[:, :SPATIAL].flatten(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = self.network(x / 255)[-1].flatten(1)
        return pooled, self.spatial, pooled @ self.head.T


def _download(url: str, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file))
    except OSError as error:
        raise BiGainError(
            f"{file} is missing and cannot be downloaded ({error}); get {url} by hand and name it "
            "or its folder with features.path=..."
        ) from error

"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747), padded to 32x32."""

import gzip
import hashlib
import math
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.datasets.base import Example
from bigain.errors import BiGainError

CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
PROMPTS = [
    "a photo of a t-shirt.",
    "a photo of trousers.",
    "a photo of a pullover.",
    "a photo of a dress.",
    "a photo of a coat.",
    "a photo of a sandal.",
    "a photo of a shirt.",
    "a photo of a sneaker.",
    "a photo of a bag.",
    "a photo of an ankle boot.",
]
CLASS_IDS = list(range(len(CLASSES)))
SIZE = 32  # side in pixels of the images that the models take
STEMS = {"train": "train", "test": "t10k"}
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049


class FashionMNIST:
    """One-channel garments, [1, 32, 32]: 28x28 pixels with a black border of two pixels.

    Args:
        root: a folder with the idx files, gzipped or not, or torchvision's folder above them.
        split: "train" (60,000 images) or "test" (10,000).

    Raises:
        BiGainError: if a file is missing or damaged.
    """

    classes = CLASSES
    prompts = PROMPTS
    class_ids = CLASS_IDS
    known_classes = len(CLASSES)
    name = "fashion_mnist"
    side = 28  # side in pixels of the images in the files
    mend = (
        "run python scripts/prepare_fashion_mnist.py and set dataset.root to the folder it prints"
    )

    def __init__(self, root: str, split: str = "test") -> None:
        if split not in STEMS:
            raise BiGainError(f"dataset.split must be train or test, got {split!r}")
        self.split = split
        images = _find(Path(root), f"{STEMS[split]}-images-idx3-ubyte", self.mend)
        labels = _find(Path(root), f"{STEMS[split]}-labels-idx1-ubyte", self.mend)
        self._images, self._digest = _content(images, IMAGES_MAGIC, 3)
        self._labels, _ = _content(labels, LABELS_MAGIC, 1)
        if self._images.shape[1:] != (self.side, self.side):
            raise BiGainError(
                f"{images} holds images of {self._images.shape[1:]}, not {self.side}x{self.side}; "
                f"{self.mend}"
            )
        if len(self._images) != len(self._labels):
            raise BiGainError(
                f"{images} holds {len(self._images)} images, but {labels} {len(self._labels)} "
                "labels; copy both from the same source"
            )
        if self._labels.max(initial=0) >= len(CLASSES):
            raise BiGainError(f"{labels} holds the label {self._labels.max()}; at most 9 is valid")

    def __len__(self) -> int:
        return len(self._labels)

    def ids(self) -> list[str]:
        return [f"{self.split}-{i:05d}" for i in range(len(self))]

    def __getitem__(self, index: int) -> Example:
        image = _pad(torch.from_numpy(self._images[index : index + 1]))[0]
        return Example(f"{self.split}-{index:05d}", image, self.labels(index))

    def labels(self, index: int) -> tuple[int, ...]:
        return (int(self._labels[index]),)

    def prompt(self, index: int) -> str:
        return PROMPTS[self._labels[index]]

    def listing(self) -> list[str] | None:
        return None

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images, float32 [N, 1, 32, 32] in [-1, 1], and labels, int64 [N]."""
        return _pad(torch.from_numpy(self._images)), torch.from_numpy(self._labels).long()

    def identity(self) -> dict[str, Any]:
        digest = self._digest.copy()
        digest.update(self._labels.tobytes())
        return {"name": self.name, "split": self.split, "sha256": digest.hexdigest()}


def _pad(images: Tensor) -> Tensor:
    """uint8 [N, side, side] to float32 [N, 1, 32, 32] in [-1, 1], with a black border."""
    border = (SIZE - images.shape[-1]) // 2
    return F.pad(images.unsqueeze(1).float() / 127.5 - 1, (border,) * 4, value=-1.0)


def _find(root: Path, name: str, mend: str) -> Path:
    folders = (root, root / "FashionMNIST" / "raw")  # the second is where torchvision puts them
    # gzip first: its checksum finds damage that an unpacked file hides
    for path in (folder / (name + end) for folder in folders for end in (".gz", "")):
        if path.is_file():
            return path
    raise BiGainError(f"{name}[.gz] is neither in {folders[0]} nor in {folders[1]}; {mend}")


def _content(path: Path, magic: int, dimensions: int) -> tuple[np.ndarray, Any]:
    """An idx file as a uint8 array, with its SHA-256; read again only when the file changes."""
    try:
        stat = path.stat()
    except OSError as error:
        raise BiGainError(f"{path} cannot be read ({error}); copy it again") from error
    return _read(path, magic, dimensions, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(
    path: Path, magic: int, dimensions: int, size: int, modified: int
) -> tuple[np.ndarray, Any]:
    """An idx file as a uint8 array (format: http://yann.lecun.com/exdb/mnist), and its SHA-256."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BiGainError(f"{path} cannot be read ({error}); copy it again") from error
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise BiGainError(f"{path} is truncated: {len(data)} bytes, no header; copy it again")
    found, *shape = (int(n) for n in np.frombuffer(data[:start], ">u4"))
    if found != magic:
        raise BiGainError(f"{path} starts with the number {found}, not {magic}; copy it again")
    body = np.frombuffer(data, np.uint8, offset=start)
    if len(body) != math.prod(shape):
        raise BiGainError(
            f"{path} holds {len(body)} bytes where its header says {math.prod(shape)}; "
            "copy it again"
        )
    return body.reshape(shape).copy(), hashlib.sha256(body.tobytes())

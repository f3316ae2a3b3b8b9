"""What the data sets of image files share: preprocessing, order and identity."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import transforms

from bigain.datasets.base import Example
from bigain.errors import BiGainError
from bigain.utils.images import SUFFIXES


@dataclass(frozen=True)
class ImageFile:
    """One image on disk.

    Attributes:
        id: as in `Example`.
        path: below the data set's folder, with forward slashes.
        labels: as in `Example`.
        caption: what to draw in its place; None where its class's prompt says it.
    """

    id: str
    path: str
    labels: tuple[int, ...]
    caption: str | None = None


class ImageFiles:
    """Labelled image files, float32 [3, size, size] in [-1, 1]; safe to read from many threads.

    The preprocessing is the diffusion classifier's (Li et al. 2023, arXiv 2303.16203) to the pixel:
    RGB as PIL converts it (transparency goes), the short side to ``size`` by PIL's antialiased
    bicubic filter, centre crop. EXIF orientation is ignored, as there.

    The order is that of the SHA-256 of the ids: fixed, and without regard to class, so that the
    first so many images are a fair sample.

    Args:
        name: of the data set.
        split: of the data set.
        size: pixels of a side.
        folder: where the files lie.
        files: in any order.
        classes: names, in the order of the labels.
        prompts: one a class.
        class_ids: as in `Dataset`, of ImageNet's 1,000 classes.

    Raises:
        BiGainError: if there are no files, two of the same id, or ``size`` is not positive.
    """

    def __init__(
        self,
        name: str,
        split: str,
        size: int,
        folder: Path,
        files: Iterable[ImageFile],
        classes: list[str],
        prompts: list[str],
        class_ids: list[int] | None = None,
    ) -> None:
        if not isinstance(size, int) or size < 1:
            raise BiGainError(f"dataset.size must be a number of pixels from 1 up, got {size!r}")
        self.name, self.split, self.size, self.folder = name, split, size, folder
        self.classes, self.prompts, self.class_ids = classes, prompts, class_ids
        self.known_classes = None if class_ids is None else 1000
        self.files = sorted(files, key=lambda file: rank(file.id))
        if not self.files:
            raise BiGainError(f"{folder} holds no image of {name}'s split {split}; copy it again")
        for one, other in zip(self.files, self.files[1:], strict=False):
            if one.id == other.id:
                raise BiGainError(
                    f"{one.path} and {other.path} in {folder} are both the image {one.id}; "
                    "remove one"
                )
        self._preprocess = preprocessing(size)

    def __len__(self) -> int:
        return len(self.files)

    def ids(self) -> list[str]:
        return [file.id for file in self.files]

    def __getitem__(self, index: int) -> Example:
        file = self.files[index]
        return Example(file.id, self._preprocess(decode(self.folder / file.path)), file.labels)

    def labels(self, index: int) -> tuple[int, ...]:
        return self.files[index].labels

    def prompt(self, index: int) -> str:
        file = self.files[index]
        return self.prompts[file.labels[0]] if file.caption is None else file.caption

    def listing(self) -> list[str] | None:
        """The files below ``folder`` in order, where a part of the split was chosen; else None."""
        return None

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "split": self.split, "size": self.size, "sha256": self._sha256}

    @cached_property
    def _sha256(self) -> str:
        """Of classes and prompts, and of every image's id, labels, prompt and bytes on disk.

        Contents are not read: for ImageNet that would take minutes before each run. A file
        replaced by another of the same number of bytes goes unnoticed.
        """
        digest = hashlib.sha256(json.dumps([self.classes, self.prompts]).encode())
        for index in sorted(range(len(self)), key=lambda i: self.files[i].id):
            file = self.files[index]
            n = (self.folder / file.path).stat().st_size
            digest.update(json.dumps([file.id, n, file.labels, self.prompt(index)]).encode())
        return digest.hexdigest()


def rank(text: str) -> bytes:
    """A sort key that has nothing to do with what the text says, the same everywhere: SHA-256."""
    return hashlib.sha256(text.encode()).digest()


def preprocessing(size: int) -> transforms.Compose:
    """From an RGB image to float32 [3, size, size] in [-1, 1]."""
    return transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )


def decode(path: Path) -> Image.Image:
    """An image file as 8-bit RGB.

    Raises:
        BiGainError: if it cannot be decoded, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] not in "IF":
                return image.convert("RGB")
            mode = image.mode
    except Exception as error:  # decoders raise of all kinds at damaged data
        reason = " ".join(str(error).split())
        raise BiGainError(
            f"{path} cannot be decoded ({reason}); copy it again from the data set's source"
        ) from error
    raise BiGainError(f"{path} has more than 8 bits a channel ({mode}); convert it to 8 bits")


def image_names(folder: Path) -> list[str]:
    """The names of the PNG, JPEG and WebP files right in a folder, sorted; no dot files."""
    names = (e.name for e in os.scandir(folder) if not e.name.startswith("."))
    return sorted(name for name in names if name.lower().endswith(SUFFIXES))


def check_there(folder: Path, files: Sequence[ImageFile], mend: str) -> None:
    """Refuse a folder that lacks some of these files.

    Raises:
        BiGainError: naming the first of them, and what to do: ``mend``.
    """
    there: dict[Path, set[str]] = {}
    missing = []
    for path in (folder / file.path for file in files):
        if path.parent not in there:
            found = path.parent.is_dir()
            there[path.parent] = set(os.listdir(path.parent)) if found else set()
        if path.name not in there[path.parent]:
            missing.append(path)
    if missing:
        raise BiGainError(
            f"{len(missing)} of {len(files)} images are not there, the first {missing[0]}; {mend}"
        )

"""What data sets of image files have in common: preprocessing, order and identity."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import transforms

from bigain.datasets.base import Example
from bigain.errors import BiGainError, one_line
from bigain.utils import hash_cache
from bigain.utils.images import SUFFIXES, converted, too_large

THIN = 64  # times longer than wide, from which only an image's centre is resized
HUGE = 2**26  # pixels, 8192x8192: from there on, JPEGs are decoded at a reduced size


@dataclass(frozen=True)
class ImageFile:
    """One image on disk.

    Attributes:
        id: as in `Example`.
        path: path below the data set's folder, with forward slashes.
        labels: as in `Example`.
        caption: the text to generate from in its place, or None to use its class's prompt.
    """

    id: str
    path: str
    labels: tuple[int, ...]
    caption: str | None = None


class ImageFiles:
    """Labelled image files, float32 [3, size, size] in [-1, 1]; safe to read from many threads.

    The preprocessing matches that of the diffusion classifier (Li et al. 2023, arXiv 2303.16203) to
    the pixel: PIL converts the image to RGB (which drops transparency), its antialiased bicubic
    filter resizes the shorter side to ``size``, and the centre is cropped. As in their code, EXIF
    orientation is ignored. Images of more than `HUGE` pixels or more than `THIN` times longer than
    wide are prepared with less memory, which changes pixels by rounding, or of huge ones by the
    filter that shrinks them first.

    Images are in the order of the SHA-256 of their ids. This order is fixed and independent of
    classes, so the first N images are a fair sample for any N.

    Args:
        name: name of the data set.
        split: split of the data set.
        size: side of the images in pixels.
        folder: the folder with the files.
        files: the files, in any order.
        classes: the names of the classes, in the order of the labels.
        prompts: one per class.
        class_ids: as in `Dataset`, among ImageNet's 1,000 classes.

    Raises:
        BiGainError: if there are no files, two have the same id, or ``size`` is not positive.
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
            raise BiGainError(f"dataset.size must be a positive number of pixels, got {size!r}")
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
        return Example(file.id, self._preprocess(self.picture(file)), file.labels)

    def picture(self, file: ImageFile) -> Image.Image:
        """One of ``files`` as 8-bit RGB, before it is resized.

        Raises:
            BiGainError: as `decode` does.
        """
        return decode(self.folder / file.path, self.size)

    def content(self, file: ImageFile) -> str:
        """The SHA-256 of one of ``files``.

        Raises:
            BiGainError: if it cannot be read.
        """
        path = self.folder / file.path
        try:
            return hash_cache.sha256(path)
        except OSError as error:
            raise BiGainError(f"{path} cannot be read ({error.strerror}); copy it again") from error

    def labels(self, index: int) -> tuple[int, ...]:
        return self.files[index].labels

    def prompt(self, index: int) -> str:
        file = self.files[index]
        return self.prompts[file.labels[0]] if file.caption is None else file.caption

    def listing(self) -> list[str] | None:
        """The files below ``folder`` in order if only part of the split was chosen; else None."""
        return None

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "split": self.split, "size": self.size, "sha256": self._sha256}

    @cached_property
    def _sha256(self) -> str:
        """The SHA-256 of classes and prompts, and of each image's id, content, labels and prompt.

        Contents are read once per machine, as `hash_cache` keeps their hashes.

        Raises:
            BiGainError: if a file cannot be read.
        """
        digest = hashlib.sha256(json.dumps([self.classes, self.prompts]).encode())
        for index in sorted(range(len(self)), key=lambda i: self.files[i].id):
            file = self.files[index]
            about = [file.id, self.content(file), file.labels, self.prompt(index)]
            digest.update(json.dumps(about).encode())
        return digest.hexdigest()


def rank(text: str) -> bytes:
    """A sort key unrelated to the text's meaning and the same on every machine: its SHA-256."""
    return hashlib.sha256(text.encode()).digest()


def preprocessing(size: int) -> transforms.Compose:
    """The transform from an RGB image to float32 [3, size, size] in [-1, 1]."""
    return transforms.Compose(
        [
            partial(_resized, size=size),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )


def _resized(image: Image.Image, size: int) -> Image.Image:
    """An image with a shorter side of ``size`` pixels, or of a thin one the centre alone.

    The whole of a thin image would be resized to many times what the crop keeps: 2x3000 pixels to
    512x768000. Its centre alone may differ by rounding.
    """
    short, long = sorted(image.size)
    if long > THIN * short:
        width, height = image.size
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        return image.resize((size, size), Image.Resampling.BICUBIC, box)
    return transforms.functional.resize(image, size, transforms.InterpolationMode.BICUBIC)


def decode(path: Path, size: int = 1) -> Image.Image:
    """An image file as 8-bit RGB.

    One of more than `HUGE` pixels is shrunk before it is converted, and a JPEG while it is decoded,
    which saves most of the memory.

    Args:
        size: the shorter side that is needed of a huge image, in pixels; half of what is returned.

    Raises:
        BiGainError: if the file cannot be decoded, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] not in "IF":
                huge = image.width * image.height > HUGE
                return converted(_shrunk(image, 2 * size) if huge else _loaded(image), "RGB")
            mode = image.mode
    except Exception as error:  # decoders raise all kinds of errors on damaged data
        if large := too_large(error):
            raise BiGainError(f"{path} cannot be decoded: {large}") from error
        reason = one_line(error)
        raise BiGainError(
            f"{path} cannot be decoded ({reason}); copy it again from the data set's source"
        ) from error
    raise BiGainError(f"{path} has more than 8 bits per channel ({mode}); convert it to 8 bits")


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


def _shrunk(image: Image.Image, short: int) -> Image.Image:
    """A huge image with a shorter side of at least ``short`` pixels, by a whole factor."""
    scale = short / min(image.size)
    if scale < 1:  # the decoder of a JPEG shrinks by up to 8; others ignore it
        image.draft(None, (ceil(image.width * scale), ceil(image.height * scale)))
    factor = min(image.size) // short
    if factor > 1 and image.mode not in ("1", "P", "PA"):  # whose numbers have no mean
        return image.reduce(factor)
    return _loaded(image)


def image_names(folder: Path) -> list[str]:
    """The sorted names of the images directly in a folder, by their `SUFFIXES`, except dot files.

    Images of other formats are left out with a warning.

    Raises:
        BiGainError: if a name is not UTF-8, or is that of a broken link or of no file.
    """
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    names = sorted(entry.name for entry in entries)
    for name in names:
        check_name(folder, name)
    for entry in entries:
        if entry.name.lower().endswith(SUFFIXES) and not entry.is_file():
            what = "a link to a missing file" if entry.is_symlink() else "no file"
            raise BiGainError(f"{folder / entry.name} is {what}; replace or remove it")
    known = Image.registered_extensions()
    if left := [n for n in names if Path(n).suffix.lower() in known.keys() - set(SUFFIXES)]:
        warnings.warn(
            f"{folder}: {len(left)} images are left out, such as {left[0]}; convert them to PNG "
            f"({', '.join(SUFFIXES)} are read)",
            stacklevel=2,
        )
    return [name for name in names if name.lower().endswith(SUFFIXES)]


def check_name(folder: Path, name: str) -> None:
    """Refuse a file whose name no other program could show.

    Raises:
        BiGainError: if the name is not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise BiGainError(f"{folder} holds {shown}, a name that is not UTF-8; rename it") from None


def check_there(folder: Path, files: Sequence[ImageFile], mend: str) -> None:
    """Refuse a folder that lacks some of these files.

    Raises:
        BiGainError: if files are missing; it names the first and says with ``mend`` what to do.
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

"""Image files: written with a description of their origin, and read back as a checked folder."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from bigain.errors import BiGainError, one_line, some
from bigain.utils.files import atomic
from bigain.utils.hash_cache import sha256

if TYPE_CHECKING:
    import torch

FINGERPRINT, IMAGE_ID, PROMPT = "bigain.fingerprint", "bigain.image_id", "bigain.prompt"
_PIXELS = "bigain.pixels"  # the SHA-256 of the pixels in a file that this project wrote
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")

# of a contact sheet
COLUMNS = 8
GAP = 4  # pixels between images and around them
SHOWN = 64  # pixels of an image's shorter side, at least
_TILES = "bigain.tiles"  # number of images on a sheet


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, sorted by name and decoded one at a time; see `open_folder`.

    Attributes:
        path: the folder.
        paths: the images in it.
        size: (height, width) of every image, or None if sizes differ.
        fingerprint: that of the run that wrote the images, or None if no run of this project did.
        prompts: one per image if every file states its prompt, else None.
    """

    path: Path
    paths: tuple[Path, ...]
    size: tuple[int, int] | None
    fingerprint: str | None
    prompts: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The images as `read_image` returns them."""
        return map(read_image, self.paths)

    def sha256(self) -> str:
        """The SHA-256 of the files' contents in order; their names do not matter."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(bytes.fromhex(sha256(path)))
        return digest.hexdigest()


def write_png(path: Path, image: np.ndarray, about: Mapping[str, str]) -> None:
    """Write a PNG, completely or not at all, whose pixels `read_image` can check.

    Args:
        image: uint8 [H, W], or [H, W, C] with 1 (grey), 3 (RGB) or 4 (RGBA) channels.
        about: text chunks by keyword; a keyword is Latin-1 and at most 79 characters long.

    Raises:
        BiGainError: if the file cannot be written.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"expected an image of uint8, got {image.dtype}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    chunks = PngInfo()
    for key, text in {**about, _PIXELS: hashlib.sha256(image.tobytes()).hexdigest()}.items():
        chunks.add_text(key, text)
    with atomic(path) as file:
        Image.fromarray(image).save(file, "PNG", pnginfo=chunks)


def read_image(path: Path) -> np.ndarray:
    """Decode an image to uint8 [H, W, C]; C is 1 for grey and 3 for all other images.

    Transparency is dropped.

    Raises:
        BiGainError: if the image cannot be decoded, has more than 8 bits per channel, or was
            written by `write_png` with other pixels.
    """
    with _opened(path) as image:
        mode = image.mode
        if mode[0] in "IF":
            raise BiGainError(
                f"{path} has more than 8 bits per channel ({mode}); convert it to an 8-bit PNG"
            )
        grey = mode in ("1", "L", "LA")
        try:
            array = np.array(converted(image, "L" if grey else "RGB"))
        except Exception as error:  # decoders raise all kinds of errors on damaged data
            raise _damaged([path], error) from error
        written = image.info.get(_PIXELS)
    if written not in (None, hashlib.sha256(array.tobytes()).hexdigest()) and mode in ("L", "RGB"):
        raise _damaged([path], ValueError("its pixels were changed after it had been written"))
    return array[:, :, None] if grey else array


def converted(image: Image.Image, mode: str) -> Image.Image:
    """An image in another mode, or the image itself, where Pillow would copy it."""
    return image if image.mode == mode else image.convert(mode)


def too_large(error: Exception) -> str | None:
    """Why Pillow refuses an image of too many pixels; None if the error is another."""
    if not isinstance(error, Image.DecompressionBombError):
        return None
    pixels = re.search(r"\d+", str(error))
    given = f"its {pixels[0]} pixels are" if pixels else "it has"
    return f"{given} more than the {2 * (Image.MAX_IMAGE_PIXELS or 0)} that are read; shrink it"


def pixels(images: "torch.Tensor") -> np.ndarray:
    """Float [..., C, H, W] in [-1, 1] to uint8 [..., H, W, C]; other values are clipped."""
    import torch  # only here, as the store reads and writes images without it

    scaled = (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


def open_folder(path: Path | str, limit: int | None = None, *, mixed: bool = False) -> ImageFolder:
    """Check and list the PNG, JPEG and WebP images directly in a folder; dot files are ignored.

    This reads the header of every file and verifies the checksums of PNGs. Pixels are decoded
    later, one image at a time.

    Args:
        limit: how many images to take, in the order of their names; None takes all.
        mixed: whether sizes may differ, for a network that resizes.

    Raises:
        BiGainError: if the folder is missing or empty, or has fewer images than ``limit``; if a
            file is damaged; if sizes differ and ``mixed`` is not set; if the images come from two
            runs, or only some of them come from a run.
    """
    path = Path(path)
    if not path.is_dir():
        raise BiGainError(f"{path} is not a folder; give one that holds images")
    names = (p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    paths = sorted(p for p in names if not p.name.startswith("."))
    if not paths:
        raise BiGainError(
            f"{path} holds no images; put PNG, JPEG or WebP files directly into it, not below it"
        )
    if limit is not None:
        if not 1 <= limit <= len(paths):
            raise BiGainError(
                f"limit must lie in 1..{len(paths)}, the images in {path}; got {limit}"
            )
        paths = paths[:limit]
    return _folder(path, paths, _headers(paths), mixed)


def open_images(path: Path, paths: Sequence[Path]) -> ImageFolder:
    """Check these images of the folder ``path`` as `open_folder` does, and no others.

    An image that names itself, as a run's does, must be in the file of that name.
    """
    headers = _headers(paths)
    for file, header in zip(paths, headers, strict=True):
        if header.image_id not in (None, file.stem):
            raise BiGainError(
                f"{file} is image {header.image_id} under another name; remove it (the command of "
                "its run writes a missing image again)"
            )
    return _folder(path, paths, headers, mixed=False)


def write_sheet(path: Path, images: Sequence[np.ndarray]) -> None:
    """Write a `contact_sheet` that `read_sheet` can take apart again."""
    write_png(path, contact_sheet(images), {_TILES: str(len(images))})


def read_sheet(path: Path) -> list[np.ndarray]:
    """The images on a contact sheet, uint8 [H, W, 3] each; small images stay enlarged.

    Raises:
        BiGainError: if the file cannot be decoded, or is not a contact sheet of this project.
    """
    sheet = read_image(path)
    with Image.open(path) as image:
        count = int(image.info.get(_TILES, 0))
    if not count:
        raise BiGainError(f"{path} is no contact sheet; repeat the command of its run to redraw it")
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    height, width = ((sheet.shape[i] - GAP) // n - GAP for i, n in ((0, rows), (1, columns)))
    tops, lefts = (
        [GAP + i * (side + GAP) for i in range(n)] for side, n in ((height, rows), (width, columns))
    )
    every = [sheet[y : y + height, x : x + width] for y in tops for x in lefts]
    return every[:count]


def contact_sheet(images: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange images in rows with white gaps, and enlarge small ones by a whole factor.

    Args:
        images: uint8 [H, W, C] each, all of the same shape.

    Returns:
        uint8 [H', W', 3].
    """
    import torch  # only here, as the store reads sheets without it
    import torch.nn.functional as F
    from torchvision.utils import make_grid

    large = torch.from_numpy(np.stack([enlarged(image) for image in images])).permute(0, 3, 1, 2)
    grid = make_grid(large, nrow=COLUMNS, padding=GAP, pad_value=255)
    if len(images) == 1:  # make_grid puts no frame around a single image
        grid = F.pad(grid, (GAP, GAP, GAP, GAP), value=255)
        grid = grid.expand(3, -1, -1)
    return grid.permute(1, 2, 0).numpy()


def enlarged(image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] as a contact sheet shows it."""
    factor = max(1, -(-SHOWN // min(image.shape[:2])))
    return image.repeat(factor, 0).repeat(factor, 1)


def reduced(image: np.ndarray) -> np.ndarray:
    """The smallest image that `enlarged` turns into ``image``."""
    for factor in range(min(image.shape[:2]), 1, -1):
        small = image[::factor, ::factor]
        again = enlarged(small)
        if again.shape == image.shape and (again == image).all():
            return small
    return image


def _folder(
    path: Path, paths: Sequence[Path], headers: Sequence["_Header"], mixed: bool
) -> ImageFolder:
    sizes = [(image.height, image.width) for image in headers]
    one_size = len(set(sizes)) == 1
    if not one_size and not mixed:
        groups = _groups(paths, sizes, lambda size: f"{size[1]}x{size[0]}")
        raise BiGainError(
            f"{path} holds images of different sizes: {groups}; bring them to one size, or move "
            "those that do not belong there elsewhere"
        )
    runs = [image.fingerprint for image in headers]
    if len(set(runs)) > 1:
        groups = _groups(paths, runs, lambda run: f"run {run}" if run else "no run")
        raise BiGainError(
            f"{path} mixes images of different origin: {groups}; move those that do not belong "
            "there elsewhere"
        )
    prompts = [image.prompt for image in headers if image.prompt is not None]
    return ImageFolder(
        path,
        tuple(paths),
        sizes[0] if one_size else None,
        runs[0],
        tuple(prompts) if len(prompts) == len(paths) else None,
    )


@dataclass(frozen=True)
class _Header:
    height: int
    width: int
    fingerprint: str | None
    image_id: str | None
    prompt: str | None


def _headers(paths: Sequence[Path]) -> list[_Header]:
    """What the files' headers say, without decoding pixels.

    Raises:
        BiGainError: if files are damaged; the message names the first of them.
    """
    headers, damaged, cause = [], [], None
    for path in paths:
        try:
            with Image.open(path) as image:
                texts = {key: image.info.get(key) for key in (FINGERPRINT, IMAGE_ID, PROMPT)}
                headers.append(_Header(image.height, image.width, *texts.values()))
                image.verify()
        except Exception as error:  # decoders raise all kinds of errors on damaged data
            damaged.append(path)
            cause = cause or error
    if cause is not None:
        raise _damaged(damaged, cause) from cause
    return headers


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except Exception as error:  # decoders raise all kinds of errors on damaged data
        raise _damaged([path], error) from error


def _damaged(paths: Sequence[Path], error: Exception) -> BiGainError:
    if large := too_large(error):
        return BiGainError(f"{paths[0]} cannot be decoded: {large}")
    reason = one_line(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its message just repeats the path
        reason = "not an image, or empty"
    return BiGainError(
        f"{some([str(p) for p in paths], 5)} cannot be decoded ({reason}); remove or replace "
        f"{'it' if len(paths) == 1 else f'these {len(paths)} files'} (the command of a run writes "
        "its missing images again)"
    )


def _groups(paths: Sequence[Path], values: Sequence[object], name: Callable[..., str]) -> str:
    """The number of files with each value and the first of them, by decreasing number."""
    found: dict[object, list[Path]] = {}
    for path, value in zip(paths, values, strict=True):
        found.setdefault(value, []).append(path)
    by_size = sorted(found.items(), key=lambda item: -len(item[1]))
    return some([f"{len(p)} of {name(v)} (first {p[0].name})" for v, p in by_size], 3)

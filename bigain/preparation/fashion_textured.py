"""Fashion-MNIST's test garments on seeded textures, as the data set fashion_textured."""

import csv
import gzip
import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bigain.datasets.fashion_mnist import IMAGES_MAGIC, LABELS_MAGIC, FashionMNIST
from bigain.datasets.fashion_textured import FashionTextured
from bigain.errors import BiGainError
from bigain.preparation.texture_kinds import AMPLITUDE, KINDS
from bigain.preparation.textures import BAND, SOFT, Texture, compose, texture
from bigain.utils.files import atomic, explained, is_stray, remove_stray, write_text
from bigain.utils.images import write_sheet
from bigain.utils.paths import REPOSITORY

RECIPE = "recipe.json"
SHOWN = 64  # images on sheet.png


def prepare(
    root: Path,
    seed: int = 0,
    amplitude: float = AMPLITUDE,
    kinds: Sequence[str] = KINDS,
    count: int | None = None,
    source: Path = REPOSITORY / "assets" / "fashion_mnist",
) -> int:
    """Write idx files, a list of the textures and a contact sheet to look at into ``root``.

    Args:
        seed: the seed of all textures.
        amplitude: brightness of a texture's brightest pixel, as a share of white.
        kinds: the kinds of texture; each image gets one of them.
        count: number of images, the first of the test split; all of them by default.
        source: folder of Fashion-MNIST.

    Returns:
        The number of images.

    Raises:
        BiGainError: if an option cannot be used, or ``root`` holds anything else.
    """
    data = FashionMNIST(str(source), "test")
    count = len(data) if count is None else count
    if not 1 <= count <= len(data):
        raise BiGainError(f"--count must lie in 1..{len(data)}, the test images; got {count}")
    if not 0 < amplitude <= 1:
        raise BiGainError(f"--amplitude must be above 0 and at most 1, white; got {amplitude}")
    recipe = {
        "source": data.identity(),
        "seed": seed,
        "amplitude": amplitude,
        "kinds": list(kinds),
        "count": count,
        "band": list(BAND),
        "soft": list(SOFT),
    }
    texture(seed, 0, kinds)  # refuses unknown kinds before anything is written
    _claim(root, recipe)
    images, _ = data.tensors()
    garments = ((images[:count, 0] + 1) * 127.5).round().byte()
    behind = [texture(seed, index, kinds) for index in range(count)]
    made = [compose(g, b, amplitude) for g, b in zip(garments, behind, strict=True)]
    labels = np.array([data.labels(index)[0] for index in range(count)], np.uint8)
    write_text(root / "textures.csv", _listing(data.ids()[:count], behind))
    write_sheet(root / "sheet.png", [image[:, :, None] for image in made[:SHOWN]])
    _write_idx(root / "t10k-images-idx3-ubyte.gz", IMAGES_MAGIC, np.stack(made))
    # the labels last: `make` takes the folder as complete once they are there
    _write_idx(root / "t10k-labels-idx1-ubyte.gz", LABELS_MAGIC, labels)
    return len(FashionTextured(str(root)))


def _claim(root: Path, recipe: dict[str, object]) -> None:
    """Create the folder and write the recipe into it first.

    Raises:
        BiGainError: if the folder already holds anything but images of this recipe.
    """
    path = root / RECIPE
    mend = "name another folder with --root, or remove this one"
    text = json.dumps(recipe, indent=1) + "\n"
    with explained(root):
        if path.exists():
            if path.read_text() != text:
                raise BiGainError(f"{root} holds images of other options ({path}); {mend}")
            remove_stray(root)
            return
        if root.exists() and (not root.is_dir() or not all(map(is_stray, root.iterdir()))):
            raise BiGainError(f"{root} was not made by this script: it has no {RECIPE}; {mend}")
        root.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    remove_stray(root)


def _listing(ids: Sequence[str], behind: Sequence[Texture]) -> str:
    """CSV with one row per image, so that results can be split by texture.

    Noise has no single frequency or angle, and leaves both fields empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "kind", "cycles_per_pixel", "degrees"])
    for id, found in zip(ids, behind, strict=True):
        one = found.kind in ("grating", "checks")
        frequency = f"{found.frequencies[0]:.4f}" if one else ""
        degrees = f"{np.degrees(found.angles[0]):.1f}" if one else ""
        writer.writerow([id, found.kind, frequency, degrees])
    return text.getvalue()


def _write_idx(path: Path, magic: int, array: np.ndarray) -> None:
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    with atomic(path) as file:
        file.write(gzip.compress(header + array.tobytes(), mtime=0))

"""Put seeded textures behind Fashion-MNIST's test garments, and print what to run.

    python scripts/prepare_fashion_textured.py [--root data/fashion_textured]

Needs no network and takes seconds. Image i is test image i in its own order, 32x32 as the models
see it, and depends on nothing but the seed, i and the options. Run again, it writes the same; a
folder of other images is refused.
"""

import argparse
import csv
import gzip
import io
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python puts scripts/ there alone

from bigain.datasets.fashion_mnist import IMAGES_MAGIC, LABELS_MAGIC, FashionMNIST
from bigain.datasets.fashion_textured import FashionTextured
from bigain.errors import BiGainError
from bigain.preparation.textures import BAND, KINDS, SOFT, WAVES, Texture, compose, texture
from bigain.utils.files import atomic, explained, write_text
from bigain.utils.images import write_sheet
from bigain.utils.paths import REPOSITORY

AMPLITUDE = 0.08  # docs/data.md says how it was chosen
RECIPE = "recipe.json"
SHOWN = 64  # images on sheet.png
ROOT = Path("data") / "fashion_textured"


def prepare(
    root: Path,
    seed: int = 0,
    amplitude: float = AMPLITUDE,
    kinds: Sequence[str] = KINDS,
    count: int | None = None,
    source: Path = REPOSITORY / "assets" / "fashion_mnist",
) -> int:
    """Write ``root``: idx files, the textures by image, and a contact sheet to look at.

    Args:
        seed: of all textures.
        amplitude: the brightest that a texture gets, a share of white.
        kinds: each image has one of them.
        count: the first so many test images; all of them by default.
        source: folder of Fashion-MNIST.

    Returns:
        How many images there are.

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
    _write_idx(root / "t10k-labels-idx1-ubyte.gz", LABELS_MAGIC, labels)  # last: all is there
    return len(FashionTextured(str(root)))


def _claim(root: Path, recipe: dict[str, object]) -> None:
    """Make the folder this recipe's own, before anything else is in it.

    Raises:
        BiGainError: if it is another's.
    """
    path = root / RECIPE
    mend = "name another folder with --root, or remove this one"
    text = json.dumps(recipe, indent=1) + "\n"
    with explained(root):
        if path.exists():
            if path.read_text() != text:
                raise BiGainError(f"{root} holds images of other options ({path}); {mend}")
            return
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise BiGainError(f"{root} is not of this script: it has no {RECIPE}; {mend}")
        root.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _listing(ids: Sequence[str], behind: Sequence[Texture]) -> str:
    """A row an image, to tell results apart by texture; noise has no one frequency or angle."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Put textures behind Fashion-MNIST's garments.")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amplitude", type=float, default=AMPLITUDE, help="a share of white")
    parser.add_argument("--kinds", nargs="+", choices=WAVES, default=KINDS)
    parser.add_argument("--count", type=int, help="the first so many images; all by default")
    given = parser.parse_args()
    try:
        found = prepare(given.root, given.seed, given.amplitude, given.kinds, given.count)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    print(f"{found} images are in {given.root}; {given.root / 'sheet.png'} shows the first")
    chosen = "" if given.root == ROOT else f" dataset.root={given.root}"
    print(f"classify them: python run.py dataset=fashion_textured{chosen}")
    print(f"               python run.py dataset=fashion_textured{chosen} model=sd_fashion")


if __name__ == "__main__":
    main()

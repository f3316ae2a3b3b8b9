"""Generated images in the layout of a data set of photographs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bigain.datasets.prompts import published
from bigain.errors import BiGainError


def make(dataset: str, root: Path, size: int, per_class: int, seed: int) -> None:
    """Write ``per_class`` images of every class.

    Args:
        dataset: "pets" or "imagenet100".
        size: the images' shorter side in pixels.

    Raises:
        BiGainError: if there are to be no images.
    """
    if per_class < 1:
        raise BiGainError(f"images_per_class must be at least 1, got {per_class}")
    rng = np.random.default_rng(seed)

    def draw(path: Path) -> None:
        """A blurred mixture of colours with some noise, a fifth wider than high."""
        path.parent.mkdir(parents=True, exist_ok=True)
        blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        image = np.asarray(blobs.resize((size * 6 // 5, size), Image.Resampling.BICUBIC))
        noisy = image + rng.normal(0, 12, image.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)

    {"pets": _pets, "imagenet100": _imagenet}[dataset](root, per_class, draw)


def _pets(root: Path, per_class: int, draw: Callable[[Path], None]) -> None:
    """images/<Breed>_<number>.jpg, and the split test of the annotations."""
    classes = published("pets")
    lines = []
    for label, (name, prompt) in enumerate(zip(classes.names, classes.prompts, strict=True), 1):
        cat = " cat" in prompt
        breed = (name.title() if cat else name).replace(" ", "_")
        for number in range(1, per_class + 1):
            draw(root / "images" / f"{breed}_{number}.jpg")
            lines.append(f"{breed}_{number} {label} {1 if cat else 2} 1")
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "test.txt").write_text("\n".join(lines) + "\n")


def _imagenet(root: Path, per_class: int, draw: Callable[[Path], None]) -> None:
    """val/<WordNet id>/ILSVRC2012_val_<number>.JPEG of the paper's 100 classes."""
    number = 0
    for wnid in published("imagenet100").wnids:
        for _ in range(per_class):
            number += 1
            draw(root / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG")

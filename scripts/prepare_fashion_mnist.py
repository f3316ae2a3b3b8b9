"""Download Fashion-MNIST, check it, and print what to set.

    python scripts/prepare_fashion_mnist.py [--root data/fashion_mnist]

The script resumes where it was stopped. The repository ships only the test split; training needs
both.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from bigain.errors import BiGainError
from bigain.preparation.downloads import downloading
from bigain.utils.paths import given_path

SIZES = {"train": 60000, "test": 10000}
SOURCE = "https://github.com/zalandoresearch/fashion-mnist"


def prepare(root: Path) -> None:
    """Download the four files into ``root``/FashionMNIST/raw and check them.

    Raises:
        BiGainError: if a file cannot be downloaded, or is not the published one.
    """
    import torchvision.datasets  # only now: torch takes seconds
    from torchvision.datasets.utils import check_integrity

    from bigain.datasets import FashionMNIST

    raw = root / "FashionMNIST" / "raw"
    published = torchvision.datasets.FashionMNIST.resources
    names = ", ".join(name for name, _ in published)
    with downloading(f"get {names} from {SOURCE} by hand, put them into {raw}"):
        torchvision.datasets.FashionMNIST(root, download=True)
    for name, md5 in published:
        if not check_integrity(str(raw / name), md5):
            raise BiGainError(
                f"{raw / name} is not the published file; remove {raw}, run this again"
            )
    for split, size in SIZES.items():
        found = len(FashionMNIST(str(root), split=split))
        if found != size:
            raise BiGainError(f"{raw} holds {found} {split} images instead of {size}; remove it")


def main() -> None:
    parser = argparse.ArgumentParser(description="Download Fashion-MNIST and check it.")
    parser.add_argument(
        "--root",
        type=given_path,
        default=Path("data/fashion_mnist"),
        help="folder to download into",
    )
    root = parser.parse_args().root
    try:
        prepare(root)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    print(f"{SIZES['train']} train and {SIZES['test']} test images are in {root}")
    print(f"evaluate on them: python run.py dataset.root={root}")
    print(f"train on them:    python scripts/train_reference.py data={root}")


if __name__ == "__main__":
    main()

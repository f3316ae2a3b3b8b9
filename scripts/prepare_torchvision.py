"""Download a data set by torchvision, check it, and print what to run.

    python scripts/prepare_torchvision.py NAME [--root data/torchvision]

NAME is flowers102, aircraft, food101, caltech101, cifar10, cifar100 or stl10. An archive that is
already complete is kept.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from bigain.errors import BiGainError
from bigain.preparation.downloads import downloading, say_next
from bigain.utils.paths import given_path

# by name: its class in bigain.datasets and in torchvision.datasets, and the images of its splits
SETS: dict[str, tuple[str, str, dict[str, int]]] = {
    "flowers102": ("Flowers102", "Flowers102", {"test": 6149, "train": 1020, "val": 1020}),
    "aircraft": ("Aircraft", "FGVCAircraft", {"test": 3333, "train": 3334, "val": 3333}),
    "food101": ("Food101", "Food101", {"test": 25250, "train": 75750}),
    "caltech101": ("Caltech101", "Caltech101", {"all": 8677}),
    "cifar10": ("CIFAR10", "CIFAR10", {"test": 10000, "train": 50000}),
    "cifar100": ("CIFAR100", "CIFAR100", {"test": 10000, "train": 50000}),
    "stl10": ("STL10", "STL10", {"test": 8000, "train": 5000}),
}


def prepare(name: str, root: Path) -> str:
    """Download a data set into its folder in ``root``, and say what it holds.

    Raises:
        BiGainError: if an archive cannot be downloaded, or images are missing or damaged.
    """
    import torchvision.datasets  # only now: torch takes seconds

    from bigain import datasets
    from bigain.preparation.checks import check

    ours, theirs, sizes = SETS[name]
    kind = getattr(datasets, ours)
    folder = root / kind.folder_name
    try:
        kind(str(root), next(iter(sizes)), size=1)
    except BiGainError:
        page = (
            f"https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.{theirs}.html"
        )
        with downloading(f"unpack the archive that {page} names into {root}"):
            getattr(torchvision.datasets, theirs)(root, download=True)
    for split, size in sizes.items():
        check(partial(kind, str(root), split, size=1), size, f"remove {folder}, run this again")
    return " and ".join(f"{size} {split}" for split, size in sizes.items()) + " images"


def main() -> None:
    parser = argparse.ArgumentParser(description="Download a data set by torchvision and check it.")
    parser.add_argument("name", choices=SETS, help="the data set")
    parser.add_argument(
        "--root",
        type=given_path,
        default=Path("data") / "torchvision",
        help="folder above the data set's own",
    )
    given = parser.parse_args()
    try:
        found = prepare(given.name, given.root)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    say_next(found, given.root, given.name)


if __name__ == "__main__":
    main()

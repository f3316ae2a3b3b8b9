"""Download Oxford-IIIT Pet, check it, and print what to run.

    python scripts/prepare_pets.py [--root data/pets]

The script resumes where it was stopped: an archive that is already complete is kept.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from bigain.preparation.downloads import command, downloading

SIZES = {"test": 3669, "trainval": 3680}


def prepare(root: Path) -> str:
    """Download images/ and annotations/ into ``root``/oxford-iiit-pet, and say what they hold.

    Torchvision checks the archives.

    Raises:
        BiGainError: if an archive cannot be downloaded, or images are missing or damaged.
    """
    import torchvision.datasets  # only now: torch takes seconds

    from bigain.datasets import Pets
    from bigain.preparation.checks import check

    folder = root / "oxford-iiit-pet"
    images, annotations = folder / "images", folder / "annotations"
    if not (images.is_dir() and annotations.is_dir()):
        urls = " and ".join(url for url, _ in torchvision.datasets.OxfordIIITPet._RESOURCES)
        with downloading(f"get {urls} by hand, put them into {folder}"):
            torchvision.datasets.OxfordIIITPet(root, download=True)
    mend = f"remove {images} and {annotations}, run this again"
    for split, size in SIZES.items():
        check(partial(Pets, str(root), split, size=1), size, mend)
    return f"{SIZES['test']} test and {SIZES['trainval']} trainval images"


def main() -> None:
    command(prepare, "pets", "Download Oxford-IIIT Pet and check it.")


if __name__ == "__main__":
    main()

"""Download Oxford-IIIT Pet, check it, and print what to run.

    python scripts/prepare_pets.py [--root data/pets]

Goes on where it was stopped: an archive that is there and whole is not downloaded again.
"""

import argparse
import contextlib
import io
import sys
import tarfile
import zlib
from functools import partial
from pathlib import Path

import torchvision.datasets

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python puts scripts/ there alone

from bigain.datasets import Pets
from bigain.errors import BiGainError
from scripts.preparing.checks import check

SIZES = {"test": 3669, "trainval": 3680}


def prepare(root: Path) -> None:
    """Leave images/ and annotations/ in ``root``/oxford-iiit-pet; torchvision checks the archives.

    Raises:
        BiGainError: if an archive cannot be had, or images are missing or damaged.
    """
    folder = root / "oxford-iiit-pet"
    images, annotations = folder / "images", folder / "annotations"
    if not (images.is_dir() and annotations.is_dir()):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                torchvision.datasets.OxfordIIITPet(root, download=True)
        except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
            reason = " ".join(str(error).split())
            urls = " and ".join(url for url, _ in torchvision.datasets.OxfordIIITPet._RESOURCES)
            raise BiGainError(
                f"download failed ({reason}); get {urls} by hand, put them into {folder} and run "
                "this again"
            ) from error
    mend = f"remove {images} and {annotations}, run this again"
    for split, size in SIZES.items():
        check(partial(Pets, str(root), split, size=1), size, mend)


def main() -> None:
    parser = argparse.ArgumentParser(description="Download Oxford-IIIT Pet and check it.")
    parser.add_argument("--root", type=Path, default=Path("data/pets"))
    root = parser.parse_args().root
    try:
        prepare(root)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    chosen = f"model=sd2 dataset=pets dataset.root={root}"
    print(f"{SIZES['test']} test and {SIZES['trainval']} trainval images are in {root}")
    print(f"classify them:             python run.py task=classify {chosen}")
    print(
        "make FID's reference once: "
        f"python scripts/make_reference_statistics.py features=inception {chosen}"
    )


if __name__ == "__main__":
    main()

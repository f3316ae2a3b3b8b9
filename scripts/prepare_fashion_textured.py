"""Put seeded textures behind Fashion-MNIST's test garments, and print what to run.

    python scripts/prepare_fashion_textured.py [--root data/fashion_textured]

This needs no network and takes seconds. Image i is test image i, 32x32 as the models see it, and
depends only on the seed, i and the options. Running the script again writes the same files; it
refuses to write into a folder of other images.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from bigain.errors import BiGainError
from bigain.preparation.texture_kinds import AMPLITUDE, KINDS, WAVES
from bigain.utils.paths import given_path

ROOT = Path("data") / "fashion_textured"


def main() -> None:
    parser = argparse.ArgumentParser(description="Put textures behind Fashion-MNIST's garments.")
    parser.add_argument("--root", type=given_path, default=ROOT, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="seed of the textures")
    parser.add_argument(
        "--amplitude",
        type=float,
        default=AMPLITUDE,
        help="brightest pixel of a texture, as a share of white",
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=WAVES, default=KINDS, help="kinds of texture to draw from"
    )
    parser.add_argument("--count", type=int, help="number of images; default: all")
    given = parser.parse_args()
    from bigain.preparation.fashion_textured import prepare  # only now: torch takes seconds

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

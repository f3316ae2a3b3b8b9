"""Compute the reference statistics that generated images are scored against.

    python scripts/make_reference_statistics.py dataset=fashion_mnist dataset.split=train \
        dataset.root=data/fashion_mnist features=fashion
    python scripts/make_reference_statistics.py dataset=pets model=sd2 features=inception
    python scripts/make_reference_statistics.py folder=/path/to/images name=coco-val

The model only sets the image size to which a data set of photographs is brought.
The same command on the same machine always writes the same file, byte for byte.
Settings: configs/make_reference_statistics.yaml.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from omegaconf import DictConfig

from bigain.experiments.command_line import command


def make(cfg: DictConfig) -> None:
    """Compute the statistics and write them."""
    from bigain.preparation import reference_statistics  # only now: torch takes seconds

    reference_statistics.make(cfg)


if __name__ == "__main__":
    command(make, "make_reference_statistics", "nothing is written")

"""Write a full-size pipeline of random weights, and a small data set of generated images beside it.

    python scripts/make_random_pipeline.py model=sd2
    python scripts/make_random_pipeline.py model=dit_xl2_512 dtype=float16

Every command then runs at true size without published weights; its predictions mean nothing.
Settings: configs/make_random_pipeline.yaml.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from omegaconf import DictConfig

from bigain.experiments.command_line import command


def make(cfg: DictConfig) -> None:
    """Write the pipeline and the images."""
    from bigain.preparation import random_pipeline  # only now: torch and diffusers take seconds

    random_pipeline.make(cfg)


if __name__ == "__main__":
    command(make, "make_random_pipeline", "the pipeline is incomplete; run this again")

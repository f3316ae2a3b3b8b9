"""Measure on a GPU what is worth most within a budget of seconds; the next visit goes on.

    make gpu
    python scripts/gpu.py budget=540
    python scripts/gpu.py visit=rehearsal device=cpu results=/tmp/rehearsal budget=60

Settings: configs/gpu.yaml; order: bigain/benchmarks/visit_items.py; results: results/benchmarks.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from omegaconf import DictConfig

from bigain.experiments.command_line import command


def measure(cfg: DictConfig) -> None:
    """Measure until the budget is spent."""
    from bigain.benchmarks.visit import visit  # only now: torch and diffusers take seconds

    visit(cfg)


if __name__ == "__main__":
    command(measure, "gpu", "what was measured is kept; the same command goes on")

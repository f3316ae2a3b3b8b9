"""Time this code against other code and against itself, always as a ratio of alternating timings.

    make benchmark                                          every suite, on the GPU if there is one
    python scripts/benchmark.py suites=[operators] device=cpu

Settings: configs/benchmark.yaml; suites: bigain/benchmarks; results: results/benchmarks.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from omegaconf import DictConfig

from bigain.experiments.command_line import command


def run(cfg: DictConfig) -> None:
    """Run the suites that the configuration names."""
    from bigain.benchmarks.suites import run_suites  # only now: torch and diffusers take seconds

    run_suites(cfg)


if __name__ == "__main__":
    command(run, "benchmark", "suites that were finished are kept")

"""The entry point: ``python run.py compressor=lgtm task=classify``; see ``--help``."""

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from bigain.experiments.command_line import end_in_one_line, run_job
from bigain.experiments.plugins import register_plugins

if TYPE_CHECKING:  # they are slow to import
    from bigain.experiments.job import Job
    from bigain.store.runs import Run


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(cfg: DictConfig) -> str | None:
    return run_job(cfg, draw)


def draw(job: "Job", run: "Run") -> None:
    """Draw what the run shows, with what this imports only then."""
    if job.task.watches:
        from bigain.reporting.run_pictures import draw_run

        draw_run(job, run)


def compare(runs: Sequence[str]) -> None:
    from bigain.reporting.run_table import run_table  # only now: torch and pandas take seconds

    print(f"\n{run_table(runs)}", end="")


if __name__ == "__main__":
    register_plugins(compare)
    end_in_one_line(main, "finished images are kept and the same command resumes")

"""The entry point: ``python run.py compressor=lgtm task=classify``; see ``--help``."""

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
import hydra
from omegaconf import DictConfig

from bigain.experiments.command_line import end_in_one_line, run_job
from bigain.experiments.plugins import register_plugins


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    run_job(cfg)


if __name__ == "__main__":
    register_plugins()
    end_in_one_line(main, "finished images are kept and the same command resumes")

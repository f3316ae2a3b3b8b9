"""The one entry point: ``python run.py compressor=lgtm task=classify``; see ``--help``."""

import os
import sys

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be said in one line

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bigain import config
from bigain.errors import BiGainError
from bigain.runner import execute

config.register()


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    try:
        execute(cfg)
    except BiGainError as error:  # here, so that Hydra adds nothing of its own
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {config.explain(error)}")
    except KeyboardInterrupt:
        sys.exit("stopped; finished images are kept and the same command goes on")

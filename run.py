"""The entry point: ``python run.py compressor=lgtm task=classify``; see ``--help``."""

import os
import signal
import sys
import traceback

os.environ.setdefault(
    "HYDRA_FULL_ERROR", "1"
)  # lets errors reach this file, which reports them in one line

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments import configuration
from bigain.experiments.plugins import register_plugins
from bigain.experiments.runner import execute


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        execute(cfg)
    except BiGainError as error:
        if alone:  # caught here, before Hydra adds to it
            sys.exit(f"error: {error}")
        raise BiGainError(
            str(error)
        ) from None  # the base class alone, which pickles between processes
    except Exception as error:
        if not alone:
            traceback.print_exc()
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    register_plugins()
    try:
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {configuration.explain(error)}")
    except KeyboardInterrupt:
        sys.exit("stopped; finished images are kept and the same command resumes")

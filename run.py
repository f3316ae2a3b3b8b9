"""The one entry point: ``python run.py compressor=lgtm task=classify``; see ``--help``."""

import os
import signal
import sys
import traceback

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be said in one line

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bigain import config
from bigain.errors import BiGainError
from bigain.runner import execute


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        execute(cfg)
    except BiGainError as error:
        if alone:  # here, so that Hydra adds nothing of its own
            sys.exit(f"error: {error}")
        raise BiGainError(str(error)) from None  # of any subclass: it travels between processes
    except Exception as error:
        if not alone:
            traceback.print_exc()
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # the processes of launchers look for hydra_plugins, from whatever folder this was called
    paths = [str(config.REPOSITORY), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {config.explain(error)}")
    except KeyboardInterrupt:
        sys.exit("stopped; finished images are kept and the same command goes on")

"""The ``main`` of a script that Hydra configures, whose errors are one line."""

import os
import sys
from collections.abc import Callable

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be said in one line

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments.configuration import explain
from bigain.utils.paths import REPOSITORY


def command(task: Callable[[DictConfig], object], config: str, stopped: str) -> None:
    """Call ``task`` with what configs/``config``.yaml and the command line say.

    Args:
        stopped: what to say after Ctrl-C: what is kept, and how to go on.
    """

    @hydra.main(version_base=None, config_path=str(REPOSITORY / "configs"), config_name=config)
    def main(cfg: DictConfig) -> None:
        try:
            task(cfg)
        except BiGainError as error:  # here, so that Hydra adds nothing of its own
            sys.exit(f"error: {error}")

    try:
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; {stopped}")

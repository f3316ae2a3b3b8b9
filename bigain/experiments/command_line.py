"""Commands that Hydra configures, which answer a user's mistake at once and in one line."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be put into one line

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments.schema import explain, one_line, with_paths
from bigain.utils.paths import REPOSITORY
from bigain.utils.setting_types import check_types


def command(task: Callable[[DictConfig], object], config: str, stopped: str) -> None:
    """Call ``task`` with what configs/``config``.yaml and the command line say.

    Args:
        stopped: what to say after Ctrl-C: what is kept, and how to go on.
    """

    @hydra.main(version_base=None, config_path=str(REPOSITORY / "configs"), config_name=config)
    def main(cfg: DictConfig) -> None:
        try:
            given: Any = OmegaConf.to_container(cfg)
            check_types("", given, _types(config))
            task(with_paths(cfg))
        except BiGainError as error:  # here, so that Hydra adds nothing of its own
            sys.exit(f"error: {one_line(error)}")

    end_in_one_line(main, stopped)


def _types(config: str) -> dict[str, Any]:
    """The types of the settings in configs/``config``.yaml, which are those of their defaults."""
    files = [f"{config}.yaml"]
    if chosen := HydraConfig.get().runtime.choices.get("reference"):  # whose keys are at the top
        files.append(f"reference/{chosen}.yaml")
    defaults: dict[str, Any] = {}
    for file in files:
        loaded: Any = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs" / file))
        defaults |= loaded
    found: dict[str, Any] = {}
    for key, value in defaults.items():
        if isinstance(value, bool | int | float):
            found[key] = type(value)
        elif isinstance(value, str):
            found[key] = str | None
        elif isinstance(value, list):
            found[key] = list[Any]
        elif value is None:
            found[key] = str | None
        else:
            found[key] = dict[str, Any]
    return found


def run_job(cfg: DictConfig, finished: Callable[..., None] | None = None) -> str | None:
    """One job of run.py, alone or of a sweep.

    Args:
        finished: as of `bigain.experiments.runner.execute`.

    Returns:
        The run's folder; None where there is no run.
    """
    from bigain.experiments.runner import execute  # only now: torch and diffusers take seconds

    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        run = execute(cfg, finished)
        return None if run is None else str(run.path)
    except BiGainError as error:
        if alone:  # caught here, before Hydra adds to it
            sys.exit(f"error: {one_line(error)}")
        # the base class alone, which pickles between processes
        raise BiGainError(str(error)) from None
    except Exception as error:
        if not alone:
            traceback.print_exc()
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


def end_in_one_line(main: Callable[[], object], stopped: str) -> None:
    """Call ``main``; a user's mistake or a signal to stop ends the process with one line.

    Args:
        stopped: what to say after Ctrl-C or SIGTERM: what is kept, and how to go on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {explain(error)}")
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        # Hydra does not name it
        given = [text for text in sys.argv[1:] if text.endswith("=null")]
        sys.exit(f"error: {' '.join(given)}: null is no option of a group; see --help for those")
    except KeyboardInterrupt:
        sys.exit(f"stopped; {stopped}")

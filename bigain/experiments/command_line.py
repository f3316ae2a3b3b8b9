"""Commands that Hydra configures, which answer a user's mistake at once and in one line."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be put into one line

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError, one_line
from bigain.experiments.schema import explain, suggestion, with_paths
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


def run_job(cfg: DictConfig, finished: Callable[..., None]) -> str | None:
    """One job of run.py, alone or of a sweep.

    Args:
        finished: as `bigain.experiments.runner.execute` takes it.

    Returns:
        The run's folder; None where there is no run.
    """
    if multiprocessing.current_process().name.startswith("LokyProcess"):
        end_with_parent()  # a worker of hydra/launcher=joblib, whose jobs nobody else ends
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


def check_choices(arguments: Iterable[str]) -> None:
    """Refuse overrides without a key, and those that give a group something other than a name.

    Hydra's errors about them do not name the override. It names those that it cannot parse.
    """
    parser = OverridesParser.create()
    for text in arguments:
        try:
            (override,) = parser.parse_overrides([text])
        except HydraException:
            continue  # an option such as --help, or refused by Hydra
        key, value = override.key_or_group, override.value()
        if not key:
            raise BiGainError(f"{text} names no key; write it as key=value")
        folder = REPOSITORY / "configs" / key
        if override.is_delete() or not (folder.is_dir() or "/" in key):
            continue
        chosen = value.list if isinstance(value, ChoiceSweep) else [value]
        if any(not isinstance(one, str | QuotedString | dict | Glob) for one in chosen):
            accepted = suggestion("", (file.stem for file in folder.glob("*.yaml")))
            raise BiGainError(f"{text} must name an option of the group {key}; {accepted}")


def end_in_one_line(main: Callable[[], object], stopped: str) -> None:
    """Call ``main``; a user's mistake or a signal to stop ends the process with one line.

    Args:
        stopped: what to say after Ctrl-C or SIGTERM: what is kept, and how to go on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_choices(sys.argv[1:])
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; {stopped}")


@cache
def end_with_parent() -> None:
    """From now on, end this process at once when its parent has ended.

    A killed parent cannot end its workers, and they would keep their locks.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # the store takes any kill

"""An experiment file: a table's rows, each a list of overrides of ``python run.py``."""

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from bigain import config
from bigain.errors import BiGainError
from bigain.runner import Job

FOLDER = config.REPOSITORY / "experiments"
CONFIGS = config.REPOSITORY / "configs"


@dataclass(frozen=True)
class Row:
    """One configuration of a table.

    Attributes:
        name: short and unique in the experiment.
        title: as the table prints it.
        overrides: all that distinguish it from the default configuration.
    """

    name: str
    title: str
    overrides: list[str]

    @cached_property
    def job(self) -> Job:
        """Its objects, and where its run lies."""
        config.register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIGS), version_base=None):
            cfg: DictConfig = compose("config", overrides=self.overrides)
        return Job(cfg)

    @property
    def run_path(self) -> Path:
        return self.job.run_path

    def image_ids(self) -> list[str]:
        """The images it must hold."""
        return self.job.ids

    @property
    def command(self) -> str:
        """What completes it."""
        return f"python run.py {shlex.join(self.overrides)}"


@dataclass(frozen=True)
class Experiment:
    """A table: its rows and what to compare them with.

    Attributes:
        name: of the file.
        title: over the table.
        note: under it: the protocol, and what it can and cannot show.
        baseline: the row that the others are compared with.
        next: what to try after it.
    """

    name: str
    title: str
    note: str
    baseline: str
    next: str
    rows: list[Row]


def load(name: str, extra: list[str] | None = None) -> Experiment:
    """Read ``experiments/<name>.yaml``.

    Args:
        extra: overrides on top of every row's, as given on the command line.

    Raises:
        BiGainError: if it does not exist (naming those that do) or is not an experiment.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise BiGainError(f"there is no experiment {name}; experiments/ holds: {known}")
    found: Any = OmegaConf.to_container(OmegaConf.load(path))
    keys = {"title", "note", "baseline", "next", "overrides", "rows"}
    if not isinstance(found, dict) or set(found) != keys:
        raise BiGainError(f"{path.name} must have the keys {', '.join(sorted(keys))}")
    shared = found["overrides"]
    rows = [
        Row(r["name"], r["title"], [*shared, *r["overrides"], *(extra or [])])
        for r in found["rows"]
    ]
    names = [r.name for r in rows]
    if found["baseline"] not in names or len(set(names)) < len(names):
        raise BiGainError(
            f"{path.name}: row names must be unique and baseline one of them; got "
            f"{', '.join(names)} and {found['baseline']}"
        )
    return Experiment(name, found["title"], found["note"], found["baseline"], found["next"], rows)

"""An experiment file: a table's rows, each run through one task or several."""

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
from bigain.job import Job

FOLDER = config.REPOSITORY / "experiments"
CONFIGS = config.REPOSITORY / "configs"


@dataclass(frozen=True)
class Cell:
    """One configuration of a table: a row's method under one task.

    Attributes:
        overrides: all that distinguish it from the default configuration.
    """

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

    @property
    def scores(self) -> str | None:
        """The run's record that holds its images' scores; None if they are not to be scored."""
        scoring = self.job.scoring
        return scoring.record(len(self.job.ids)) if scoring else None

    def image_ids(self) -> list[str]:
        """The images it must hold."""
        return self.job.ids

    @property
    def command(self) -> str:
        """What completes it."""
        return f"python run.py {shlex.join(self.overrides)}"


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        name: short and unique in the experiment.
        title: as the table prints it.
        series: what a figure joins by a line: a method at several strengths.
        cells: by task.
    """

    name: str
    title: str
    series: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Experiment:
    """A table: its rows and what to compare them with.

    Attributes:
        name: of the file.
        title: over the table.
        note: under it: the protocol, and what it can and cannot show.
        baseline: the row that the others are compared with.
        next: what to try after it.
        tasks: that every row runs.
    """

    name: str
    title: str
    note: str
    baseline: str
    next: str
    tasks: list[str]
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
    keys = {"title", "note", "baseline", "next", "tasks", "rows"}
    if not isinstance(found, dict) or set(found) != keys:
        raise BiGainError(f"{path.name} must have the keys {', '.join(sorted(keys))}")
    tasks: dict[str, list[str]] = found["tasks"]
    rows = [
        Row(
            r["name"],
            r["title"],
            r.get("series", r["title"]),
            {
                task: Cell([f"task={task}", *shared, *r["overrides"], *(extra or [])])
                for task, shared in tasks.items()
            },
        )
        for r in found["rows"]
    ]
    names = [r.name for r in rows]
    if found["baseline"] not in names or len(set(names)) < len(names):
        raise BiGainError(
            f"{path.name}: row names must be unique and baseline one of them; got "
            f"{', '.join(names)} and {found['baseline']}"
        )
    return Experiment(
        name,
        found["title"],
        found["note"],
        found["baseline"],
        found["next"],
        list(tasks),
        rows,
    )

"""An experiment file: the rows of a table or figure, at the paper's scale and in miniature.

A scale (experiments/scales) says what is common to its tables: the models with their data, here
called groups, and the settings of each task. An experiment names the groups it takes of each
scale. One without groups has a single scale of its own, which its tasks hold.
"""

import copy
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments import configuration
from bigain.experiments.job import Job
from bigain.store.runs import Run
from bigain.utils.paths import REPOSITORY

FOLDER = REPOSITORY / "experiments"
CONFIGS = REPOSITORY / "configs"
SCALES = ("paper", "mini")
KEYS = {"title", "note", "baseline", "tasks", "rows"}
OPTIONAL = {"groups", "next", "figures", "axis", "maps", "without"}


@dataclass(frozen=True)
class Cell:
    """One configuration of a table: a row's method under one task.

    Attributes:
        overrides: all that distinguish it from the default configuration.
    """

    overrides: list[str]

    @cached_property
    def job(self) -> Job:
        """Its objects, and where its run lies.

        Raises:
            BiGainError: if the data or the model's files are not there.
        """
        return Job(composed(self.overrides))

    @property
    def run_path(self) -> Path:
        return self.job.run_path

    def scores(self, run: Run) -> dict[str, Any] | None:
        """The scores of the images it must hold; None if there are none."""
        scoring = self.job.scoring
        return scoring.read(run, len(self.job.ids)) if scoring else None

    def scored(self, run: Run) -> bool:
        """Whether the run has all the scores that it is to have and can have."""
        scoring = self.job.scoring
        return scoring is None or scoring.complete(run, len(self.job.ids))

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
        published: the paper's values by metric ("acc1", "fid", "map").
        x: its place on the experiment's axis; None if it does not set that.
    """

    name: str
    title: str
    series: str
    cells: dict[str, Cell]
    published: dict[str, float] = field(default_factory=dict)
    x: float | None = None


@dataclass(frozen=True)
class Group:
    """One model on one data set; its rows are compared with each other.

    Attributes:
        name: short and unique; "" if the experiment has no groups.
        title: as the table prints it.
    """

    name: str
    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Experiment:
    """A table or figure: its rows and what to compare them with.

    Attributes:
        name: of the file.
        scale: "paper" or "mini"; None for an experiment without groups.
        title: over the table.
        note: under it: the protocol, and what it can and cannot show.
        baseline: the row that the others of a group are compared with.
        next: what to try after it; may be empty.
        tasks: that every row runs.
        figures: to draw beside the table, of `bigain.reporting.build.FIGURES`.
        maps: the ``block`` and ``timestep`` that figures of traces show; may be empty.
        axis: what figures draw values against, the label of a setting; empty for costs.
        spent: whether tables print the time and memory that the runs took.
    """

    name: str
    scale: str | None
    title: str
    note: str
    baseline: str
    next: str
    tasks: list[str]
    figures: list[str]
    maps: dict[str, int]
    groups: list[Group]
    axis: str = ""
    spent: bool = True

    @property
    def rows(self) -> list[Row]:
        """Those of all groups."""
        return [row for group in self.groups for row in group.rows]

    @property
    def cells(self) -> list[Cell]:
        """Those of all rows, none twice."""
        every = [cell for row in self.rows for cell in row.cells.values()]
        return list({tuple(cell.overrides): cell for cell in every}.values())


def composed(overrides: Sequence[str]) -> DictConfig:
    """What ``python run.py`` makes of ``overrides``.

    Hydra first composes the options chosen, which is slow, and then sets the values in their order;
    the former is done once for all that choose the same.
    """
    parsed = [_parsed(text) for text in overrides]
    if all(map(_is_plain, parsed)):
        options = tuple(str(o.input_line) for o in parsed if _chooses(o))
        cfg = copy.deepcopy(_chosen(options))
        with suppress(OmegaConfBaseException):
            for override in parsed:
                if not _chooses(override):
                    OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
            return cfg
    return _compose(overrides)  # what is rare, and errors in Hydra's words


def _is_plain(override: Override) -> bool:
    """Whether it is key=value or group=option: it adds, deletes, moves and sweeps nothing."""
    change = override.type == OverrideType.CHANGE and not override.is_sweep_override()
    return change and override.package is None


def _chooses(override: Override) -> bool:
    """Whether it chooses an option of a group; Hydra takes a dict for values."""
    group = CONFIGS / override.key_or_group
    return group.is_dir() and not isinstance(override.value(), dict)


@cache
def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_overrides([text])[0]


@cache
def _chosen(options: tuple[str, ...]) -> DictConfig:
    return _compose(options)


def _compose(overrides: Sequence[str]) -> DictConfig:
    configuration.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose("config", overrides=list(overrides))


def names(scale: str | None = None) -> list[str]:
    """Every experiment, or those that have groups at ``scale``, in the order of the paper."""
    found = [p.stem for p in FOLDER.glob("*.yaml")]
    if scale is not None:
        found = [n for n in found if scale in scales(n)]
    return sorted(found, key=lambda n: (n.rstrip("0123456789"), len(n), n))


def rows(name: str) -> list[dict[str, Any]]:
    """An experiment's rows as they are written: their name, title and overrides."""
    found: list[dict[str, Any]] = _read(name)["rows"]
    return found


def scales(name: str) -> list[str]:
    """Those at which an experiment has groups; none if it has no groups.

    Raises:
        BiGainError: as `load` does.
    """
    return list(_read(name).get("groups", {}))


def load(name: str, scale: str | None = None, extra: Sequence[str] | None = None) -> Experiment:
    """Read ``experiments/<name>.yaml``.

    Args:
        scale: of an experiment with groups, "paper" or "mini"; None takes "mini".
        extra: overrides on top of every row's, as given on the command line.

    Raises:
        BiGainError: if it does not exist (naming those that do), has no such scale or is not an
            experiment.
    """
    found = _read(name)
    tasks: Mapping[str, list[str]] = found["tasks"]
    if "groups" in found:
        scale = scale or "mini"
        if scale not in found["groups"]:
            raise BiGainError(
                f"experiment {name} has no scale {scale}; it has {', '.join(found['groups'])}"
            )
        shared = _scale(scale)
        tasks = {t: [*shared["tasks"].get(t, []), *(own or [])] for t, own in tasks.items()}
        where = f"results=${{repository:results}}/{scale}"
        groups = [
            _group(g, _known(shared["groups"], g, scale), found, tasks, [where], extra or [], scale)
            for g in found["groups"][scale]
        ]
    else:
        scale, shared = None, {}
        alone: dict[str, Any] = {"title": "", "overrides": []}
        groups = [_group("", alone, found, tasks, [], extra or [], None)]
    return Experiment(
        name,
        scale,
        found["title"],
        found["note"],
        found["baseline"],
        found.get("next", ""),
        list(tasks),
        found.get("figures", []),
        found.get("maps", {}),
        groups,
        found.get("axis", {}).get("label", ""),
        shared.get("spent", True),
    )


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise BiGainError(f"there is no experiment {name}; experiments/ holds: {known}")
    found: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(found, dict) or not KEYS <= set(found) <= KEYS | OPTIONAL:
        raise BiGainError(
            f"{path.name} must have the keys {', '.join(sorted(KEYS))} and may have "
            f"{', '.join(sorted(OPTIONAL))}"
        )
    if set(found.get("axis", {})) not in (set(), {"setting", "label"}):
        raise BiGainError(
            f"{path.name}: axis takes setting, a key of its rows' overrides, and label"
        )
    if isinstance(found["rows"], str):  # those of another experiment
        every, left = _read(found["rows"])["rows"], set(found.get("without", []))
        if unknown := sorted(left - {row["name"] for row in every}):
            raise BiGainError(f"{path.name}: without names {unknown[0]}, which is no row")
        found["rows"] = [row for row in every if row["name"] not in left]
    known_names = [r["name"] for r in found["rows"]]
    if found["baseline"] not in known_names or len(set(known_names)) < len(known_names):
        raise BiGainError(
            f"{path.name}: row names must be unique and baseline one of them; got "
            f"{', '.join(known_names)} and {found['baseline']}"
        )
    return found


def _scale(scale: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / "scales" / f"{scale}.yaml"))
    return found


def _known(groups: Mapping[str, Any], name: str, scale: str) -> dict[str, Any]:
    if name not in groups:
        raise BiGainError(
            f"experiments/scales/{scale}.yaml has no group {name}; it has {', '.join(groups)}"
        )
    return groups[name]


def _group(
    name: str,
    about: Mapping[str, Any],
    found: Mapping[str, Any],
    tasks: Mapping[str, list[str]],
    before: Sequence[str],
    after: Sequence[str],
    scale: str | None,
) -> Group:
    """The experiment's rows on one group's model and data."""

    def cell(task: str, row: Mapping[str, Any]) -> Cell:
        own = about.get(task, [])  # the group's, for this task alone
        parts = (about["overrides"], tasks[task], own, row["overrides"], after)
        return Cell([f"task={task}", *before, *(o for part in parts for o in part)])

    rows = [
        Row(
            r["name"],
            r["title"],
            r.get("series", r["title"]),
            {task: cell(task, r) for task in tasks},
            _published(about, r),
            _place(found.get("axis", {}).get("setting"), r),
        )
        for r in found["rows"]
        if name in r.get("groups", [name])
    ]
    return Group(name, about["title"], rows)


def _place(setting: str | None, row: Mapping[str, Any]) -> float | None:
    """What the row's overrides give a setting.

    Raises:
        BiGainError: if that is no number.
    """
    own = [] if setting is None else map(_parsed, row["overrides"])
    given = [override.value() for override in own if override.key_or_group == setting]
    if not given:
        return None
    if isinstance(given[-1], bool) or not isinstance(given[-1], int | float):
        raise BiGainError(f"row {row['name']}: {setting} is the axis, so it takes a number")
    return float(given[-1])


def _published(about: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float]:
    """The paper's values of a row on a group's model and data, by metric.

    Raises:
        BiGainError: if the row names values that are not in experiments/published.csv for any
            model and data.
    """
    if "published" not in row:
        return {}
    table = pd.read_csv(FOLDER / "published.csv", dtype={"table": str}, keep_default_na=False)
    wanted = row["published"]
    mine = (table[list(wanted)] == pd.Series(wanted)).all(axis=1)
    if not mine.any():
        raise BiGainError(f"row {row['name']}: experiments/published.csv holds no {wanted}")
    if "published" not in about:
        return {}
    here = (table[["model", "dataset"]] == pd.Series(about["published"])).all(axis=1)
    values = table[mine & here]
    return {m: float(v) for m, v in zip(values["metric"], values["value"], strict=True)}

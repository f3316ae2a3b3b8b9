"""An experiment file: the rows of a table or figure, at the paper's scale and in miniature.

A scale (experiments/scales) says what is common to its tables: the models with their data, here
called groups, and the settings of each task. An experiment names the groups it takes of each
scale. One without groups has a single scale of its own, which its tasks hold.

Its rows are references to the methods of experiments/methods.yaml, such as ``tome@0.5``, or
mappings that add to one, or to several, what belongs to this table alone. They may also be the name
of another experiment, whose rows are then taken, except those that ``without`` names.
docs/extending.md describes every key.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError, one_line, shortened
from bigain.experiments.composition import composed
from bigain.experiments.experiment_types import (
    GROUP_KEYS,
    GROUP_TYPES,
    KEYS,
    SCALE_TYPES,
    TASK_NAMES,
    TYPES,
    check_names,
    check_rows,
)
from bigain.experiments.methods import FILE as METHODS
from bigain.experiments.methods import Method, methods
from bigain.experiments.published_values import published_values
from bigain.experiments.schema import explain, suggestion
from bigain.experiments.written_rows import Written, written
from bigain.experiments.yaml_files import check_keys, read_mapping, shown_path
from bigain.utils.paths import NAME, REPOSITORY
from bigain.utils.setting_types import shown

if TYPE_CHECKING:  # they are slow to import, and a sweep only needs its overrides
    from bigain.experiments.job import Job
    from bigain.store.runs import Run

FOLDER = REPOSITORY / "experiments"


@dataclass(frozen=True)
class Entry:
    """One configuration of a table: a row's method under one task.

    Attributes:
        overrides: all overrides that distinguish it from the default configuration.
    """

    overrides: list[str]

    @cached_property
    def job(self) -> "Job":
        """Its objects, and where its run lies.

        Raises:
            BiGainError: if an override is none, or the data or the model's files are not there.
        """
        from bigain.experiments.configuration import settings_of
        from bigain.experiments.job import Job

        try:
            return Job(settings_of(self._configuration()))
        except (HydraException, OmegaConfBaseException) as error:
            raise BiGainError(explain(error)) from None

    def _configuration(self) -> DictConfig:
        try:
            return composed(self.overrides)
        except (ValueError, RecursionError) as error:  # of values that Hydra does not foresee
            given = shortened(" ".join(self.overrides))
            raise BiGainError(f"{given} cannot be read: {one_line(error)}") from None

    @property
    def run_path(self) -> Path:
        return self.job.run_path

    def scores(self, run: "Run") -> dict[str, Any] | None:
        """The scores of the images it must hold; None if there are none."""
        scoring = self.job.scoring
        return scoring.read(run, len(self.job.ids)) if scoring else None

    def scored(self, run: "Run") -> bool:
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
        name: the method's reference, unique in the experiment.
        title: its name as the table prints it.
        series: what a figure joins by a line: a method at several strengths.
        entries: its entries by task.
        published: the paper's values by metric ("acc1", "fid", "map").
        x: its place on the experiment's axis; None if there is no axis, or the method has no
            strength.
    """

    name: str
    title: str
    series: str
    entries: dict[str, Entry]
    published: dict[str, float] = field(default_factory=dict)
    x: float | None = None


@dataclass(frozen=True)
class Group:
    """One model on one data set; its rows are compared with each other.

    Attributes:
        name: short and unique; "" if the experiment has no groups.
        title: its name as the table prints it.
    """

    name: str
    title: str
    rows: list[Row]

    @property
    def tasks(self) -> list[str]:
        """Those of the experiment's tasks that its rows run; all of them by default."""
        return list(dict.fromkeys(task for row in self.rows for task in row.entries))


@dataclass(frozen=True)
class Experiment:
    """A table or figure: its rows and what to compare them with.

    Attributes:
        name: the file's name.
        scale: "paper" or "mini"; None for an experiment without groups.
        title: what stands over the table.
        note: what stands under it: the protocol, and what it can and cannot show.
        baseline: the row that the others of a group are compared with.
        next: what to try after it; may be empty.
        tasks: the tasks that every row runs, unless its group takes part in only some of them.
        figures: the figures to draw, by their names in `bigain.reporting.build.FIGURES`.
        maps: the ``block`` and ``timestep`` that figures of traces show; may be empty.
        overview: the methods that the figure "overview" shows, by name without a strength; empty
            for all.
        axis: the label of the methods' strength, which figures then draw values against; empty
            for costs.
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
    overview: Sequence[str] = ()

    @property
    def rows(self) -> list[Row]:
        """The rows of all groups."""
        return [row for group in self.groups for row in group.rows]

    @property
    def entries(self) -> list[Entry]:
        """The distinct entries of all rows."""
        every = [entry for row in self.rows for entry in row.entries.values()]
        return list({tuple(entry.overrides): entry for entry in every}.values())


def load(name: str, scale: str | None = None, extra: Sequence[str] | None = None) -> Experiment:
    """Read ``experiments/<name>.yaml``.

    Args:
        scale: "paper" or "mini", for an experiment with groups; None takes "mini".
        extra: overrides on top of every row's, as given on the command line.

    Raises:
        BiGainError: if it does not exist (naming those that do), has no such scale or is not an
            experiment.
    """
    found = _read(name)
    shared: dict[str, Any] = {"tasks": {}, "groups": {"": {"title": "", "overrides": []}}}
    chosen, before = [""], []
    if "groups" in found:
        scale = scale or "mini"
        if scale not in found["groups"]:
            raise BiGainError(
                f"experiment {name} has no scale {scale}; it has {', '.join(found['groups'])}"
            )
        shared, chosen = _scale(scale), found["groups"][scale]
        before = [f"results=${{repository:results}}/{scale}"]
    else:
        scale = None
    tasks = {
        task: [*(shared["tasks"].get(task) or []), *(own or [])]
        for task, own in found["tasks"].items()
    }
    try:
        if unknown := [group for group in chosen if group not in shared["groups"]]:
            known = ", ".join(shared["groups"])
            raise BiGainError(f"scales/{scale}.yaml has no group {unknown[0]}; it has {known}")
        groups = [_group(g, shared["groups"][g], found, tasks, before, extra or []) for g in chosen]
    except BiGainError as error:
        raise BiGainError(f"{shown_path(FOLDER / name)}.yaml: {error}") from None
    return Experiment(
        name=name,
        scale=scale,
        title=found["title"],
        note=found["note"],
        baseline=found["baseline"],
        next=found.get("next", ""),
        tasks=list(tasks),
        figures=found.get("figures", []),
        maps=found.get("maps", {}),
        groups=groups,
        axis=found.get("axis", ""),
        spent=shared.get("spent", True),
        overview=found.get("overview", []),
    )


def load_all(chosen: Iterable[str], scale: str | None = None) -> tuple[list[Experiment], list[str]]:
    """The experiments that can be read, and one line about each that cannot."""
    found, problems = [], []
    for name in chosen:
        try:
            found.append(load(name, scale))
        except BiGainError as error:
            problems.append(one_line(error))
    return found, list(dict.fromkeys(problems))


def names(scale: str | None = None) -> list[str]:
    """Every experiment, or those that have groups at ``scale``, in the order of the paper.

    A file that cannot be read is among them, and `load` says what is wrong with it.

    Raises:
        BiGainError: if what all experiments share cannot be read.
    """
    methods()
    if scale is not None:
        _scale(scale)
    return [name for name in _names() if scale is None or _may_have(name, scale)]


def scales(name: str) -> list[str]:
    """The scales at which an experiment has groups; none if it has no groups.

    Raises:
        BiGainError: as `load` does.
    """
    return list(_read(name).get("groups", {}))


def methods_of(name: str) -> list[Method]:
    """The methods of an experiment's rows.

    Raises:
        BiGainError: as `load` does.
    """
    return [row.method for row in _read(name)["rows"]]


def _read(name: str, of: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an experiment's file holds, with its rows read.

    Args:
        of: the experiments whose rows are to be those of this one.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in _names():
        given = shown(name)[1:-1]
        raise BiGainError(f"there is no experiment {given}; {suggestion(name, _names())}")
    where = shown_path(path)
    if not NAME.fullmatch(name):
        raise BiGainError(
            f"{where}: an experiment's name has only letters, digits and any of _.+=-; rename it"
        )
    found = read_mapping(path, TYPES, KEYS)
    try:
        check_names(found)
        if isinstance(found["rows"], str):  # those of another experiment
            if found["rows"] in (*of, name):
                raise BiGainError(
                    f"rows names {found['rows']}, whose rows are taken from here in turn; list the "
                    "rows themselves in one of the files"
                )
            every = _read(found["rows"], (*of, name))["rows"]
            left = set(found.get("without", []))
            there = [row.name for row in every]
            if unknown := sorted(left.difference(there)):
                raise BiGainError(
                    f"without names {unknown[0]}, which is no row; {suggestion(unknown[0], there)}"
                )
            found["rows"] = [row for row in every if row.name not in left]
        elif "without" in found:
            raise BiGainError(
                "without works only if rows names another experiment; here, remove without, and "
                "delete those rows from rows"
            )
        else:
            found["rows"] = [row for given in found["rows"] for row in written(given)]
        check_rows(found)
    except BiGainError as error:
        raise BiGainError(f"{where}: {error}") from None
    return found


def _names() -> list[str]:
    found = [
        path.stem
        for path in FOLDER.glob("*.yaml")
        if path.name != METHODS.name and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda n: (n.rstrip("0123456789"), len(n), n))


def _may_have(name: str, scale: str) -> bool:
    try:
        return scale in scales(name)
    except BiGainError:
        return True


def _scale(scale: str) -> dict[str, Any]:
    """What is common to the experiments of a scale."""
    path = FOLDER / "scales" / f"{scale}.yaml"
    found = read_mapping(path, SCALE_TYPES, frozenset({"tasks", "groups"}))
    for name, group in found["groups"].items():
        if not NAME.fullmatch(name):  # as it becomes part of the names of files
            raise BiGainError(
                f"{shown_path(path)}: a group's name has only letters, digits and any of _.+=-; "
                f"rename {shown(name)}"
            )
        where = f"{shown_path(path)}: group {name}"
        check_keys(where, group, GROUP_TYPES, GROUP_KEYS)
        if unknown := [task for task in group.get("tasks", []) if task not in TASK_NAMES]:
            given = shown(unknown[0])
            raise BiGainError(f"{where}: tasks names {given}; {suggestion(unknown[0], TASK_NAMES)}")
    return found


def _group(
    name: str,
    about: Mapping[str, Any],
    found: Mapping[str, Any],
    tasks: Mapping[str, list[str]],
    before: Sequence[str],
    after: Sequence[str],
) -> Group:
    """The experiment's rows on one group's model and data."""

    taken = [task for task in tasks if task in about.get("tasks", tasks)]
    if not taken:
        raise BiGainError(
            f"group {name} takes part in none of the experiment's tasks ({', '.join(tasks)}); "
            "leave the group out, or change its tasks in the file of the scale"
        )

    def entry(task: str, row: Written) -> Entry:
        own = about.get(task, [])  # the group's, for this task alone
        parts = (about["overrides"], tasks[task], own, row.overrides, after)
        return Entry([f"task={task}", *before, *(o for part in parts for o in part)])

    rows = [
        Row(
            name=row.name,
            title=row.title,
            series=row.series,
            entries={task: entry(task, row) for task in taken},
            published=_published(about, row),
            x=_place(row) if "axis" in found else None,
        )
        for row in found["rows"]
        if name in row.own.get("groups", [name])
    ]
    return Group(name, about["title"], rows)


def _place(row: Written) -> float | None:
    """The strength of the row's method; None if it has none.

    Raises:
        BiGainError: if that is no number.
    """
    if "strength" in row.method.values and row.method.strength is None:
        raise BiGainError(
            f"row {row.name}: figures draw values against the strength, so it must be a number; "
            "remove the experiment's axis, or the row"
        )
    return row.method.strength


def _published(about: Mapping[str, Any], row: Written) -> dict[str, float]:
    """The paper's values of a row on a group's model and data, by metric.

    Raises:
        BiGainError: if the row names values that are not there for any model and data.
    """
    if "published" not in row.own:
        return {}
    here = about.get("published")
    try:
        return published_values(FOLDER / "published.csv", row.own["published"], here)
    except BiGainError as error:
        raise BiGainError(f"row {row.name}: {error}") from None

"""An experiment file: the rows of a table or figure, at the paper's scale and in miniature.

A scale (experiments/scales) says what is common to its tables: the models with their data, here
called groups, and the settings of each task. An experiment names the groups it takes of each
scale. One without groups has a single scale of its own, which its tasks hold.

Its rows are references to the methods of experiments/methods.yaml, such as ``tome@0.5``, or
mappings that add to one, or to several, what belongs to this table alone.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.experiments.methods import FILE as METHODS
from bigain.experiments.methods import Method, method
from bigain.experiments.schema import suggestion
from bigain.utils.csv_files import read_rows
from bigain.utils.paths import REPOSITORY

if TYPE_CHECKING:  # they are slow to import, and a sweep only needs its overrides
    from bigain.experiments.job import Job
    from bigain.store.runs import Run

FOLDER = REPOSITORY / "experiments"
SCALES = ("paper", "mini")
KEYS = {"title", "note", "baseline", "tasks", "rows"}
OPTIONAL = {"groups", "next", "figures", "axis", "maps", "overview", "without"}
# of a row: one of both, and what it may add
METHOD_KEYS = {"method", "methods"}
ROW_KEYS = {"title", "series", "overrides", "groups", "published"}


@dataclass(frozen=True)
class Entry:
    """One configuration of a table: a row's method under one task.

    Attributes:
        overrides: all that distinguish it from the default configuration.
    """

    overrides: list[str]

    @cached_property
    def job(self) -> "Job":
        """Its objects, and where its run lies.

        Raises:
            BiGainError: if the data or the model's files are not there.
        """
        from bigain.experiments.configuration import settings_of
        from bigain.experiments.job import Job

        return Job(settings_of(composed(self.overrides)))

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
        title: as the table prints it.
        series: what a figure joins by a line: a method at several strengths.
        entries: by task.
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


def names(scale: str | None = None) -> list[str]:
    """Every experiment, or those that have groups at ``scale``, in the order of the paper."""
    found = [path.stem for path in FOLDER.glob("*.yaml") if path.name != METHODS.name]
    if scale is not None:
        found = [n for n in found if scale in scales(n)]
    return sorted(found, key=lambda n: (n.rstrip("0123456789"), len(n), n))


def methods_of(name: str) -> list[Method]:
    """The methods of an experiment's rows.

    Raises:
        BiGainError: as `load` does.
    """
    return [row.method for row in _read(name)["rows"]]


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
        found.get("axis", ""),
        shared.get("spent", True),
        found.get("overview", []),
    )


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.yaml"
    if not path.is_file() or path.name == METHODS.name:
        raise BiGainError(f"there is no experiment {name}; {suggestion(name, names())}")
    found: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(found, dict) or not KEYS <= set(found) <= KEYS | OPTIONAL:
        raise BiGainError(
            f"{path.name} must have the keys {', '.join(sorted(KEYS))} and may have "
            f"{', '.join(sorted(OPTIONAL))}"
        )
    if isinstance(found["rows"], str):  # those of another experiment
        every, left = _read(found["rows"])["rows"], set(found.get("without", []))
        if unknown := sorted(left - {row.name for row in every}):
            raise BiGainError(f"{path.name}: without names {unknown[0]}, which is no row")
        found["rows"] = [row for row in every if row.name not in left]
    else:
        found["rows"] = [row for given in found["rows"] for row in _written(given, path.name)]
    known_names = [row.name for row in found["rows"]]
    if found["baseline"] not in known_names or len(set(known_names)) < len(known_names):
        raise BiGainError(
            f"{path.name}: rows must be unique and baseline one of them; got "
            f"{', '.join(known_names)} and {found['baseline']}"
        )
    named = {name.partition("@")[0] for name in known_names}
    if unknown := [name for name in found.get("overview", []) if name not in named]:
        raise BiGainError(
            f"{path.name}: overview names {unknown[0]}, which is no method of its rows; they are "
            f"of {', '.join(sorted(named))}"
        )
    return found


@dataclass(frozen=True)
class _Written:
    """A row as the file holds it, before it is put on a model and its data.

    Attributes:
        method: what it refers to.
        own: what the table adds, by `ROW_KEYS`.
    """

    method: Method
    own: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.method.reference

    @property
    def title(self) -> str:
        return self.method.fill(self.own["title"]) if "title" in self.own else self.method.title

    @property
    def series(self) -> str:
        """The table's own; a title of its own stands alone."""
        if "series" in self.own:
            return self.method.fill(self.own["series"])
        return self.title if "title" in self.own else self.method.series

    @property
    def overrides(self) -> list[str]:
        return [*self.method.overrides, *self.own.get("overrides", [])]


def _written(given: Any, file: str) -> list[_Written]:
    """The rows that one item of a file's rows stands for.

    Raises:
        BiGainError: if it is neither a reference nor a mapping of the known keys, or names no
            method.
    """
    row = {"method": given} if isinstance(given, str) else given
    if (
        not isinstance(row, dict)
        or len(METHOD_KEYS & set(row)) != 1
        or not set(row) <= METHOD_KEYS | ROW_KEYS
    ):
        raise BiGainError(
            f"{file}: a row is a method of {METHODS.name}, such as tome@0.5, or a mapping of "
            f"method or methods and any of {', '.join(sorted(ROW_KEYS))}; got {given}"
        )
    references = [row["method"]] if "method" in row else row["methods"]
    own = {key: value for key, value in row.items() if key in ROW_KEYS}
    try:
        return [_Written(method(reference), own) for reference in references]
    except BiGainError as error:
        raise BiGainError(f"{file}: {error}") from error


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

    def entry(task: str, row: _Written) -> Entry:
        own = about.get(task, [])  # the group's, for this task alone
        parts = (about["overrides"], tasks[task], own, row.overrides, after)
        return Entry([f"task={task}", *before, *(o for part in parts for o in part)])

    rows = [
        Row(
            row.name,
            row.title,
            row.series,
            {task: entry(task, row) for task in tasks},
            _published(about, row),
            _place(row) if "axis" in found else None,
        )
        for row in found["rows"]
        if name in row.own.get("groups", [name])
    ]
    return Group(name, about["title"], rows)


def _place(row: _Written) -> float | None:
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


def _published(about: Mapping[str, Any], row: _Written) -> dict[str, float]:
    """The paper's values of a row on a group's model and data, by metric.

    Raises:
        BiGainError: if the row names values that are not in experiments/published.csv for any
            model and data.
    """
    if "published" not in row.own:
        return {}
    wanted = row.own["published"]
    mine = [value for value in _table() if wanted.items() <= value.items()]
    if not mine:
        raise BiGainError(f"row {row.name}: experiments/published.csv holds no {wanted}")
    if "published" not in about:
        return {}
    here = about["published"].items()
    return {v["metric"]: float(v["value"]) for v in mine if here <= v.items()}


@cache
def _table() -> list[dict[str, str]]:
    """The paper's values, as experiments/published.csv holds them."""
    path = FOLDER / "published.csv"
    rows = read_rows(path, ("metric", "value"))
    for line, row in rows.items():
        try:
            float(row["value"])
        except ValueError:
            raise BiGainError(
                f"{path}, line {line}: value must be a number, got {row['value']!r}"
            ) from None
    return list(rows.values())

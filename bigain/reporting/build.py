"""An experiment's table and figures from its runs."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bigain.compressors import Anchored
from bigain.errors import BiGainError
from bigain.experiments.experiment_files import Entry, Experiment, Group
from bigain.experiments.experiment_files import Row as ExperimentRow
from bigain.experiments.schema import suggestion
from bigain.experiments.scoring_settings import metric_kinds
from bigain.reporting import figures, overview, samples, tables
from bigain.reporting.maps import draw_maps
from bigain.reporting.published import add_published, published
from bigain.reporting.retention import VALUES, draw_retention
from bigain.store.forward_times import conditions_of, time_of
from bigain.store.runs import MissingImagesError, Run
from bigain.tasks import TASKS
from bigain.tasks.columns import Results, Row, comparable
from bigain.utils import files
from bigain.utils.paths import REPOSITORY

BENCHMARKS = REPOSITORY / "results" / "benchmarks"


@dataclass(frozen=True)
class Found:
    """What there is of an entry: None for what has not run, or not finished.

    Attributes:
        problem: why it is not whole, with what would complete it; None also if it has not begun.
    """

    run: Run | None = None
    frame: pd.DataFrame | None = None
    scores: Mapping[str, Any] | None = None
    problem: str | None = None

    @property
    def results(self) -> Results:
        """What a table's row is made of."""
        if self.run is None:
            return Results(metrics=metric_kinds())
        return Results.of(self.run, self.frame, self.scores, metric_kinds())


Entries = Mapping[str, Mapping[str, Found]]  # by row, then by task


@dataclass(frozen=True)
class Collected:
    """A group as the store has it.

    Attributes:
        section: its part of the experiment's table; None if no task of it has a table.
    """

    group: Group
    entries: Entries
    section: tables.Section | None

    @property
    def rows(self) -> Sequence[Row]:
        return self.section.rows if self.section else []


def collect(experiment: Experiment) -> list[Collected]:
    """The experiment's groups with their rows, from their runs and the benchmarks' times alone.

    Raises:
        BiGainError: if the baseline is no row, a figure is none, a run is damaged, or a row and
            the baseline have other images.
    """
    for group in experiment.groups:
        titles = {row.name: row.title for row in group.rows}
        if experiment.baseline not in titles:
            raise BiGainError(
                f"experiment {experiment.name} has the baseline {experiment.baseline}, which is "
                f"none of its rows ({', '.join(titles)}); name one of them in its file"
            )
    if unknown := [name for name in figures_of(experiment) if name not in FIGURES]:
        raise BiGainError(
            f"experiment {experiment.name} has the figure {unknown[0]!r}; "
            f"{suggestion(unknown[0], FIGURES)}"
        )
    collected = []
    for group in experiment.groups:
        found = _read_group(group)
        section = None
        rows = [_row(row, found, experiment.baseline) for row in group.rows]
        columns = [
            TASKS[task].columns(rows, metric_kinds(), experiment.spent) for task in group.tasks
        ]
        if parts := [part for part in columns if part is not None]:
            section = tables.Section(group.title, rows, [*parts, *published(rows)])
        collected.append(Collected(group, found, section))
    return collected


def build(experiment: Experiment, out: Path, collected: Sequence[Collected] | None = None) -> str:
    """Write ``<out>/<name>.{csv,md,tex}`` and the experiment's figures; return the Markdown.

    An entry whose run has not started or not finished is dashes; for the latter a line on stderr
    says what is missing and how to complete it. A run's costs come from its record "cost".

    Args:
        collected: what `collect` found, if that is known already.

    Raises:
        BiGainError: if the baseline is no row, a run is damaged, or a row and the baseline have
            other images.
    """
    if collected is None:
        collected = collect(experiment)
    for part in collected:
        for found in (found for entries in part.entries.values() for found in entries.values()):
            if found.problem:
                print(found.problem, file=sys.stderr)
    text = ""
    files.make_folder(out)
    sections = [part.section for part in collected if part.section]
    if sections:
        stem = out / experiment.name
        on = conditions_of(BENCHMARKS)
        text = tables.write(sections, stem, experiment.title, experiment.note, on)
    for name in figures_of(experiment):
        FIGURES[name](experiment, collected, out / experiment.name)
    return text


def draw_overview(
    experiment: Experiment, path: Path, collected: Sequence[Collected] | None = None
) -> bool:
    """Draw `bigain.reporting.overview` of an experiment; return whether there was anything to draw.

    Args:
        path: the PNG file.
        collected: the experiment's groups, if they have been read already.

    Raises:
        BiGainError: as `build` does.
    """
    models = []
    for part in collect(experiment) if collected is None else collected:
        absent = [task for task in experiment.tasks if task not in part.group.tasks]
        if any(TASKS[task].panels for task in absent):  # some panels would have no points of it
            continue
        series: dict[str, list[Row]] = {}
        baseline: Row = {}
        lines = list(zip(part.group.rows, part.rows, strict=True))
        names = experiment.overview or [_method(row) for row, _ in lines]
        for name in dict.fromkeys(names):
            for row, line in lines:
                if row.name == experiment.baseline:
                    baseline = line
                elif _method(row) == name:
                    series.setdefault(row.series, []).append(line)
        models.append(overview.Model(part.group.title, baseline, series))
    panels = [panel for task in experiment.tasks for panel in TASKS[task].panels]
    files.make_folder(path.parent)
    return overview.draw(models, panels, path, experiment.title)


def figures_of(experiment: Experiment) -> list[str]:
    """The names of its figures: one each for every group, but for those in `ACROSS`."""
    usual = [figure for task in experiment.tasks for figure in TASKS[task].figures]
    return list(experiment.figures) or ["tradeoff", *usual]


def pictures_of(experiment: Experiment, figure: str) -> int:
    """How many pictures a figure consists of, once all runs are finished."""
    if figure in ACROSS:
        return 1
    tasks = {task for task in experiment.tasks if figure in TASKS[task].figures}
    return sum(not tasks or not tasks.isdisjoint(group.tasks) for group in experiment.groups)


def _row(row: ExperimentRow, found: Entries, baseline: str) -> Row:
    """The row of a table: what each task gives, the time of a forward and the paper's values."""
    runs = [entry.run for entry in found[row.name].values() if entry.run is not None]
    times = [time for run in runs if (time := time_of(run, BENCHMARKS)) is not None]
    anchored = all(_compressor(run) == Anchored.__name__ for run in runs)
    line: Row = dict(zip(tables.TIMES, times[0] if times else [None] * 3, strict=True))
    for task, entry in found[row.name].items():
        other = found[baseline][task] if row.name != baseline else None
        baseline_results = other.results if other else None
        part = TASKS[task].row(row.title, entry.results, baseline_results)
        if anchored:
            line, part = _costlier(line, part)
        line = _merge(line, part)
    return add_published(line, row.published)


def _tradeoff(
    experiment: Experiment, group: Group, found: Entries, rows: Sequence[Row], stem: Path
) -> None:
    timed = tables.Section("", rows, []).timed
    panels = [
        panel
        for task in group.tasks
        for panel in figures.panels_of(
            TASKS[task].panels, experiment.axis, timed or not experiment.spent
        )
    ]
    alike = [dict(line) for line in rows]
    for drawn in panels:  # one axis takes times of one kind of machine
        panel = drawn.panel
        same = comparable(rows, panel.seconds, panel.conditions)
        alike = [line if same(line) else {**line, panel.seconds: None} for line in alike]
    placed = [{**line, figures.SETTING: row.x} for line, row in zip(alike, group.rows, strict=True)]
    baseline = next(row.title for row in group.rows if row.name == experiment.baseline)
    title = f"{experiment.title}: {group.title}" if group.title else experiment.title
    figures.tradeoff(placed, [row.series for row in group.rows], panels, stem, title, baseline)


def _samples(
    experiment: Experiment, group: Group, found: Entries, rows: Sequence[Row], stem: Path
) -> None:
    drawn = {
        row.title: (entry.frame, entry.run.sheet())
        for row in group.rows
        for task, entry in found[row.name].items()
        if TASKS[task].draws and entry.frame is not None and entry.run is not None
    }
    samples.draw(drawn, stem, group.title or experiment.title)


def _traced(
    draw: Callable[..., None], experiment: Experiment, group: Group, found: Entries, stem: Path
) -> None:
    """Draw what traces show, one panel or line per method."""
    traces = {
        row.title: entry.frame
        for row in group.rows
        for task, entry in found[row.name].items()
        if TASKS[task].watches and entry.frame is not None
    }
    draw(traces, stem, group.title or experiment.title)


def _maps(
    experiment: Experiment, group: Group, found: Entries, rows: Sequence[Row], stem: Path
) -> None:
    block, timestep = experiment.maps.get("block", 0), experiment.maps.get("timestep")
    draw = partial(draw_maps, block=block, timestep=timestep)
    _traced(draw, experiment, group, found, stem)


def _retention(
    experiment: Experiment, group: Group, found: Entries, rows: Sequence[Row], stem: Path
) -> None:
    timestep = experiment.maps.get("timestep")
    methods = {row.title: row.series for row in group.rows}
    for value in VALUES:
        draw = partial(draw_retention, value=value, timestep=timestep, methods=methods)
        _traced(draw, experiment, group, found, stem)


def _overview(experiment: Experiment, collected: Sequence[Collected], stem: Path) -> None:
    draw_overview(experiment, stem.with_name(f"{stem.name}-overview.png"), collected)


def _method(row: ExperimentRow) -> str:
    """Its name without the strength."""
    return row.name.partition("@")[0]


Draw = Callable[[Experiment, Sequence[Collected], Path], None]


def _each_group(
    draw: Callable[[Experiment, Group, Entries, Sequence[Row], Path], None],
) -> Draw:
    """Draw one figure per group, whose name is part of the file's if there are several."""

    def every_group(experiment: Experiment, collected: Sequence[Collected], stem: Path) -> None:
        for part in collected:
            suffix = f"-{part.group.name}" if len(collected) > 1 else ""
            own = stem.with_name(stem.name + suffix)
            draw(experiment, part.group, part.entries, part.rows, own)

    return every_group


# name in an experiment file -> draws it from (experiment, its groups, stem of the files' names)
FIGURES: dict[str, Draw] = {
    "tradeoff": _each_group(_tradeoff),
    "samples": _each_group(_samples),
    "maps": _each_group(_maps),
    "retention": _each_group(_retention),
    "overview": _overview,
}
ACROSS = frozenset({"overview"})  # figures of all groups together


def _compressor(run: Run) -> str | None:
    """The name of the run's compressor class."""
    compression = run.identity.get("compression") or {}
    found: str | None = (compression.get("compressor") or {}).get("class")
    return found


def _costlier(row: Row, part: Row) -> tuple[Row, Row]:
    """Both with the FLOPs of the one that takes more of them.

    Every task has anchors of its own: a class of each noisy image, or some of the sampling steps.
    """
    if row.get("gflops") is None or part.get("gflops") is None:
        return row, part
    most = max(row, part, key=lambda line: line["gflops"])
    flops = {key: most[key] for key in ("gflops", "gflops_matching")}
    return row | flops, part | flops


def _merge(row: Row, part: Row) -> Row:
    """One row of both; what they share, such as FLOPs, is the same or missing in one."""
    merged = {**row, **part}
    for key in row.keys() & part.keys():
        if row[key] is not None and part[key] is not None and row[key] != part[key]:
            raise BiGainError(
                f"{row['method']}: its tasks disagree about {key}: {row[key]} and {part[key]}; "
                "give the row one compressor, model and blocks for all tasks"
            )
        merged[key] = row[key] if part[key] is None else part[key]
    return merged


def _read_group(group: Group) -> Entries:
    return {
        row.name: {task: _read(row.title, entry) for task, entry in row.entries.items()}
        for row in group.rows
    }


def _read(title: str, entry: Entry) -> Found:
    try:
        path = entry.run_path
    except BiGainError as error:  # such as data that are not on this machine
        return Found(problem=f"{title}: {error}")
    if (run := Run.find(path)) is None:
        return Found()
    try:
        frame = run.require(entry.image_ids())
    except MissingImagesError as error:
        return Found(run, problem=f"{title}: {error}: {entry.command}")
    problem = None
    if not entry.scored(run):
        problem = f"{title}: its images are not scored yet: {entry.command}"
    return Found(run, frame, entry.scores(run), problem)

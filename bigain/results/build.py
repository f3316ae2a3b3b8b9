"""An experiment's table and figures from its runs."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from bigain.errors import BiGainError
from bigain.results import figures, samples, tables
from bigain.results.accuracy import ACCURACY, accuracy_row
from bigain.results.generation import generation, generation_row
from bigain.results.store import MissingImagesError, Run


class Cell(Protocol):
    """A method under one task, as `build` needs it; ``command`` completes it."""

    @property
    def run_path(self) -> Path: ...
    @property
    def scores(self) -> str | None: ...
    @property
    def command(self) -> str: ...
    def image_ids(self) -> Sequence[str]: ...


class ExperimentRow(Protocol):
    """A method, as `build` needs it; ``cells`` are by task."""

    @property
    def title(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def series(self) -> str: ...
    @property
    def cells(self) -> Mapping[str, Cell]: ...


class Experiment(Protocol):
    """What `build` needs of an experiment; ``baseline`` is the name of a row."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def baseline(self) -> str: ...
    @property
    def tasks(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Sequence[ExperimentRow]: ...


@dataclass(frozen=True)
class _Found:
    """What there is of a cell: None for what has not run, or not finished."""

    run: Run | None = None
    frame: pd.DataFrame | None = None
    scores: dict[str, Any] | None = None

    @property
    def cost(self) -> dict[str, float | None] | None:
        """The part of the run's record "cost" that a table prints."""
        record = self.run.read_record("cost") if self.run else None
        return None if record is None else {key: record[key] for key in tables.COST}

    @property
    def fingerprint(self) -> str | None:
        return self.run.fingerprint if self.run else None

    @property
    def images(self) -> tuple[pd.DataFrame, Path]:
        """The rows of generated images and the folder they lie in."""
        assert self.run is not None and self.frame is not None
        return self.frame, self.run.path / "images"


def build(experiment: Experiment, out: Path) -> str:
    """Write ``<out>/<name>.{csv,md,tex,png}`` and return the Markdown.

    Where images were generated, ``<name>-samples.png`` shows some of every method's.

    A cell whose run has not started or not finished is dashes; for the latter a line on stderr says
    what is missing and how to complete it. A run's costs come from its record "cost".

    Raises:
        BiGainError: if the baseline is no row, a run is damaged, or a row and the baseline have
            other images.
    """
    titles = {row.name: row.title for row in experiment.rows}
    if experiment.baseline not in titles:
        raise BiGainError(
            f"experiment {experiment.name} has the baseline {experiment.baseline}, which is none "
            f"of its rows ({', '.join(titles)}); name one of them in its file"
        )
    found = {
        row.name: {task: _read(row.title, cell) for task, cell in row.cells.items()}
        for row in experiment.rows
    }
    rows = []
    for row in experiment.rows:
        line: tables.Row = {}
        for task, cell in found[row.name].items():
            other = found[experiment.baseline][task] if row.name != experiment.baseline else None
            line = _merge(line, _PARTS[task](row.title, cell, other))
        rows.append(line)
    stem = out / experiment.name
    kinds = [_KINDS[task](rows) for task in experiment.tasks]
    text = tables.write(rows, kinds, stem, experiment.title, experiment.note)
    panels = [panel for task in experiment.tasks for panel in figures.PANELS[task]]
    series = [row.series for row in experiment.rows]
    figures.tradeoff(rows, series, panels, stem, experiment.title, titles[experiment.baseline])
    if "generate" in experiment.tasks:
        drawn = {
            row.title: found[row.name]["generate"].images
            for row in experiment.rows
            if found[row.name]["generate"].frame is not None
        }
        samples.draw(drawn, stem, experiment.title)
    return text


def _accuracy(title: str, cell: _Found, baseline: _Found | None) -> tables.Row:
    other = baseline.frame if baseline else None
    return accuracy_row(title, cell.frame, other, cell.cost, cell.fingerprint)


def _generation(title: str, cell: _Found, baseline: _Found | None) -> tables.Row:
    other = baseline.scores if baseline else None
    return generation_row(title, cell.frame, cell.scores, other, cell.cost, cell.fingerprint)


_PARTS = {"classify": _accuracy, "generate": _generation}
_KINDS: dict[str, Callable[[Sequence[tables.Row]], tables.Kind]] = {
    "classify": lambda rows: ACCURACY,
    "generate": generation,
}


def _merge(row: tables.Row, part: tables.Row) -> tables.Row:
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


def _read(title: str, cell: Cell) -> _Found:
    path = cell.run_path
    if not path.exists():
        return _Found()
    run = Run.open(path)
    try:
        frame = run.require(cell.image_ids())
    except MissingImagesError as error:
        print(f"{title}: {error}: {cell.command}", file=sys.stderr)
        return _Found(run)
    scores = run.read_record(cell.scores) if cell.scores else None
    if cell.scores and scores is None:
        print(f"{title}: its images are not scored yet: {cell.command}", file=sys.stderr)
    return _Found(run, frame, scores)

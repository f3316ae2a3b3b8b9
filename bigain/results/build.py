"""An experiment's table and figure from its runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd

from bigain.errors import BiGainError
from bigain.results import figures, tables
from bigain.results.store import MissingImagesError, Run


class ExperimentRow(Protocol):
    """What `build` needs of a row; ``command`` completes it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def run_path(self) -> Path: ...
    @property
    def command(self) -> str: ...
    def image_ids(self) -> Sequence[str]: ...


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
    def rows(self) -> Sequence[ExperimentRow]: ...


def build(experiment: Experiment, out: Path) -> str:
    """Write ``<out>/<name>.{csv,md,tex,png}`` and return the Markdown.

    A row whose run has not started or not finished is a row of dashes; for the latter a line on
    stderr says what is missing and how to complete it. A run's costs come from its record "cost".

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
    found = {row.name: _read(row) for row in experiment.rows}
    _, baseline = found[experiment.baseline]
    rows = []
    for row in experiment.rows:
        run, frame = found[row.name]
        rows.append(
            tables.accuracy_row(
                row.title,
                frame,
                baseline if row.name != experiment.baseline else None,
                cost=_cost(run) if run else None,
                fingerprint=run.fingerprint if run else None,
            )
        )
    stem = out / experiment.name
    text = tables.write(rows, stem, experiment.title, experiment.note)
    if any(row["acc1"] is not None for row in rows):
        figures.tradeoff(
            rows,
            stem.with_name(stem.name + ".png"),
            experiment.title,
            titles[experiment.baseline],
        )
    else:
        print(f"{experiment.name}: no row is finished, so no figure is drawn", file=sys.stderr)
    return text


def _read(row: ExperimentRow) -> tuple[Run | None, pd.DataFrame | None]:
    """The row's run and its images, None for what is not there."""
    path = row.run_path
    if not path.exists():
        return None, None
    run = Run.open(path)
    try:
        return run, run.require(row.image_ids())
    except MissingImagesError as error:
        print(f"{row.title}: {error}: {row.command}", file=sys.stderr)
        return run, None


def _cost(run: Run) -> dict[str, float | None] | None:
    """The part of the run's record "cost" that a table prints."""
    record = run.read_record("cost")
    return None if record is None else {key: record[key] for key in tables.COST}

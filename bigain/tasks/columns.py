"""What a task contributes to tables and figures: typed values, and how they are printed."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bigain.metrics.image_metric import ImageMetric
from bigain.store.runs import Run
from bigain.utils import tables

# Values of a table's row by key, at full precision; None for what is not known.
Row = dict[str, Any]

Metrics = Sequence[type[ImageMetric]]

COST = frozenset({"gflops", "gflops_matching", "peak_memory_mib"})
UNLABELLED = "unlabelled"  # the record of how many of a data set's images have labels
# what the times of a session depend on
CONDITIONS = ("device", "threads", "torch", "cuda", "diffusers", "python", "batch_size", "compile")
OTHERWISE = "†"
OTHERWISE_LEGEND = (
    f" {OTHERWISE} Time and memory are left out, because not all of the row's images were computed "
    "under the conditions of the first row: hardware, software, threads and batch size."
)


@dataclass(frozen=True)
class Column:
    """A column of a printed table.

    Attributes:
        header: what stands above it.
        text: prints a row's value, None for a dash.
        sort: the number by which the column sorts, or the key of the row that holds it; None for
            a column of text.
    """

    header: str
    text: Callable[[Row], str | None]
    sort: str | None = None

    def value(self, row: Row) -> float | None:
        """The number that sorts the row in this column; None for a dash or a column of text."""
        found = None if self.sort is None else row.get(self.sort)
        return None if found is None else float(found)


@dataclass(frozen=True)
class Columns:
    """What a task contributes to a table.

    Attributes:
        keys: of its rows, all of which the CSV file holds.
        printed: the columns of the printed table.
        legend: a paragraph that says what they mean.
    """

    keys: tuple[str, ...]
    printed: tuple[Column, ...]
    legend: str


@dataclass(frozen=True)
class Panel:
    """A value and its 95% interval, which a figure draws against costs or a setting.

    Attributes:
        value, low, high: keys of a table's row.
        label: of the value's axis.
        seconds: the key of the seconds per image that the runs took.
        conditions: the key of the conditions under which they did.
        seconds_label: of the axis of these seconds.
    """

    value: str
    low: str
    high: str
    label: str
    seconds: str
    conditions: str
    seconds_label: str


@dataclass(frozen=True)
class Results:
    """What the store holds of one run; None for what is not there.

    Attributes:
        frame: the rows of the images asked for.
        scores: of the images that the run generated.
        cost: of one evaluation: "gflops", of which "gflops_matching", and "peak_memory_mib".
        fingerprint: of the run.
        metrics: of images, those that there are, whether the run was scored by them or not.
        conditions: under which its images were computed, as `conditions_of` gives them.
        unlabelled: the number of images that were left out because they have no label; None if it
            is not known, or only some of the data set's images were asked for.
    """

    frame: pd.DataFrame | None = None
    scores: Mapping[str, Any] | None = None
    cost: Mapping[str, float | None] | None = None
    fingerprint: str | None = None
    metrics: Metrics = ()
    conditions: frozenset[str] = frozenset()
    unlabelled: int | None = None

    @classmethod
    def of(
        cls,
        run: Run,
        frame: pd.DataFrame | None,
        scores: Mapping[str, Any] | None,
        metrics: Metrics,
    ) -> "Results":
        """The results of a run, with the costs that its records hold."""
        cost = run.read_record("cost")
        costs = cost and {key: cost[key] for key in COST}
        left = run.read_record(UNLABELLED)
        whole = left is not None and frame is not None and len(frame) == left["labelled"]
        return cls(
            frame,
            scores,
            costs,
            run.fingerprint,
            metrics,
            conditions_of(run),
            left["unlabelled"] if left and whole else None,
        )


def conditions_of(run: Run) -> frozenset[str]:
    """The hardware, software and batch size of each session that computed images of the run."""
    kept = [{key: s.get(key) for key in CONDITIONS} for s in run.sessions()]
    return frozenset(json.dumps(one, sort_keys=True) for one in kept)


def comparable(rows: Sequence[Row], value: str, conditions: str) -> Callable[[Row], bool]:
    """Whether a row's time can stand beside that of the first row that has one.

    Args:
        value: the key of the time.
        conditions: the key of what `conditions_of` gives for the run.
    """
    first = next((row.get(conditions) for row in rows if row.get(value) is not None), None)

    def alike(row: Row) -> bool:
        found = row.get(conditions)
        return row.get(value) is None or (found == first and len(found or ()) < 2)

    return alike


def check_cost(cost: Mapping[str, float | None]) -> None:
    """Raise ValueError unless the keys are those of `COST`."""
    if cost.keys() != COST:
        raise ValueError(f"a cost has the keys {sorted(COST)}, got {sorted(cost)}")


def number(value: float | None, digits: int = 3) -> str | None:
    """A number to ``digits`` significant digits, and all of those before the decimal point."""
    if value is None:
        return None
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(digits - before, 0)}f}".replace("-", "−")


def whole(value: int | None) -> str | None:
    """A whole number as text."""
    return None if value is None else str(value)


def interval(row: Row, value: str, low: str, high: str, spec: str) -> str | None:
    """A value and its interval, each in the format ``spec``."""
    if row.get(value) is None:
        return None
    return tables.interval((row[value], row[low], row[high]), spec)


@dataclass(frozen=True)
class SpentColumn(Column):
    """A column of times or memory.

    Attributes:
        alike: whether a row's conditions are those of the first row; other rows show a mark.
    """

    alike: Callable[[Row], bool] = lambda row: True

    def value(self, row: Row) -> float | None:
        return super().value(row) if self.alike(row) else None


def spent_column(header: str, key: str, alike: Callable[[Row], bool]) -> Column:
    """A `SpentColumn` of plain numbers."""

    def text(row: Row) -> str | None:
        return number(row[key]) if row[key] is None or alike(row) else OTHERWISE

    return SpentColumn(header, text, key, alike)


def valued(header: str, key: str, digits: int = 3) -> Column:
    """A column of plain numbers."""
    return Column(header, lambda row: number(row[key], digits), key)


def counted(header: str, key: str) -> Column:
    """A column of whole numbers."""
    return Column(header, lambda row: whole(row[key]), key)


def ranged(header: str, value: str, low: str, high: str, spec: str) -> Column:
    """A column of numbers with their intervals."""
    return Column(header, lambda row: interval(row, value, low, high, spec), value)

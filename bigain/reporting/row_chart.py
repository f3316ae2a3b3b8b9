"""A table as a chart: one line per row, its values as dots with intervals, its costs as bars."""

from collections.abc import Mapping, Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from bigain.reporting.style import BASELINE, HEADING, LETTERS, SOFT, Style, limits, plain, wrapped
from bigain.tasks.columns import Panel, Row, number

LINE = 0.2  # inches of a row
VALUE, COST = 2.8, 1.7  # inches of a column
WORDS = 24  # letters of a cost's label in one line
LEAST = 6.5  # inches of all of it
LABEL = 0.075  # inches of a letter of a row's name
RATIOS = frozenset({"time"})  # costs that tables print with two decimals


def row_chart(
    rows: Sequence[Row],
    looks: Sequence[Style],
    panels: Sequence[Panel],
    costs: Mapping[str, str],
    title: str,
    baseline: Row,
) -> Figure:
    """The chart, laid out but not saved.

    Args:
        rows: those of the table, in its order; each has a value or a cost.
        looks: the style of each row.
        panels: the values that the columns show; each is present in some row.
        costs: labels of the further columns, by the key of a row. A cost that all compressed rows
            share is written below the chart instead of drawn.
        baseline: one of the rows, drawn across the values as a dashed line with its interval.
    """
    said, drawn = [], {}
    for key, label in costs.items():
        others = [row[key] for row in rows if row is not baseline]
        found = {_text(key, value) for value in others if value is not None}
        own = None if baseline.get(key) is None else _text(key, baseline[key])
        if len(found) > 1 or (len(found) == 1 and (len(rows) < 3 or None in others)):
            drawn[key] = label
        elif found:
            same = f"{label}: {found.pop()} in every row"
            other = own is not None and same != f"{label}: {own} in every row"
            said.append(f"{same} but {own} in {baseline['method']}." if other else f"{same}.")
    names = LABEL * max(len(str(row["method"])) for row in rows)
    room = (LEAST - names - COST * len(drawn)) / len(panels)
    widths = [max(VALUE, room)] * len(panels) + [COST] * len(drawn)
    heading = 0.5 + 0.18 * len(said)
    figure = Figure(
        figsize=(names + sum(widths) + 0.5, heading + 0.85 + LINE * len(rows)),
        layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06),
    )
    grid = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, panel in zip(grid, panels, strict=False):
        _values(axes, rows, looks, panel, baseline)
    for axes, (key, label) in zip(grid[len(panels) :], drawn.items(), strict=True):
        _bars(axes, rows, looks, key, label)
    grid[0].set_ylim(len(rows) - 0.4, -0.6)
    grid[0].set_yticks(range(len(rows)), [str(row["method"]) for row in rows])
    for text, look in zip(grid[0].get_yticklabels(), looks, strict=True):
        text.set_color(look.ink)
    for axes in grid[1:]:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_color("#E4E4E4")
    figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=HEADING)
    if said:
        note = wrapped(" ".join(said), figure.get_figwidth(), LETTERS)
        figure.supxlabel(note, fontsize=LETTERS, color=SOFT)
    return figure


def _values(
    axes: Axes, rows: Sequence[Row], looks: Sequence[Style], panel: Panel, baseline: Row
) -> None:
    plain(axes, "x")
    there = [
        (line, row, look)
        for line, (row, look) in enumerate(zip(rows, looks, strict=True))
        if row[panel.value] is not None
    ]
    ends = [float(row[key]) for _, row, _ in there for key in (panel.low, panel.high)]
    axes.set_xlim(*limits(min(ends), max(ends)))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel(panel.label, fontsize=LETTERS)
    if baseline[panel.value] is not None:
        colour = BASELINE.colour
        axes.axvline(baseline[panel.value], color=colour, linestyle="--", linewidth=0.9)
        low, high = baseline[panel.low], baseline[panel.high]
        axes.axvspan(low, high, color=colour, alpha=0.07, linewidth=0)
    for line, row, look in there:
        axes.hlines(line, row[panel.low], row[panel.high], look.colour, linewidth=1.6, alpha=0.6)
        axes.plot(
            row[panel.value],
            line,
            color=look.colour,
            marker=look.marker,
            markersize=9 if look is BASELINE else 6.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linestyle="",
            label=str(row["method"]),
            zorder=3,
        )


def _bars(axes: Axes, rows: Sequence[Row], looks: Sequence[Style], key: str, label: str) -> None:
    plain(axes, "x")
    highest = max(float(row[key]) for row in rows if row[key] is not None)
    for line, (row, look) in enumerate(zip(rows, looks, strict=True)):
        if row[key] is not None:
            axes.barh(line, row[key], height=0.5, color=look.colour, alpha=0.5)
            text = _text(key, row[key])
            axes.text(row[key], line, f" {text}", fontsize=LETTERS - 1, va="center", color=look.ink)
    axes.set_xlim(0, 1.35 * highest)
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.set_xlabel(fill(label, WORDS), fontsize=LETTERS)


def _text(key: str, value: float) -> str:
    """A cost as tables print it."""
    return f"{value:.2f}" if key in RATIOS else str(number(value))

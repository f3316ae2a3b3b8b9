"""What compression costs at a glance: a few methods, every model, accuracy above FID."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from bigain.reporting.pictures import save_figure
from bigain.reporting.style import BASELINE, Style, styles
from bigain.tasks.columns import Panel, Row

X, X_LABEL = "gflops", "GFLOPs per evaluation"
DPI = 150  # for the README, where it is shown large
SIZE = (3.9, 2.9)  # inches a panel spans
LABELS = 0.36  # share of a panel's width, left of all values, that the labels take
GAP = 1.15  # between the labels' middles, in heights of a label
APART = 2.0  # points between the middles of methods of the same cost
NOTE = (
    "A label stands beside its method's highest strength. Methods of the same cost are moved apart "
    "a little.\nEach panel has its own scales, and not all of them begin at 0."
)


@dataclass(frozen=True)
class Model:
    """A column of the figure.

    Attributes:
        title: of the model and its data.
        baseline: the row of the uncompressed model.
        series: the rows of each method, one per strength.
    """

    title: str
    baseline: Row
    series: Mapping[str, Sequence[Row]]


def draw(models: Sequence[Model], panels: Sequence[Panel], path: Path, title: str) -> bool:
    """Draw each value against GFLOPs: one line of panels per value, one column per model.

    A method's strengths are joined by a line, with its name beside the cheapest of them, and every
    value has its 95% interval. The uncompressed model is a dashed line with its interval as a band.
    Methods of the same cost are moved apart sideways by a few points, so that no interval hides
    another. Each model has its own scales, which a line below the panels says.

    Args:
        models: a row without a panel's value or its GFLOPs is left out there.
        path: of the PNG file; its folder exists.
        title: one line.

    Returns:
        Whether there was a value to draw; if not, there is no figure, and a line on stderr says so.

    Raises:
        BiGainError: if the file cannot be written.
    """
    shown = [p for p in panels if any(_there(m.series, p) for m in models)]
    if not shown:
        print(f"{path.stem}: no row is finished, so no figure is drawn", file=sys.stderr)
        return False
    found = styles(name for model in models for name in model.series)
    figure = Figure(
        figsize=(SIZE[0] * len(models) + 0.6, SIZE[1] * len(shown) + 0.9),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.08),
    )
    grid = figure.subplots(len(shown), len(models), sharex="col", squeeze=False)
    for line, panel in zip(grid, shown, strict=True):
        for axes, model in zip(line, models, strict=True):
            _values(axes, model, panel, found)
        line[0].set_ylabel(panel.label)
    for axes, model in zip(grid[0], models, strict=True):
        axes.set_title(model.title, fontsize=11, fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel(X_LABEL)
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(NOTE, fontsize=8, color="#555555")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # all stays where it is now, so that the labels fit
    for line, panel in zip(grid, shown, strict=True):
        for axes, model in zip(line, models, strict=True):
            _label(axes, model, panel, found)
    save_figure(figure, path, DPI)
    return True


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to those wanted that are at least ``gap`` apart, in the same order.

    They lie within ``low`` and ``high`` if there is room for all.

    >>> spread([5.0, 5.0, 1.0], gap=2, low=0, high=10)
    [4.0, 6.0, 1.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # of neighbours that touch: each its first one's place, if alone
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    starts = [float(np.mean(block)) for block in blocks for _ in block]
    top = high - gap * (len(wanted) - 1)
    places = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        places[i] = max(min(starts[rank], top), low) + rank * gap
    return places


def _there(series: Mapping[str, Sequence[Row]], panel: Panel) -> dict[str, list[Row]]:
    """The rows that have a place in the panel, the cheapest first; without empty series."""
    found = {
        name: sorted(
            (row for row in rows if row.get(panel.value) is not None and row.get(X) is not None),
            key=lambda row: float(row[X]),
        )
        for name, rows in series.items()
    }
    return {name: rows for name, rows in found.items() if rows}


def _values(axes: Axes, model: Model, panel: Panel, found: Mapping[str, Style]) -> None:
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
    there = _there(model.series, panel)
    every = [row for rows in there.values() for row in rows]
    if not every:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#777777")
        return
    points = [float(row[X]) for row in every]
    whole = model.baseline.get(panel.value) is not None
    if whole and model.baseline.get(X) is not None:
        points.append(float(model.baseline[X]))
    left, right = min(points), max(points)
    width = (right - left or left) / (0.94 - LABELS)
    axes.set_xlim(left - LABELS * width, right + 0.06 * width)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(left, right)
    axes.set_xticks([t for t in ticks if left - 0.02 * width <= t <= right + 0.06 * width])
    shown = [*every, model.baseline] if whole else every
    axes.set_ylim(*_limits([row[panel.low] for row in shown], [row[panel.high] for row in shown]))
    if whole:
        value, low, high = (model.baseline[key] for key in (panel.value, panel.low, panel.high))
        ends = [left - 0.02 * width, right + 0.06 * width]
        colour = BASELINE.colour
        axes.fill_between(ends, low, high, color=colour, alpha=0.08, linewidth=0)
        axes.plot(ends, [value, value], color=colour, linestyle="--", linewidth=1)
        if model.baseline.get(X) is not None:
            axes.plot(model.baseline[X], value, color=colour, marker=BASELINE.marker, markersize=9)
    for name, rows in there.items():
        style, moved = found[name], _moved(axes, there, name)
        x = [float(row[X]) for row in rows]
        low, high = ([row[key] for row in rows] for key in (panel.low, panel.high))
        axes.vlines(x, low, high, style.colour, linewidth=1.4, alpha=0.5, transform=moved)
        axes.plot(
            x,
            [row[panel.value] for row in rows],
            color=style.colour,
            marker=style.marker,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linewidth=1.5,
            label=name,
            zorder=3,
            transform=moved,
        )


def _limits(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """Of a scale that holds these; it begins at 0 unless that would leave half of it empty."""
    low, high = min(lows), max(highs)
    if 0 <= low < high / 2:
        return 0, high + 0.06 * high
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _moved(axes: Axes, there: Mapping[str, Sequence[Row]], name: str) -> Transform:
    """Where a method's values stand: beside those of the methods that share one of its costs."""
    costs = {key: {row[X] for row in rows} for key, rows in there.items()}
    sharing = [key for key in there if costs[key] & costs[name]]
    points = APART * (sharing.index(name) - (len(sharing) - 1) / 2)
    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def _label(axes: Axes, model: Model, panel: Panel, found: Mapping[str, Style]) -> None:
    """Write each method's name left of all values, and join it to the cheapest of its own."""
    there = _there(model.series, panel)
    ends = {name: (float(rows[0][X]), rows[0][panel.value]) for name, rows in there.items()}
    if not ends:
        return
    names = {name: found[name] for name in ends}
    if model.baseline.get(panel.value) is not None:
        title = str(model.baseline["method"])
        left = min(x for x, _ in ends.values())
        ends[title], names[title] = (left, model.baseline[panel.value]), BASELINE
    labels: list[Text] = []
    for name, end in ends.items():
        at = _moved(axes, there, name) if name in there else axes.transData
        labels.append(
            Annotation(
                name,
                end,
                (LABELS - 0.07, 0),
                xycoords=at,
                textcoords=axes.transAxes,
                ha="right",
                va="center",
                fontsize=9,
                color=names[name].ink,
                arrowprops={
                    "arrowstyle": "-",
                    "color": names[name].colour,
                    "linewidth": 0.7,
                    "alpha": 0.6,
                    "relpos": (1, 0.5),
                    "shrinkA": 1,
                    "shrinkB": 0,
                },
            )
        )
        axes.add_artist(labels[-1])
        labels[-1].set_in_layout(False)
    height = max(Text.get_window_extent(label).height for label in labels)
    frame = axes.bbox
    wanted = [axes.transData.transform(end)[1] for end in ends.values()]
    margin = height / 2
    places = spread(wanted, GAP * height, frame.y0 + margin, frame.y1 - margin)
    for label, place in zip(labels, places, strict=True):
        label.set_y((place - frame.y0) / frame.height)

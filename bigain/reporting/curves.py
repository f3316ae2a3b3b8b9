"""A panel of curves: a value of several methods against a cost, each named beside its curve."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bigain.reporting.style import BASELINE, LETTERS, SOFT, Style, limits, plain
from bigain.tasks.columns import Panel, Row

SIZE = 6.0  # points, of a marker
APART = 2.0  # points between two intervals, at least
STEP = 1.0  # points by which a value is moved sideways at a time
GAP = 1.12  # between the labels' middles, in heights of a label
LEAD = 12.0  # points between a label and the values
NOTE = (
    "Numbers after a method are its strengths, from left to right. Values that would hide each "
    "other are moved apart sideways a little."
)
Series = Mapping[str, Sequence[Row]]  # the rows of each method, one per strength


class Curves(NamedTuple):
    """What is drawn, and where.

    Attributes:
        baseline: the uncompressed model's row; without the panel's value it is left out.
        panel: the value that is drawn.
        x: the key of the rows' place on the horizontal axis.
        x_label: the label of that axis.
    """

    axes: Axes
    series: Series
    baseline: Row
    panel: Panel
    x: str
    x_label: str


def frame(curves: Curves) -> None:
    """Label the axes and choose their ends, before the figure is laid out."""
    axes, series, baseline, panel, x, x_label = curves
    axes.set_xlabel(x_label, fontsize=LETTERS + 1)
    axes.set_ylabel(panel.label, fontsize=LETTERS + 1)
    plain(axes)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    found = there(series, panel, x)
    every = [row for rows in found.values() for row in rows]
    whole = baseline.get(panel.value) is not None
    if not every:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=SOFT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    points = [float(row[x]) for row in every]
    if whole and baseline.get(x) is not None:
        points.append(float(baseline[x]))
    left, right = limits(min(points), max(points))
    labels = [label_of(name, rows) for name, rows in found.items()]
    widest = max(_width(axes, text) for text in [*labels, str(baseline.get("method", ""))])
    share = (widest + 3 * LEAD) / (72 * axes.bbox.width / axes.figure.dpi)
    left = min(left, min(points) - share / (1 - share) * (right - min(points)))  # room for names
    axes.set_xlim(left, right)
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(max(left, 0), right)
    axes.set_xticks([t for t in ticks if max(left, 0) <= t <= right])
    shown = [*every, baseline] if whole else every
    lows, highs = ([float(row[key]) for row in shown] for key in (panel.low, panel.high))
    axes.set_ylim(*limits(min(lows), max(highs)))


def fill(figure: Figure, every: Sequence[Curves], looks: Mapping[str, Style]) -> None:
    """Lay the figure out for good, and draw values with their 95% intervals, and names."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # all stays where it is now, so that values and names fit
    for curves in every:
        frame(curves)  # for the size that the axes have now
        _draw(curves, looks)


def label_of(name: str, rows: Sequence[Row]) -> str:
    """A method with its strengths, in the order of the rows.

    >>> label_of("ToMe", [{"method": "ToMe 0.7"}, {"method": "ToMe 0.3"}])
    'ToMe 0.7, 0.3'
    """
    titles = [str(row["method"]) for row in rows]
    if all(title.startswith(f"{name} ") for title in titles):
        return f"{name} {', '.join(title.removeprefix(name).strip() for title in titles)}"
    return titles[0] if len(titles) == 1 else name


def there(series: Series, panel: Panel, x: str) -> dict[str, list[Row]]:
    """The rows that have a place in the panel, sorted by it; empty series are left out."""
    found = {
        name: sorted(
            (row for row in rows if row.get(panel.value) is not None and row.get(x) is not None),
            key=lambda row: float(row[x]),
        )
        for name, rows in series.items()
    }
    return {name: rows for name, rows in found.items() if rows}


def _draw(curves: Curves, looks: Mapping[str, Style]) -> None:
    axes, series, baseline, panel, x, _ = curves
    found = there(series, panel, x)
    if not found:
        return
    first = min(float(rows[0][x]) for rows in found.values())
    if baseline.get(panel.value) is not None:
        _baseline(axes, baseline, panel, x, first)
    places = _apart(axes, found, panel, x)
    for name, rows in found.items():
        style, at = looks[name], places[name]
        low, high = ([row[key] for row in rows] for key in (panel.low, panel.high))
        axes.vlines(at, low, high, style.colour, linewidth=1.4, alpha=0.5)
        axes.plot(
            at,
            [row[panel.value] for row in rows],
            color=style.colour,
            marker=style.marker,
            markersize=SIZE,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linewidth=1.3,
            label=name,
            zorder=3,
        )
    ends = {
        label_of(name, rows): (places[name][0], float(rows[0][panel.value]), looks[name])
        for name, rows in found.items()
    }
    if baseline.get(panel.value) is not None:
        ends[str(baseline["method"])] = (first, float(baseline[panel.value]), BASELINE)
    _name(axes, ends)


def _baseline(axes: Axes, row: Row, panel: Panel, x: str, first: float) -> None:
    """A dashed line across with its interval as a band, and a point where it has a place."""
    ends = [first, axes.get_xlim()[1]]
    axes.fill_between(
        ends, row[panel.low], row[panel.high], color=BASELINE.colour, alpha=0.08, linewidth=0
    )
    value = row[panel.value]
    axes.plot(ends, [value, value], color=BASELINE.colour, linestyle="--", linewidth=1)
    if row.get(x) is not None:
        axes.plot(row[x], value, color=BASELINE.colour, marker=BASELINE.marker, markersize=9)


def _apart(
    axes: Axes, found: Mapping[str, Sequence[Row]], panel: Panel, x: str
) -> dict[str, list[float]]:
    """The places of values on the horizontal axis, so that no value hides another."""
    taken: list[NDArray[np.float64]] = []  # in points: x, y, and the ends of the interval
    scale = 72 / axes.figure.dpi
    places: dict[str, list[float]] = {}
    for name, rows in found.items():
        places[name] = []
        last = -np.inf  # a curve goes from left to right
        for row in rows:
            ends = [(row[x], row[key]) for key in (panel.value, panel.low, panel.high)]
            drawn = axes.transData.transform(np.asarray(ends, dtype=float)) * scale
            here = np.array([drawn[0, 0], *drawn[:, 1]])
            moves = (sign * step * STEP for step in count() for sign in (1, -1))
            tried = (here + [move, 0, 0, 0] for move in moves)
            moved = next(
                at for at in tried if at[0] > last and not any(_hides(at, other) for other in taken)
            )
            taken.append(moved)
            last = moved[0]
            data = axes.transData.inverted().transform((moved[0] / scale, 0))
            places[name].append(float(row[x]) if moved[0] == here[0] else float(data[0]))
    return places


def _hides(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether the markers or intervals of two values overlap."""
    across, up = np.abs(a[:2] - b[:2])
    overlap = min(a[3], b[3]) - max(a[2], b[2]) > 0
    return bool((across < SIZE and up < SIZE) or (across < APART and overlap))


def _width(axes: Axes, text: str) -> float:
    """The width of a label, in points."""
    label = axes.text(0, 0, text, fontsize=LETTERS)
    width = label.get_window_extent().width * 72 / axes.figure.dpi
    label.remove()
    return width


def _name(axes: Axes, ends: Mapping[str, tuple[float, float, Style]]) -> None:
    """Write each name left of all values, and join it to the leftmost of its own."""
    at = min(x for x, *_ in ends.values())
    labels: list[Text] = []
    for name, (x, y, style) in ends.items():
        edge = axes.transAxes.inverted().transform(axes.transData.transform((at, 0)))[0]
        lead = 2 * LEAD * axes.figure.dpi / 72 / axes.bbox.width
        labels.append(
            Annotation(
                name,
                (x, y),
                (edge - lead, 0),
                xycoords=axes.transData,
                textcoords=axes.transAxes,
                ha="right",
                va="center",
                fontsize=LETTERS,
                color=style.ink,
                arrowprops={
                    "arrowstyle": "-",
                    "color": style.colour,
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
    inside = axes.bbox
    wanted = [axes.transData.transform(end[:2])[1] for end in ends.values()]
    margin = height / 2
    places = spread(wanted, GAP * height, inside.y0 + margin, inside.y1 - margin)
    for label, place in zip(labels, places, strict=True):
        label.set_y((place - inside.y0) / inside.height)


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

"""Accuracy and FID against cost, or against a setting that costs nothing."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from bigain.reporting.pictures import save_figure
from bigain.reporting.style import BASELINE, styles
from bigain.tasks.columns import Panel, Row
from bigain.utils import files


@dataclass(frozen=True)
class Drawn:
    """A panel's value against what lies below it, a key of a row, and that axis's label."""

    panel: Panel
    x: str
    x_label: str


SETTING = "setting"  # the key of a row's value of what an experiment varies


def panels_of(panels: Sequence[Panel], axis: str = "", timed: bool = False) -> list[Drawn]:
    """Values against costs, or each against ``SETTING``, whose label is ``axis``.

    Args:
        timed: wall-clock is the measured time of a forward pass, not what the runs took.
    """
    if axis:
        return [Drawn(panel, SETTING, axis) for panel in panels]
    drawn = []
    for panel in panels:
        drawn.append(Drawn(panel, "gflops", "GFLOPs per evaluation"))
        if timed:
            drawn.append(Drawn(panel, "time", "Time of a forward pass (uncompressed: 1)"))
        else:
            drawn.append(Drawn(panel, panel.seconds, panel.seconds_label))
    return drawn


def tradeoff(
    rows: Sequence[Row],
    series: Sequence[str],
    panels: Sequence[Drawn],
    stem: Path,
    title: str,
    baseline: str,
) -> None:
    """Draw ``<stem>.png``: values with their 95% intervals, the panels of a value in one line.

    Args:
        rows: of a table. One without a panel's value or x is left out there; its colour stays
            its own, so a figure keeps its colours as rows come in. Without any value there is no
            figure, and a line on stderr says so.
        series: of each row; those of one are joined by a line and share a colour.
        panels: as many of one value as of the next.
        stem: path without a suffix; its folder is made.
        title: one line.
        baseline: the method drawn as a dashed line across, with its interval as a band.

    Raises:
        BiGainError: if the file cannot be written.
    """
    if all(row[drawn.panel.value] is None for row in rows for drawn in panels):
        print(f"{stem.name}: no row is finished, so no figure is drawn", file=sys.stderr)
        return
    lines = len({drawn.panel.value for drawn in panels})
    columns = len(panels) // lines
    engine = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=(8, 0.8 + 3.6 * lines), layout=engine)
    grid = figure.subplots(lines, columns, sharey="row", squeeze=False)
    for axes, drawn in zip(grid.flat, panels, strict=True):
        _draw(axes, rows, series, drawn, baseline)
        axes.set_xlabel(drawn.x_label)
    for line, drawn in zip(grid, panels[::columns], strict=True):
        line[0].set_ylabel(drawn.panel.label)
    figure.suptitle(title, fontsize=12)
    points = {point.get_label(): point for axes in grid.flat for point in axes.get_lines()}
    shown = [name for name in dict.fromkeys(series) if name in points]
    _legend(figure, [points[name] for name in shown], shown)
    with files.explained(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, stem.with_name(stem.name + ".png"))


def _legend(figure: Figure, points: Sequence[Line2D], names: Sequence[str]) -> None:
    """Below the panels, in as many columns as the figure is wide enough for."""
    for columns in range(4, 0, -1):
        legend = figure.legend(
            points, names, loc="outside lower center", ncols=columns, frameon=False
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    more = -(-len(names) // columns) - 3  # lines that a figure's height leaves no room for
    if more > 0:
        figure.set_figheight(figure.get_figheight() + 0.25 * more)


def _draw(
    axes: Axes, rows: Sequence[Row], series: Sequence[str], drawn: Drawn, baseline: str
) -> None:
    panel, x_key = drawn.panel, drawn.x
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    found = styles(series)
    any_drawn = False
    for name in dict.fromkeys(series):
        members = [row for row, of in zip(rows, series, strict=True) if of == name]
        if any(row["method"] == baseline for row in members):
            style = BASELINE
            _band(axes, members[0], drawn, name)
        else:
            style = found[name]
        there = [r for r in members if r[panel.value] is not None and r[x_key] is not None]
        if not there:
            continue
        any_drawn = True
        x = [row[x_key] for row in there]
        low, high = [row[panel.low] for row in there], [row[panel.high] for row in there]
        axes.vlines(x, low, high, color=style.colour, linewidth=1.4, alpha=0.5)
        axes.plot(
            x,
            [row[panel.value] for row in there],
            color=style.colour,
            marker=style.marker,
            markersize=12 if style is BASELINE else 7,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=0.9,
            label=name,
            zorder=3,
        )
    if not any_drawn:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#777777")
        axes.set_xticks([])
    axes.margins(x=0.12)


def _band(axes: Axes, row: Row, drawn: Drawn, name: str) -> None:
    panel = drawn.panel
    if row[panel.value] is not None:
        label = name if row[drawn.x] is None else None  # a row that has a place is a point
        colour = BASELINE.colour
        axes.axhline(row[panel.value], color=colour, linestyle="--", linewidth=1, label=label)
        axes.axhspan(row[panel.low], row[panel.high], color=colour, alpha=0.08, linewidth=0)

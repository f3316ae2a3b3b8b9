"""A table's figure: one line per row, or curves against the setting that an experiment varies."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bigain.reporting import curves
from bigain.reporting.row_chart import row_chart
from bigain.reporting.style import BASELINE, HEADING, LETTERS, SOFT, styles, wrapped
from bigain.tasks.columns import Panel, Row
from bigain.utils import files
from bigain.utils.pictures import save_figure

SIZE = (4.4, 3.4)  # inches a panel spans
SETTING = "setting"  # the key of a row's value of what an experiment varies


@dataclass(frozen=True)
class Drawn:
    """A panel's value against what lies below it, a key of a row, and that axis's label."""

    panel: Panel
    x: str
    x_label: str


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
    """Draw ``<stem>.png``: values with their 95% intervals, and what they cost.

    Against a setting, methods are curves. Costs coincide too often for that, so a table is drawn
    with one line per row, and `bigain.reporting.overview` has the curves of a few methods.

    Args:
        rows: the rows of a table. A value or x that a row lacks is left out. Without any value
            there is no figure, and a line on stderr says so.
        series: the series of each row; rows of one series share a colour and a marker.
        panels: all against costs, or all against `SETTING`.
        stem: path without a suffix; its folder is made.
        title: one line.
        baseline: the method drawn as a dashed line across, with its interval as a band.

    Raises:
        BiGainError: if the file cannot be written.
    """
    shown = [drawn for drawn in panels if any(row[drawn.panel.value] is not None for row in rows)]
    if not shown:
        print(f"{stem.name}: no row is finished, so no figure is drawn", file=sys.stderr)
        return
    plain = next((row for row in rows if row["method"] == baseline), {})
    if shown[0].x == SETTING:
        figure = _curves(rows, series, shown, title, plain)
    else:
        figure = _rows(rows, series, shown, title, plain)
    files.make_folder(stem.parent)
    save_figure(figure, stem.with_name(stem.name + ".png"))


def _curves(
    rows: Sequence[Row], series: Sequence[str], panels: Sequence[Drawn], title: str, plain: Row
) -> Figure:
    """One panel for each value."""
    members: dict[str, list[Row]] = {}
    for row, name in zip(rows, series, strict=True):
        if row is not plain:
            members.setdefault(name, []).append(row)
    width = SIZE[0] * max(len(panels), 1.4)
    figure = Figure(
        figsize=(width, 0.8 + SIZE[1]), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    )
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    every = [
        curves.Curves(axes, members, plain, drawn.panel, drawn.x, drawn.x_label)
        for axes, drawn in zip(grid, panels, strict=True)
    ]
    for each in every:
        curves.frame(each)
    figure.suptitle(wrapped(title, width), fontsize=HEADING)
    if len(members) > 1:
        note = wrapped(curves.NOTE, width, LETTERS)
        figure.supxlabel(note, fontsize=LETTERS, color=SOFT)
    curves.fill(figure, every, styles(members))
    return figure


def _rows(
    rows: Sequence[Row], series: Sequence[str], panels: Sequence[Drawn], title: str, plain: Row
) -> Figure:
    """One line for each row."""
    found = styles(series)
    looks = [
        BASELINE if row is plain else found[name] for row, name in zip(rows, series, strict=True)
    ]
    costs = {
        drawn.x: drawn.x_label
        for drawn in panels
        if drawn.x != SETTING and any(row.get(drawn.x) is not None for row in rows)
    }
    values = list(dict.fromkeys(drawn.panel for drawn in panels))
    return row_chart(rows, looks, values, costs, title, plain)

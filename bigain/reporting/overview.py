"""What compression costs at a glance: a few methods, every model, accuracy above FID."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bigain.reporting import curves
from bigain.reporting.style import HEADING, LETTERS, MAGNIFIED, SOFT, styles, wrapped
from bigain.tasks.columns import Panel, Row
from bigain.utils.pictures import save_figure

X, X_LABEL = "gflops", "GFLOPs per evaluation"
DPI = 150  # for the README, where it is shown large
SIZE = (4.2, 3.0)  # inches a panel spans
NOTE = (
    f"{curves.NOTE}\nAn axis that does not begin at 0 shows differences at most "
    f"{MAGNIFIED} times as large as one that does. Bars and bands are 95% intervals."
)


@dataclass(frozen=True)
class Model:
    """A column of the figure.

    Attributes:
        title: the model and its data.
        baseline: the row of the uncompressed model.
        series: the rows of each method, one per strength.
    """

    title: str
    baseline: Row
    series: Mapping[str, Sequence[Row]]


def draw(
    models: Sequence[Model],
    panels: Sequence[Panel],
    path: Path,
    title: str,
) -> bool:
    """Draw each value against a cost: one line of panels per value, one column per model.

    The values of a single model stand side by side.

    A method's strengths are joined by a line, with its name and them beside the cheapest, and every
    value has its 95% interval. The uncompressed model is a dashed line with its interval as a band.

    Args:
        models: the columns. A row without a panel's value or its cost is left out there.
        path: the PNG file, whose folder exists.
        title: one line.

    Returns:
        Whether there was a value to draw; if not, there is no figure, and a line on stderr says so.

    Raises:
        BiGainError: if the file cannot be written.
    """
    shown = [p for p in panels if any(curves.there(m.series, p, X) for m in models)]
    if not shown:
        print(f"{path.stem}: no row is finished, so no figure is drawn", file=sys.stderr)
        return False
    looks = styles(name for model in models for name in model.series)
    alone = len(models) == 1
    lines, columns = (1, len(shown)) if alone else (len(shown), len(models))
    figure = Figure(
        figsize=(SIZE[0] * columns + 0.5, SIZE[1] * lines + 0.9),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.08),
    )
    grid = figure.subplots(lines, columns, squeeze=False)
    each = [(model, panel) for panel in shown for model in models]
    every = [
        curves.Curves(axes, model.series, model.baseline, panel, X, X_LABEL)
        for axes, (model, panel) in zip(grid.flat, each, strict=True)
    ]
    for one in every:
        curves.frame(one)
    if not alone:
        for axes, model in zip(grid[0], models, strict=True):
            axes.set_title(model.title, fontsize=HEADING, fontweight="bold")
    heading = ": ".join(text for text in (title, models[0].title if alone else "") if text)
    figure.suptitle(wrapped(heading, figure.get_figwidth()), fontsize=HEADING + 1)
    note = "\n".join(wrapped(n, figure.get_figwidth(), LETTERS) for n in NOTE.split("\n"))
    figure.supxlabel(note, fontsize=LETTERS, color=SOFT)
    curves.fill(figure, every, looks)
    save_figure(figure, path, DPI)
    return True

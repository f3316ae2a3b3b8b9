"""Accuracy against cost."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bigain.results import atomic
from bigain.results.tables import Row

# Okabe and Ito (2008), safe for the colour-blind, less the black of the baseline and the yellow
# that fades on white. Six colours and seven markers make 42 methods distinct.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_BASELINE = "#222222"
_COSTS = {"gflops": "GFLOPs per evaluation", "seconds": "Seconds per image (median)"}


def tradeoff(rows: Sequence[Row], path: Path, title: str, baseline: str) -> None:
    """Draw accuracy with its 95% interval against GFLOPs and against seconds, as a PNG.

    Args:
        rows: from `accuracy_row`. One without an accuracy, or without a panel's cost, is left out
            there; its colour stays its own, so a figure keeps its colours as rows come in.
        path: of the PNG; its folder is made.
        title: one line.
        baseline: the method drawn as a dashed line across, with its interval as a band.

    Raises:
        ValueError: if no row has an accuracy.
        BiGainError: if the file cannot be written.
    """
    if all(row["acc1"] is None for row in rows):
        raise ValueError("no row has an accuracy; there is nothing to draw")
    figure = Figure(figsize=(8, 4.4), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    panels: Sequence[Axes] = figure.subplots(1, len(_COSTS), sharey=True)
    for axes, (cost, label) in zip(panels, _COSTS.items(), strict=True):
        _draw(axes, rows, cost, baseline)
        axes.set_xlabel(label)
    panels[0].set_ylabel("Top-1 accuracy (%), 95% interval")
    figure.suptitle(title, fontsize=12)
    points = {point.get_label(): point for axes in panels for point in axes.get_lines()}
    shown = [row["method"] for row in rows if row["method"] in points]
    figure.legend(
        [points[method] for method in shown],
        shown,
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    with atomic.explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.atomic(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _draw(axes: Axes, rows: Sequence[Row], cost: str, baseline: str) -> None:
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    others, drawn = 0, False
    for row in rows:
        if row["method"] == baseline:
            colour, marker = _BASELINE, "*"
        else:
            colour = _COLOURS[others % len(_COLOURS)]
            marker = _MARKERS[others % len(_MARKERS)]
            others += 1
        if row["acc1"] is None:
            continue
        if row["method"] == baseline:
            axes.axhline(row["acc1"], color=colour, linestyle="--", linewidth=1)
            axes.axhspan(row["low"], row["high"], color=colour, alpha=0.08, linewidth=0)
        if row[cost] is None:
            continue
        axes.vlines(row[cost], row["low"], row["high"], color=colour, linewidth=1.6, alpha=0.6)
        axes.plot(
            row[cost],
            row["acc1"],
            color=colour,
            marker=marker,
            markersize=12 if marker == "*" else 8,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linestyle="none",
            label=row["method"],
            zorder=3,
        )
        drawn = True
    if not drawn:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#777777")
        axes.set_xticks([])
    axes.margins(x=0.12)

"""The figure of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Panel(NamedTuple):
    """What the figure shows beside the loss.

    Attributes:
        column: column of the log.
        label: label of the axis.
        scale: factor from the column to the axis.
    """

    column: str
    label: str
    scale: float


def draw_curves(
    rows: Sequence[Mapping[str, float]], loss_name: str, panel: Panel, out: Path
) -> None:
    """Draw the losses and one more column of the log over the images seen.

    Args:
        rows: the rows of the log.
        loss_name: label of the axis of the losses.
        panel: what to draw on the right.
        out: the .png file to write.
    """
    from matplotlib.figure import Figure

    from bigain.utils.pictures import save_figure

    seen = [row["images"] / 1000 for row in rows]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    axes[0].plot(seen, [row["train_loss"] for row in rows], label="train", color="#0072B2")
    axes[0].plot(seen, [row["val_loss"] for row in rows], label="held out, EMA", color="#D55E00")
    axes[0].set(xlabel="images seen (thousand)", ylabel=loss_name, yscale="log")
    axes[0].legend(frameon=False)
    axes[1].plot(seen, [row[panel.column] * panel.scale for row in rows], color="#009E73")
    axes[1].set(xlabel="images seen (thousand)", ylabel=panel.label)
    for axis in axes:
        axis.grid(alpha=0.3)
    save_figure(figure, out, dpi=150)

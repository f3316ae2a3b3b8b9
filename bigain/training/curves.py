"""The figure of a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Panel(NamedTuple):
    """What a training's figure shows beside its loss.

    Attributes:
        column: of the log.
        label: of the axis.
        scale: factor from the column to the axis.
    """

    column: str
    label: str
    scale: float


def draw_curves(
    rows: Sequence[Mapping[str, float]], loss_name: str, panel: Panel, out: Path
) -> None:
    """Losses, and one more column, over the images seen.

    Args:
        rows: of the log.
        loss_name: label of the losses' axis.
        panel: what to draw on the right.
        out: a .png to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seen = [row["images"] / 1000 for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    axes[0].plot(seen, [row["train_loss"] for row in rows], label="train", color="#0072B2")
    axes[0].plot(seen, [row["val_loss"] for row in rows], label="held out, EMA", color="#D55E00")
    axes[0].set(xlabel="images seen (thousand)", ylabel=loss_name, yscale="log")
    axes[0].legend(frameon=False)
    axes[1].plot(seen, [row[panel.column] * panel.scale for row in rows], color="#009E73")
    axes[1].set(xlabel="images seen (thousand)", ylabel=panel.label)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    plt.close(figure)

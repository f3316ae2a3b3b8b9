"""Which tokens each method joins, over the images (the paper's Figure 6)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bigain.errors import BiGainError
from bigain.reporting.style import HEADING, LETTERS, wrapped
from bigain.tasks.trace_rows import ALONE, GONE, KEPT, assignment, block_title, image, time_of
from bigain.utils.pictures import save_figure

SIDE = 1.5  # inches that an image spans
# Okabe and Ito (2008), safe for the colour-blind
_KEPT, _MERGED, _DROPPED, _OUTLINE = "#F0E442", "#0072B2", "#D55E00", "#FFFFFF"
_TINT = 0.5  # opacity of the colour over tokens that are gone
KEPT_LABEL = "the token that others join"
TEXT: dict[str, Any] = {"frameon": False, "fontsize": LETTERS}


def draw_maps(
    traces: Mapping[str, pd.DataFrame],
    stem: Path,
    title: str,
    *,
    block: int = 0,
    timestep: int | None = None,
) -> None:
    """Draw ``<stem>-maps.png``: one line per image of `shown`, one column per method.

    Tokens that a method leaves alone show the image. The tokens of a slot are outlined together and
    show what is left of them: blue over their mean colour if they are merged; if one of them is
    kept as it is, its colour, with vermilion and a cross over those that are dropped. A yellow dot
    marks the token that others join.

    Args:
        traces: each method's rows of ``task=trace``, by its title. Without any there is no figure.
        stem: path without a suffix; its folder exists.
        block: position among the compressed blocks, in forward order.
        timestep: one of those traced; by default the first.

    Raises:
        BiGainError: if a method was not traced there, or the file cannot be written.
    """
    if not traces:
        return
    first = next(iter(traces.values()))
    image_ids = shown(first)
    columns = len(traces) + 1
    # and room for titles and legend
    size = (max(SIDE * columns, 5), SIDE * len(image_ids) + (0.8 if columns > 7 else 1.3))
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[call-arg, union-attr]
    grid = figure.subplots(len(image_ids), columns, squeeze=False)
    for line, image_id in zip(grid, image_ids, strict=True):
        for axes, (name, frame) in zip(line[1:], traces.items(), strict=True):
            row = _row(name, frame, image_id)
            slots, roles = assignment(name, row, timestep, block)
            _draw(axes, _coloured(row), slots, roles, row["pruned"])
        _show(line[0], _coloured(row), (1, 1))
    for axes, name in zip(grid[0], ["Image", *traces], strict=True):
        axes.set_title(name, fontsize=9)
    entries = 5 if size[0] >= 12 else 3 if size[0] >= 7 else 2  # in one line of the legend
    handles = [
        Line2D([], [], color=_KEPT, marker="o", linestyle="", mec="#555555", label=KEPT_LABEL),
        Patch(facecolor=_MERGED, alpha=0.7, label="merged: its slot's mean remains"),
        Patch(facecolor=_DROPPED, alpha=0.7, label="dropped (×): the kept token remains"),
        Patch(facecolor="#777777", edgecolor=_OUTLINE, label="white lines: tokens of one slot"),
        Patch(facecolor="white", edgecolor="#777777", label="no colour: left alone"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=entries, **TEXT)
    place, t = block_title(first.iloc[0], block), time_of(first.iloc[0], timestep)
    figure.suptitle(wrapped(f"{title}: {place}, t = {t}", size[0]), fontsize=HEADING)
    save_figure(figure, stem.with_name(stem.name + "-maps.png"))


def shown(frame: pd.DataFrame) -> list[str]:
    """The images of the figure: the first of each label, at most four."""
    labels = frame["labels"].map(lambda values: values[0])
    return list(frame.loc[~labels.duplicated(), "image_id"][:4])


def _row(name: str, frame: pd.DataFrame, image_id: str) -> pd.Series:
    found = frame[frame["image_id"] == image_id]
    if found.empty:
        raise BiGainError(
            f"{name}: image {image_id} was not traced; trace the same images with every method "
            "(limit=...)"
        )
    return found.iloc[0]


def _coloured(row: pd.Series) -> NDArray[np.uint8]:
    """[H, W, 3]."""
    found = image(row)
    return np.repeat(found, 3, axis=2) if found.shape[2] == 1 else found


def _draw(
    axes: Axes,
    pixels: NDArray[np.uint8],
    slots: NDArray[np.int64],
    roles: NDArray[np.int64],
    pruned: bool,
) -> None:
    sides = slots.shape
    token = 72 * SIDE / max(sides)  # points
    width = min(0.5, token / 14)
    rows, columns = (
        np.arange(length) * tokens // length
        for length, tokens in zip(pixels.shape[:2], sides, strict=True)
    )
    slot, role = (values[np.ix_(rows, columns)] for values in (slots, roles))
    picture = pixels / 255
    counted = role == KEPT if pruned else np.ones_like(role, dtype=bool)
    total = np.bincount(slot[counted], minlength=slots.max() + 1)
    for channel in range(3):
        sums = np.bincount(slot[counted], picture[counted][:, channel], len(total))
        mean = sums / np.maximum(total, 1)
        picture[..., channel] = np.where(role != ALONE, mean[slot], picture[..., channel])
    gone = _DROPPED if pruned else _MERGED
    tinted = (1 - _TINT) * picture + _TINT * np.asarray(to_rgb(gone))
    picture = np.where((role == GONE)[..., None], tinted, picture)
    _show(axes, picture, sides)
    axes.add_collection(LineCollection(_outlines(slots, roles), colors=_OUTLINE, linewidths=width))
    y, x = np.nonzero(roles == KEPT)
    axes.scatter(
        x + 0.5, y + 0.5, s=(0.45 * token) ** 2, color=_KEPT, linewidths=width, edgecolors="#333333"
    )
    if pruned:
        y, x = np.nonzero(roles == GONE)
        axes.scatter(
            x + 0.5, y + 0.5, s=(0.3 * token) ** 2, color=_OUTLINE, marker="x", linewidths=width
        )


def _show(axes: Axes, picture: NDArray, sides: tuple[int, ...]) -> None:
    """The picture, with tokens as the axes' units."""
    height, width = picture.shape[:2]
    axes.imshow(
        picture,
        extent=(0, sides[1], sides[0], 0),
        aspect=(height / sides[0]) / (width / sides[1]),
        interpolation="nearest",
    )
    axes.set_axis_off()


def _outlines(slots: NDArray[np.int64], roles: NDArray[np.int64]) -> list[list[tuple[int, int]]]:
    """Line segments between neighbours of different slots, of which one is not alone."""
    joined = roles != ALONE
    segments = []
    down = (slots[1:] != slots[:-1]) & (joined[1:] | joined[:-1])
    for r, c in np.argwhere(down).tolist():
        segments.append([(c, r + 1), (c + 1, r + 1)])
    across = (slots[:, 1:] != slots[:, :-1]) & (joined[:, 1:] | joined[:, :-1])
    for r, c in np.argwhere(across).tolist():
        segments.append([(c + 1, r), (c + 1, r + 1)])
    return segments

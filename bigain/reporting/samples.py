"""Generated images of several methods, side by side from the same seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from bigain.reporting.style import SMALLEST
from bigain.utils.pictures import DPI, save_figure

COLUMNS = 10
SMALLEST_SIDE, LARGEST = 64, 128  # pixels of an image's longer side, which is made to fit
GAP = 2  # pixels between images
MARGIN = 8  # pixels around the text
LETTERS = 9  # in one line of a prompt
GREYS = 32  # levels of grey images, which no eye tells from 256: half the file


def shown(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows that a figure shows of the first ``count``; "index" holds their places."""
    first = frame.head(count).reset_index().drop_duplicates("label")
    return first.sort_values("label").head(COLUMNS)


def draw(
    methods: Mapping[str, tuple[pd.DataFrame, Sequence[np.ndarray]]], stem: Path, title: str
) -> None:
    """Draw ``<stem>-samples.png``: one row per method, one column per image, under its prompt.

    The columns are the first image of each class on the runs' contact sheets, as many as fit; every
    method's are the same indices, so the same noise. A pixel of a sheet is a square of pixels of
    the figure, unless images are large.

    Args:
        methods: each method's rows, with image_id, label and prompt, and the images of its run's
            contact sheet, by its title. Without methods there is no figure.
        stem: path without a suffix; its folder exists.

    Raises:
        BiGainError: if an image cannot be read or the figure cannot be written.
    """
    if not methods:
        return
    sheets = {name: sheet for name, (_, sheet) in methods.items()}
    chosen = shown(next(iter(methods.values()))[0], min(map(len, sheets.values())))
    grid, (height, width) = _grid([[s[i] for i in chosen["index"]] for s in sheets.values()])
    figure = Figure(dpi=DPI)
    names = [figure.text(0, 0, name, fontsize=8, ha="right", va="center") for name in sheets]
    prompts = [
        figure.text(0, 0, fill(_short(text), LETTERS), fontsize=SMALLEST, ha="center", va="bottom")
        for text in chosen["prompt"]
    ]
    above = figure.text(
        0, 0, f"{title}: the same seeds under every method", fontsize=9, ha="center", va="bottom"
    )
    left = 2 * MARGIN + round(max(text.get_window_extent().width for text in names))
    prompt_height = round(max(text.get_window_extent().height for text in prompts))
    heading = above.get_window_extent()
    right = max(left + grid.shape[1], round(heading.width) + MARGIN) + MARGIN
    top = MARGIN + grid.shape[0]
    total = top + prompt_height + round(heading.height) + 3 * MARGIN
    figure.set_size_inches(right / DPI, total / DPI)
    figure.figimage(grid, left, MARGIN, origin="upper")
    for i, text in enumerate(names):
        y = top - (height + GAP) * i - height / 2
        text.set_position(((left - MARGIN) / right, y / total))
    for i, text in enumerate(prompts):
        x = left + (width + GAP) * i + width / 2
        text.set_position((x / right, (top + MARGIN / 2) / total))
    above.set_position((0.5, (top + prompt_height + 1.5 * MARGIN) / total))
    save_figure(figure, stem.with_name(stem.name + "-samples.png"))


def _grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The images on white, uint8 [H, W, 3], and the height and width of one of them."""
    height, width = rows[0][0].shape[:2]
    longer = max(height, width)  # whole times larger, so that pixels stay as they are
    scale = min(float(max(1, -(-SMALLEST_SIDE // longer))), LARGEST / longer)
    size = round(scale * height), round(scale * width)
    lines, columns = len(rows), len(rows[0])
    shape = [(side + GAP) * n - GAP for side, n in zip(size, (lines, columns), strict=True)]
    grid = np.full((*shape, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y, x = i * (size[0] + GAP), j * (size[1] + GAP)
            way = Image.Resampling.NEAREST if scale > 1 else None
            fitted = image if scale == 1 else Image.fromarray(image).resize(size[::-1], way)
            grid[y : y + size[0], x : x + size[1]] = fitted
    if (grid == grid[..., :1]).all():
        step = 255 / (GREYS - 1)
        grid = (np.round(grid / step) * step).round().astype(np.uint8)
    return grid, size


def _short(prompt: str) -> str:
    """A prompt without the words that all share."""
    text = prompt.removeprefix("a photo of ").removeprefix("an ").removeprefix("a ")
    return text.rstrip(".")

"""Generated images of several methods, side by side from the same seeds."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from bigain.utils import files

COLUMNS = 10
SIDE = 0.62  # inches an image spans


def shown(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows that a figure shows of the first ``count``, "index" being their places."""
    first = frame.head(count).reset_index().drop_duplicates("label")
    return first.sort_values("label").head(COLUMNS)


def draw(
    methods: Mapping[str, tuple[pd.DataFrame, Sequence[np.ndarray]]], stem: Path, title: str
) -> None:
    """Draw ``<stem>-samples.png``: a row a method, a column an image, titled by its prompt.

    The columns are the first image of each class on the runs' contact sheets, as many as fit; every
    method's are the same indices, so the same noise.

    Args:
        methods: by title, rows with image_id, label and prompt, and the images of their run's
            contact sheet. None, no figure.
        stem: path without a suffix; its folder exists.

    Raises:
        BiGainError: if an image cannot be read or the figure not be written.
    """
    if not methods:
        return
    sheets = {name: sheet for name, (_, sheet) in methods.items()}
    chosen = shown(next(iter(methods.values()))[0], min(map(len, sheets.values())))
    width = 1.7 + SIDE * len(chosen)
    figure = Figure(figsize=(width, 0.75 + SIDE * len(methods)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)  # type: ignore[call-arg, union-attr]
    grid = figure.subplots(len(methods), len(chosen), squeeze=False)
    for line, (name, sheet) in zip(grid, sheets.items(), strict=True):
        for axes, place in zip(line, chosen["index"], strict=True):
            axes.imshow(sheet[place])
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for axes, prompt in zip(grid[0], chosen["prompt"], strict=True):
        axes.set_title(_short(prompt), fontsize=6)
    figure.suptitle(f"{title}: the same seeds under every method", fontsize=9)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    with files.atomic(stem.with_name(stem.name + "-samples.png")) as file:
        _small(Image.open(drawn)).save(file, format="png", optimize=True)


def _small(image: Image.Image) -> Image.Image:
    """The same opaque picture, in one channel if it is grey."""
    colours = np.asarray(image.convert("RGB"))
    return image.convert("L" if np.ptp(colours, axis=2).max() == 0 else "RGB")


def _short(prompt: str) -> str:
    """A prompt without the words that all share."""
    text = prompt.removeprefix("a photo of ").removeprefix("an ").removeprefix("a ")
    return text.rstrip(".")

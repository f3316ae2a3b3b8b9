"""Generated images of several methods, side by side from the same seeds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bigain.images import read_image
from bigain.results import atomic

COLUMNS = 10
SIDE = 0.62  # inches an image spans


def draw(methods: Mapping[str, tuple[pd.DataFrame, Path]], stem: Path, title: str) -> None:
    """Draw ``<stem>-samples.png``: a row a method, a column an image, titled by its prompt.

    The columns are the first image of each class, in the order in which classes first come, as many
    as fit; every method's are the same indices, so the same noise.

    Args:
        methods: by title, rows with image_id, label and prompt, and the folder of their PNG files.
            None, no figure.
        stem: path without a suffix; its folder exists.

    Raises:
        BiGainError: if an image cannot be read or the figure not be written.
    """
    if not methods:
        return
    first = next(iter(methods.values()))[0].drop_duplicates("label").sort_values("label")
    shown = first.head(COLUMNS)
    width = 1.7 + SIDE * len(shown)
    figure = Figure(figsize=(width, 0.75 + SIDE * len(methods)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)  # type: ignore[call-arg, union-attr]
    grid = figure.subplots(len(methods), len(shown), squeeze=False)
    for line, (name, (_, folder)) in zip(grid, methods.items(), strict=True):
        for axes, image_id in zip(line, shown["image_id"], strict=True):
            image = read_image(folder / f"{image_id}.png")
            grey = image.shape[2] == 1
            axes.imshow(np.squeeze(image), cmap="gray" if grey else None, vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for axes, prompt in zip(grid[0], shown["prompt"], strict=True):
        axes.set_title(_short(prompt), fontsize=6)
    figure.suptitle(f"{title}: the same seeds under every method", fontsize=9)
    with atomic.atomic(stem.with_name(stem.name + "-samples.png")) as file:
        figure.savefig(file, format="png", dpi=150)


def _short(prompt: str) -> str:
    """A prompt without the words that all share."""
    text = prompt.removeprefix("a photo of ").removeprefix("an ").removeprefix("a ")
    return text.rstrip(".")

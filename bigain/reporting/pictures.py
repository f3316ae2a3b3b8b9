"""Figures as small PNG files."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bigain.utils import files

DPI = 120
MEAN_ERROR = 1.0  # of a palette's colours, in levels of 255, above which they are not good enough


def save_figure(figure: Figure, path: Path, dpi: float = DPI) -> None:
    """Write a figure as a PNG file of few bytes, which are the same for the same pixels.

    Its colours become those of a palette: exactly, if there are at most 256, else the nearest. A
    figure whose colours a palette cannot show, such as one of photographs, keeps them all.

    Raises:
        BiGainError: if the file cannot be written.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    picture = Image.open(drawn).convert("RGB")
    small = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    error = np.abs(np.asarray(picture, np.int16) - np.asarray(small.convert("RGB"))).mean()
    with files.atomic(path) as file:
        (small if error <= MEAN_ERROR else picture).save(file, "PNG", optimize=True)

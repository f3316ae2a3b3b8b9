"""Figures as small PNG files."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bigain.utils import files

DPI = 120
# errors of a palette's colours, in levels of 255, above which they are not good enough: the mean,
# and that of the worst pixel in a thousand, which is often a coloured letter
MEAN_ERROR, WORST_ERROR = 1.0, 24


def save_figure(figure: Figure, path: Path, dpi: float = DPI) -> None:
    """Write a figure as a PNG file of few bytes, which are the same for the same pixels.

    Its colours become those of a palette: exactly, if there are at most 256, else the nearest. A
    figure whose colours a palette cannot show, such as one of photographs, keeps them all.

    Args:
        dpi: pixels per inch of the figure's size.

    Raises:
        BiGainError: if the file cannot be written.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    picture = Image.open(drawn).convert("RGB")
    small = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    error = np.abs(np.asarray(picture, np.int16) - np.asarray(small.convert("RGB")))
    good = error.mean() <= MEAN_ERROR and np.quantile(error.max(2), 0.999) <= WORST_ERROR
    with files.atomic(path) as file:
        (small if good else picture).save(file, "PNG", optimize=True)

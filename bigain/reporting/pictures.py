"""Figures as small PNG files."""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from bigain.utils import files

DPI = 150
COLOURS = 256  # the most that a palette holds


def save_figure(figure: Figure, path: Path, dpi: float = DPI) -> None:
    """Write a figure as a PNG file of few bytes, which are the same for the same pixels.

    Its colours are those of a palette: exact if there are few, else the nearest of 256.

    Raises:
        BiGainError: if the file cannot be written.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    picture = Image.open(drawn).convert("RGB")
    small = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with files.atomic(path) as file:
        small.save(file, "PNG", optimize=True)

"""What a method looks like, the same in every figure, and what every figure has in common."""

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import fill
from zlib import crc32

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

SMALLEST = 7  # points, of any letter in a figure
LETTERS = 8  # points, of labels
HEADING = 11  # points, of a figure's title
SOFT = "#555555"  # of notes
ROOM = 0.06  # beyond the outermost values, as a share of what an axis shows
MAGNIFIED = 3  # times, at most, that an axis stretches what one from 0 would show
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
# for the methods without a style of their own, each far from the colours below
OTHERS = ("#3F8F1F", "#00A5B5", "#5A63E0", "#A0522D", "#C2185B")


@dataclass(frozen=True)
class Style:
    """A colour as matplotlib takes it, and a marker."""

    colour: str
    marker: str

    @property
    def ink(self) -> str:
        """The colour for text: dark enough to be read on white."""
        red, green, blue = to_rgb(self.colour)
        return to_hex((0.7 * red, 0.7 * green, 0.7 * blue))


BASELINE = Style("#111111", "*")
# by the series of experiments/methods.yaml; the six best known have the colours of Okabe and Ito
# (2008), which are safe for the colour-blind, and no two have the same colour or nearly so
FIXED = {
    "ToMe": Style("#0072B2", "o"),
    "ToMe, first": Style("#56B4E9", "s"),
    "ToMe, unpaired": Style("#1B2A6B", "X"),
    "ToMe, cycling": Style("#0000FF", "<"),
    "Anchored ToMe": Style("#FF0033", "o"),
    "SiTo": Style("#009E73", "^"),
    "ABM": Style("#8A8A8A", "h"),
    "L-GTM": Style("#D55E00", "D"),
    "L-GTM, official cells": Style("#8B1A1A", "<"),
    "L-GTM, highest": Style("#F29A86", ">"),
    "L-GTM, cycling": Style("#FF88FF", "D"),
    "L-GTM cached": Style("#E8308C", "P"),
    "L-GTM, official DiT default": Style("#2F4F4F", "v"),
    "ToDo": Style("#E69F00", "v"),
    "ToDo, mean": Style("#7D6608", ">"),
    "ToDo, coarse queries": Style("#C9B037", "s"),
    "IE-KVD": Style("#7B3FA0", "P"),
    "IE-KVD, cycling": Style("#00DD00", "P"),
    "L-GTM + IE-KVD": Style("#CC79A7", "X"),
}


def styles(series: Iterable[str]) -> dict[str, Style]:
    """The style of each series of a figure: its fixed one, or one derived from its name.

    No two series of a figure look alike. Two methods without a fixed style may have names that lead
    to the same one; the second then takes another, so it can look different in another figure.

    >>> styles(["ToMe"])
    {'ToMe': Style(colour='#0072B2', marker='o')}
    """
    free = [Style(colour, marker) for marker in MARKERS for colour in OTHERS]
    names = list(dict.fromkeys(series))
    found = {name: FIXED[name] for name in names if name in FIXED}
    for name in (name for name in names if name not in FIXED):
        place = crc32(name.encode())
        left = set(free) - set(found.values()) or set(free)
        while free[place % len(free)] not in left:
            place += 1
        found[name] = free[place % len(free)]
    return {name: found[name] for name in names}


def limits(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis that holds both values and does not make small differences look large.

    It begins at 0 unless that would leave more than half of it empty, and never magnifies
    differences by more than `MAGNIFIED`, compared with an axis that begins at 0.

    >>> limits(20, 50)
    (0, 53.0)
    >>> limits(80, 84)
    (57.12, 85.68)
    """
    if 0 <= low <= high / 2:
        return 0, high * (1 + ROOM)
    span = (high - low) * (1 + 2 * ROOM)
    least = (abs(high) or 1) * (1 + ROOM / 3) / MAGNIFIED
    if span >= least:
        return low - ROOM * (high - low), high + ROOM * (high - low)
    top = high + ROOM / 3 * abs(high)
    return round(top - least, 12), round(top, 12)


def plain(axes: Axes, grid: str = "y") -> None:
    """Give axes two spines, a faint grid behind the values, and letters of the usual size."""
    axes.grid(axis=grid, color="#E4E4E4", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=LETTERS)


def wrapped(text: str, width: float, size: float = HEADING) -> str:
    """A text of ``size`` points, broken into lines that fit a figure of ``width`` inches."""
    return fill(text, int(72 * width / (0.6 * size)), break_on_hyphens=False)

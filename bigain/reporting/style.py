"""What a method looks like: one colour and one marker, the same in every figure."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle

from matplotlib.colors import to_hex, to_rgb

# Okabe and Ito (2008), safe for the colour-blind, less the black of the baseline and the yellow
# that fades on white. Six colours and seven markers make 42 methods distinct.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
GREY = "#777777"  # only of fixed styles
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


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


BASELINE = Style("#222222", "*")
# by the series of experiments/methods.yaml; a family shares a colour where it can
FIXED = {
    "ToMe": Style(BLUE, "o"),
    "ToMe, first": Style(SKY, "s"),
    "ToMe, unpaired": Style(BLUE, "X"),
    "SiTo": Style(GREEN, "^"),
    "ABM": Style(GREY, "X"),
    "L-GTM": Style(VERMILION, "D"),
    "L-GTM, official cells": Style(VERMILION, "v"),
    "L-GTM, highest": Style(VERMILION, "s"),
    "L-GTM cached": Style(VERMILION, "P"),
    "ToDo": Style(ORANGE, "v"),
    "ToDo, mean": Style(ORANGE, "s"),
    "IE-KVD": Style(PURPLE, "P"),
    "L-GTM + IE-KVD": Style(PURPLE, "X"),
}


def styles(series: Iterable[str]) -> dict[str, Style]:
    """The style of each series of a figure: its fixed one, or the next that is nobody's.

    >>> styles(["Mine", "ToMe"])
    {'Mine': Style(colour='#CC79A7', marker='D'), 'ToMe': Style(colour='#0072B2', marker='o')}
    """
    taken = set(FIXED.values())
    count = len(COLOURS) * len(MARKERS)
    every = (Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(count))
    free = cycle([style for style in every if style not in taken])
    return {name: FIXED.get(name) or next(free) for name in dict.fromkeys(series)}

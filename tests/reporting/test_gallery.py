"""Every kind of figure can be read: nothing overlaps, is cut off, too small, empty or alike.

``python tests/tiny_figures.py sheet.png`` writes these figures on one sheet, to be looked at.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from bigain.experiments.methods import methods
from bigain.reporting.build import FIGURES
from bigain.reporting.style import BASELINE, FIXED, MAGNIFIED, OTHERS, SMALLEST, limits, styles
from tests.tiny_figures import FEW, draw_all, sheet

# a file of each kind of figure
KINDS = {
    "tradeoff": "many-rows",
    "overview": "overview",
    "samples": "images-samples",
    "maps": "trace-maps",
    "retention": "trace-coherence",
}
LEAST_APART = 15  # in CIELAB, of two methods' colours: 2.3 is what an eye just tells apart


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Iterator[dict[str, Figure]]:
    """Every figure by its number, as it was saved."""
    found: dict[str, Figure] = {}
    original = Figure.savefig

    def remember(self: Figure, *args, **kwargs):
        found[str(len(found))] = self
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", remember)
        files = draw_all(tmp_path_factory.mktemp("figures"))
    assert len(files) == len(found) == 10 and {path.stem for path in files} > {*KINDS.values()}
    for figure in found.values():
        figure.draw_without_rendering()  # at its own resolution, in which texts are measured
    yield found


def texts(figure: Figure) -> list[Text]:
    """What is written in it and can be seen."""
    for axes in figure.axes:  # ticks beyond an axis's ends are not drawn
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted((low, high))
            room = 1e-6 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - room <= tick.get_loc() <= high + room:
                    tick.label1.set_visible(False)
    off = [
        text
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
    ]
    found = [text for text in figure.findobj(Text) if not any(text is other for other in off)]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def test_there_is_one_of_every_kind():
    assert set(KINDS) == set(FIGURES), "draw the new kind in tests/tiny_figures.py"


def test_letters_are_large_enough(drawn):
    for name, figure in drawn.items():
        for text in texts(figure):
            assert float(text.get_fontsize()) >= SMALLEST, (name, text.get_text())


def test_nothing_written_overlaps_or_is_cut_off(drawn):
    for name, figure in drawn.items():
        boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts(figure)]
        for (a, first), (b, second) in combinations(boxes, 2):
            overlap = first.intersection(first, second)
            assert overlap is None or min(overlap.width, overlap.height) < 1.5, (name, a, b)
        for said, box in boxes:
            inside = figure.bbox.padded(1.5)
            assert inside.x0 <= box.x0 and box.x1 <= inside.x1, (name, said)
            assert inside.y0 <= box.y0 and box.y1 <= inside.y1, (name, said)


def test_no_panel_is_empty(drawn):
    for name, figure in drawn.items():
        for axes in figure.axes:
            marks = [*axes.lines, *axes.collections, *axes.images, *axes.patches]
            assert marks, (name, axes.get_title())


def test_no_value_hides_another(drawn):
    for name, figure in drawn.items():
        for axes in figure.axes:
            centres = [
                axes.transData.transform(point)
                for line in axes.lines
                if line.get_marker() not in ("None", None, "")
                for point in line.get_xydata()
            ]
            for a, b in combinations(centres, 2):
                points = np.abs(a - b).max() * 72 / figure.dpi
                assert points >= 5, (name, axes.get_xlabel(), a, b)


def test_lines_go_from_left_to_right(drawn):
    several = 0
    for name, figure in drawn.items():
        for line in (line for axes in figure.axes for line in axes.lines):
            if line.get_label() in FEW:
                several += 1
                assert (np.diff(line.get_xdata()) > 0).all(), (name, line.get_label())
    assert several >= 4 * len(FEW)  # the overview's panels


def test_a_method_looks_the_same_in_every_figure(drawn):
    looks: dict[str, set] = {}
    for figure in drawn.values():
        for line in (line for axes in figure.axes for line in axes.lines):
            method = next((m for m in sorted(FIXED, key=len) if line.get_label() == m), None)
            if method is None:
                rest = line.get_label().rpartition(" ")[0]
                method = rest if rest in FIXED else None
            if method is not None:
                looks.setdefault(method, set()).add((line.get_color(), line.get_marker()))
    assert looks == {m: {(style.colour, style.marker)} for m, style in FIXED.items()}


def lab(colour: str) -> np.ndarray:
    """CIELAB under D65."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_two_colours_are_nearly_the_same():
    colours = [style.colour for style in FIXED.values()] + [BASELINE.colour, *OTHERS]
    for a, b in combinations(colours, 2):
        assert np.linalg.norm(lab(a) - lab(b)) >= LEAST_APART, (a, b)


def test_every_method_at_several_strengths_has_its_own_style():
    """But for those of Tables 8, 12 and 16, which stand in no other figure."""
    several = {
        method.series
        for method in methods().values()
        if method.series != method.title
        and "alpha" not in method.series
        and "score per cell" not in method.series
        and (
            method.series.startswith("L-GTM")
            or not any("compressor.score=" in text for text in method.overrides)
        )
    }
    assert several > {"ToMe", "L-GTM", "IE-KVD", "Anchored ToMe"} and several <= set(FIXED)


def test_other_methods_look_the_same_whatever_stands_beside_them():
    mine, other = styles(["Mine"])["Mine"], styles(["ToMe", "Other", "Mine", "L-GTM"])["Mine"]
    assert mine == other
    found = styles([*FIXED, *map(str, range(30))])
    assert len(set(found.values())) == len(FIXED) + 30


@pytest.mark.parametrize("low", [0, 1, 30, 60, 75, 79.9, 80])
def test_an_axis_magnifies_little(low):
    left, right = limits(low, 80)
    assert left <= low and right >= 80
    assert (right - 0) / (right - left) <= MAGNIFIED + 1e-9
    assert left == 0 or low > 40


def test_the_sheet_holds_all(tmp_path):
    for i, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (1000 if i else 100, 200), colour).save(tmp_path / f"{i}.png")
    made = sheet(sorted(tmp_path.glob("*.png")))
    colours = {colour for _, colour in made.getcolors(10**7)}
    assert {(255, 0, 0), (0, 128, 0), (0, 0, 255)} <= colours

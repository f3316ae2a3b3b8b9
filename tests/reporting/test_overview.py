"""Accuracy and FID of a few methods at a glance, and what methods look like."""

import re
from itertools import combinations

import pytest
from matplotlib.text import Annotation, Text
from PIL import Image

from bigain.experiments import experiment_files
from bigain.experiments.methods import methods
from bigain.reporting import curves, overview, style
from bigain.reporting.build import ACROSS, FIGURES, Collected, draw_overview
from bigain.reporting.tables import Section
from bigain.tasks.classify_columns import PANEL as ACCURACY
from bigain.tasks.generate_columns import PANEL as FID

NAMES = ["ToMe", "ToMe, first", "SiTo", "L-GTM", "ToDo", "IE-KVD"]


def line(method, accuracy, fid, gflops):
    return {
        "method": method,
        "acc1": accuracy,
        "low": accuracy - 4,
        "high": accuracy + 4,
        "fid": fid,
        "fid_low": fid - 0.3,
        "fid_high": fid + 0.3,
        "gflops": gflops,
    }


def model(title, apart=1.0):
    """Methods whose cheapest rows lie close to one another, and at the same two costs."""
    series = {
        name: [
            line(f"{name} 0.7", 50 + apart * i, 9 - 0.1 * apart * i, 1.0),
            line(f"{name} 0.3", 78 + 0.2 * i, 3.0, 1.5),
        ]
        for i, name in enumerate(NAMES)
    }
    return overview.Model(title, line("Uncompressed", 80, 2.5, 2.0), series)


def labels(axes):
    """The names beside the curves, without the strengths that follow them."""
    found = {text.get_text(): text for text in axes.texts if isinstance(text, Annotation)}
    return {re.sub(r"( [\d.]+,?)+$", "", name): text for name, text in found.items()}


def test_labels_overlap_neither_one_another_nor_the_values(tmp_path, figures):
    models = [model("One"), model("Two", apart=0), model("Three", apart=-12)]
    assert overview.draw(models, [ACCURACY, FID], tmp_path / "a.png", "Toy")
    (figure,) = figures
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == ["One", "Two", "Three"]
    for axes in figure.axes:
        found = labels(axes)
        assert set(found) == {*NAMES, "Uncompressed"}
        assert found["ToMe"].get_text() == "ToMe 0.7, 0.3"  # from left to right
        boxes = {name: Text.get_window_extent(text) for name, text in found.items()}
        for a, b in combinations(boxes, 2):
            assert not boxes[a].overlaps(boxes[b]), (a, b)
        values = [line for line in axes.get_lines() if line.get_label() in NAMES]
        assert len(values) == 6
        drawn = [values.get_window_extent() for values in axes.get_lines()]
        drawn += [interval.get_window_extent() for interval in axes.collections]
        for box in boxes.values():
            assert axes.bbox.x0 <= box.x0 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
            assert box.x1 < min(other.x0 for other in drawn)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P" and image.size == tuple(figure.canvas.get_width_height())


def test_a_method_has_one_colour_which_is_its_own(tmp_path, figures):
    overview.draw([model("One"), model("Two")], [ACCURACY, FID], tmp_path / "a.png", "Toy")
    looks = {
        (line.get_label(), line.get_color(), line.get_marker())
        for axes in figures[0].axes
        for line in axes.get_lines()
        if line.get_label() in NAMES
    }
    assert len(looks) == len({colour for _, colour, _ in looks}) == 6
    assert len({marker for *_, marker in looks}) == 6


def test_scales_hold_every_interval_and_begin_at_0_where_they_can(tmp_path, figures):
    overview.draw([model("One")], [ACCURACY, FID], tmp_path / "a.png", "Toy")
    accuracy, fid = (axes.get_ylim() for axes in figures[0].axes)
    assert 40 < accuracy[0] < 46 and accuracy[1] > 84  # half of the scale would be empty
    assert fid[0] == 0 and fid[1] > 9.3


def test_what_is_not_measured_is_left_out(tmp_path, figures, capsys):
    bare = {**line("ToMe 0.7", 50, 9, 1.0), "fid": None}
    without = {key: None for key in bare} | {"method": "Uncompressed"}
    one = overview.Model("One", without, {"ToMe": [bare], "SiTo": [without]})
    assert overview.draw([one], [ACCURACY, FID], tmp_path / "a.png", "Toy")
    (axes,) = figures[0].axes
    assert set(labels(axes)) == {"ToMe"}
    nothing = overview.Model("One", without, {"SiTo": [without]})
    assert not overview.draw([nothing], [ACCURACY], tmp_path / "b.png", "Toy")
    assert not (tmp_path / "b.png").exists() and "b: no row is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([1, 9, 5], [1, 9, 5]),
        ([5, 5, 5], [3, 5, 7]),
        ([0, 0, 10], [1, 3, 9]),  # within the limits
        ([4, 5, 1], [3.5, 5.5, 1]),
    ],
)
def test_labels_move_as_little_as_they_must(wanted, places):
    assert curves.spread(wanted, 2, 1, 9) == pytest.approx(places)


def test_an_experiment_file_chooses_the_methods(tmp_path, figures):
    experiment = experiment_files.load("figure2", "mini")
    assert "overview" in FIGURES and set(FIGURES) >= ACROSS
    collected = []
    for group in experiment.groups:
        rows = [line(row.title, 50 + i, 5, 1 + i % 3) for i, row in enumerate(group.rows)]
        collected.append(Collected(group, {}, Section(group.title, rows, [])))
    assert draw_overview(experiment, tmp_path / "new" / "a.png", collected)
    first, second, *_ = figures[0].axes
    assert set(labels(first)) == {*NAMES, "Anchored ToMe", "Uncompressed"}
    assert second.get_title() == "U-Net, Fashion-MNIST"
    FIGURES["overview"](experiment, collected, tmp_path / "figure2")
    assert (tmp_path / "figure2-overview.png").read_bytes() == (
        tmp_path / "new" / "a.png"
    ).read_bytes()


def test_styles_are_of_methods_that_there_are():
    assert set(style.FIXED) <= {method.series for method in methods().values()}
    assert len(set(style.FIXED.values())) == len(style.FIXED)
    found = style.styles([*style.FIXED, *map(str, range(20))])
    assert len(set(found.values())) == len(found)

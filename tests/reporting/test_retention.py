"""The figure of surviving frequencies."""

import numpy as np
import pytest
from PIL import Image

from bigain.errors import BiGainError
from bigain.reporting.retention import draw_retention, interval, series
from bigain.reporting.style import FIXED


def test_what_is_left_alone_is_coherent(traced):
    frame = traced()
    frame["after"] = frame["product"] = frame["before"]
    for value in ("coherence", "power"):
        (found,) = series("A", frame, value).values()
        assert found.shape == (3, 3, 10) and found == pytest.approx(1)


def test_half_as_large_keeps_a_quarter_of_the_power(traced):
    frame = traced()
    frame["after"] = frame["before"] / 4
    frame["product"] = frame["before"] / 2
    assert series("A", frame, "power")["A"] == pytest.approx(0.25)
    assert series("A", frame, "coherence")["A"] == pytest.approx(1)


def test_both_fields_are_series_of_their_own(traced):
    found = series("A", traced(fields=["keys_values", "queries"]), "power", 500)
    assert list(found) == ["A, keys and values", "A, queries"]
    assert all(values.shape == (3, 3, 10) for values in found.values())


def test_interval():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    mean, low, high = interval(values)
    assert mean.tolist() == [2, 5]
    assert high - mean == pytest.approx([1.96 / np.sqrt(3), 0])
    assert mean - low == pytest.approx(high - mean)
    assert all(np.array_equal(v, values[0]) for v in interval(values[:1]))


def test_a_panel_a_block_a_line_a_method(traced, figures, tmp_path):
    methods = {f"M{i}": traced() for i in range(7)}
    draw_retention(methods, tmp_path / "a", "Model", timestep=500)
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["Block 1", "Block 4", "Block 5"]
    assert figure.get_suptitle().startswith("Model: t = 500, mean of 3 images")
    lines = figure.axes[1].get_lines()
    assert [line.get_label() for line in lines] == list(methods)
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 7
    assert {line.get_linestyle() for line in lines} == {"-"}
    want = series("M0", traced(), "coherence", 500)["M0"][:, 1].mean(0)
    assert lines[0].get_ydata() == pytest.approx(want)
    with Image.open(tmp_path / "a-coherence.png") as image:
        assert image.width > 500


def test_strengths_of_a_method_differ_by_their_dashes(traced, figures, tmp_path):
    titles = {"ToMe 0.3": "ToMe", "SiTo 0.3": "SiTo", "ToMe 0.7": "ToMe"}
    traces = dict.fromkeys(titles, traced())
    draw_retention(traces, tmp_path / "a", "Model", methods=titles)
    first, other, second = figures[0].axes[0].get_lines()
    assert first.get_color() == second.get_color() == FIXED["ToMe"].colour != other.get_color()
    assert first.get_marker() == second.get_marker() != other.get_marker()
    assert [line.get_linestyle() for line in (first, other, second)] == ["-", "-", "--"]


def test_many_blocks_take_several_lines(traced, figures, tmp_path):
    frame = traced(blocks=[1] * 7, heights=[2] * 7, widths=[3] * 7)
    draw_retention({"A": frame}, tmp_path / "a", "Model", value="power")
    used = [axes for axes in figures[0].axes if axes.axison]
    assert len(used) == 7 and len(figures[0].axes) == 10
    assert used[6].get_title() == "Compressed block 7"
    assert [bool(axes.get_xlabel()) for axes in used] == [
        False,
        False,
        True,
        True,
        True,
        True,
        True,
    ]
    assert (tmp_path / "a-power.png").exists()


def test_bands_that_a_grid_lacks_are_left_out(traced, figures, tmp_path):
    frame = traced()
    holes = np.tile(np.arange(10) != 3, 6)
    for key in ("before", "after", "product"):
        frame[key] = [values * holes for values in frame[key]]
    draw_retention({"A": frame}, tmp_path / "a", "Model")
    (line,) = figures[0].axes[0].get_lines()
    assert len(line.get_xdata()) == 9 and np.isfinite(line.get_ydata()).all()


def test_what_cannot_be_compared_is_refused(traced, tmp_path):
    with pytest.raises(ValueError, match="value must be one of coherence, power; got 'sound'"):
        draw_retention({"A": traced()}, tmp_path / "a", "Model", value="sound")
    other = traced(blocks=[1, 4, 6])
    with pytest.raises(BiGainError, match=r"B was traced in blocks \[1, 4, 6\], others in"):
        draw_retention({"A": traced(), "B": other}, tmp_path / "a", "Model")
    fewer = traced()
    for key in ("before", "after", "product"):
        fewer[key] = [values[:30] for values in fewer[key]]
    with pytest.raises(BiGainError, match=r"different task\.bands"):
        draw_retention({"A": traced(), "B": fewer}, tmp_path / "a", "Model")
    with pytest.raises(BiGainError, match="not at t = 7"):
        draw_retention({"A": traced()}, tmp_path / "a", "Model", timestep=7)
    draw_retention({}, tmp_path / "a", "Model")
    assert not list(tmp_path.iterdir())

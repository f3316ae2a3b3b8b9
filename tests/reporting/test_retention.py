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


def panels(figure):
    """The heat maps' axes, without that of the colours."""
    return [axes for axes in figure.axes if axes.get_title()]


def test_a_panel_per_block_a_line_per_method_and_a_column_per_band(traced, figures, tmp_path):
    methods = {f"M{i}": traced(images=3 + i) for i in range(7)}
    draw_retention(methods, tmp_path / "a", "Model", timestep=500)
    (figure,) = figures
    shown = panels(figure)
    assert [axes.get_title() for axes in shown] == ["Block 1", "Block 4", "Block 5"]
    assert figure.get_suptitle().startswith("Model: t = 500, mean of 3 to 9 images; 95% intervals")
    assert [text.get_text() for text in shown[0].get_yticklabels()] == list(methods)
    (mesh,) = shown[1].collections
    assert mesh.get_array().shape == (7, 10) and mesh.get_clim() == (0, 1)
    want = series("M6", methods["M6"], "coherence", 500)["M6"][:, 1].mean(0)
    assert mesh.get_array().filled(-1)[6] == pytest.approx(want)
    assert not np.ma.getmaskarray(mesh.get_array()).any()
    with Image.open(tmp_path / "a-coherence.png") as image:
        assert image.width > 500


def test_the_title_says_how_far_intervals_go(traced, figures, tmp_path):
    frame = traced()
    draw_retention({"A": frame}, tmp_path / "a", "Model")
    found = series("A", frame, "coherence")["A"]
    half = max(
        np.max(high - low) / 2
        for _, low, high in (interval(found[:, block]) for block in range(found.shape[1]))
    )
    assert f"at most ±{half:.2f}" in figures[0].get_suptitle().replace("\n", " ")


def test_names_have_the_colours_of_their_methods(traced, figures, tmp_path):
    titles = {"ToMe 0.3": "ToMe", "SiTo 0.3": "SiTo", "ToMe 0.7": "ToMe"}
    draw_retention(dict.fromkeys(titles, traced()), tmp_path / "a", "Model", methods=titles)
    colours = [text.get_color() for text in panels(figures[0])[0].get_yticklabels()]
    assert colours == [FIXED[method].ink for method in titles.values()]


@pytest.mark.parametrize(("blocks", "grid"), [(3, (1, 3)), (6, (2, 3)), (7, (2, 4)), (8, (2, 4))])
def test_panels_fill_their_grid(traced, figures, tmp_path, blocks, grid):
    frame = traced(blocks=[1] * blocks, heights=[2] * blocks, widths=[3] * blocks)
    draw_retention({"A": frame}, tmp_path / "a", "Model", value="power")
    shown = panels(figures[0])
    assert len(shown) == blocks
    spec = shown[0].get_subplotspec().get_gridspec()
    assert (spec.nrows, spec.ncols) == grid
    for axes in shown[-grid[1] :]:  # the lowest of each column
        assert [text.get_text() for text in axes.get_xticklabels()] == ["mean", "1/4", "1/2"]
        assert axes.xaxis.get_tick_params()["labelbottom"]
    assert (tmp_path / "a-power.png").exists()


def test_bands_that_a_grid_lacks_are_grey(traced, figures, tmp_path):
    frame = traced()
    holes = np.tile(np.arange(10) != 3, 6)
    for key in ("before", "after", "product"):
        frame[key] = [values * holes for values in frame[key]]
    draw_retention({"A": frame}, tmp_path / "a", "Model")
    (mesh,) = panels(figures[0])[0].collections
    assert mesh.get_array().mask.tolist() == [[i == 3 for i in range(10)]]


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

"""The figure of merged and dropped tokens."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import run as entry_point
from bigain.errors import BiGainError
from bigain.experiments.experiment_files import Entry
from bigain.experiments.runner import execute
from bigain.reporting.bundling import Reads, bundle
from bigain.reporting.maps import draw_maps


def two_by_two(traced, pruned):
    """An image of four tokens, of one pixel each: the upper two share a slot."""
    return traced(
        1,
        timesteps=[100],
        blocks=[1],
        heights=[2],
        widths=[2],
        pruned=pruned,
        slots=[0, 0, 1, 2],
        roles=[1, 2, 0, 0],
        image_shape=[2, 2, 1],
        image=[40, 200, 80, 90],
    )


@pytest.mark.parametrize(("pruned", "left"), [(False, 120), (True, 40)])
def test_a_group_shows_what_is_left_of_it(traced, figures, tmp_path, pruned, left):
    draw_maps({"Method": two_by_two(traced, pruned)}, tmp_path / "a", "Model")
    (figure,) = figures
    shown, drawn = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Image", "Method"]
    assert np.array_equal(shown.images[0].get_array()[..., 0], [[40, 200], [80, 90]])
    picture = np.asarray(drawn.images[0].get_array())
    kept, gone = picture[0]
    assert kept == pytest.approx([left / 255] * 3)
    merged, dropped = gone[2] > gone[0], gone[0] > gone[2]  # tinted blue, or vermilion
    assert (merged, dropped) == (not pruned, pruned)
    assert picture[1, :, 0] == pytest.approx([80 / 255, 90 / 255])  # alone: the image itself
    lines, dots, *crosses = drawn.collections
    assert [cross.get_offsets().tolist() for cross in crosses] == ([[[1.5, 0.5]]] if pruned else [])
    # under the group alone: its tokens share a slot, the others join nothing
    segments = {tuple(map(tuple, s.tolist())) for s in lines.get_segments()}
    assert segments == {((0, 1), (1, 1)), ((1, 1), (2, 1))}
    assert dots.get_offsets().tolist() == [[0.5, 0.5]]


def test_a_line_an_image_a_column_a_method(traced, figures, tmp_path):
    frame = traced(6)
    draw_maps({"A": frame, "B": frame}, tmp_path / "a", "Model", block=2, timestep=500)
    assert len(figures[0].axes) == 4 * 3  # the first four labels
    assert figures[0].get_suptitle() == "Model: block 5, t = 500"
    assert figures[0].axes[1].images[0].get_extent() == [0, 3, 2, 0]
    with Image.open(tmp_path / "a-maps.png") as image:
        assert image.width > 500


def test_images_of_one_label_are_shown_once(traced, figures, tmp_path):
    frame = traced(3)
    frame["labels"] = [[7], [7, 8], [8]]
    draw_maps({"A": frame}, tmp_path / "a", "Model")
    assert len(figures[0].axes) == 2 * 2


def test_an_image_that_a_method_lacks_is_named(traced, tmp_path):
    with pytest.raises(BiGainError, match="B: image 2 was not traced"):
        draw_maps({"A": traced(3), "B": traced(2)}, tmp_path / "a", "Model")
    assert not list(tmp_path.iterdir())


def test_without_methods_there_is_no_figure(tmp_path):
    draw_maps({}, tmp_path / "a", "Model")
    assert not list(tmp_path.iterdir())


TRACE = ["compressor=sito", "limit=2", "blocks=all", "task.timesteps=[100,900]", "device=cpu"]


def test_a_trace_draws_its_merge_maps_and_others_draw_nothing(configure, tmp_path, capsys):
    where = f"results={tmp_path}"
    run = execute(configure(["task=trace", *TRACE, where]), entry_point.draw)
    said = capsys.readouterr().out
    for timestep in (100, 900):
        path = run.path / f"tokens-t{timestep}-maps.png"
        assert f"merge map: {path}\n" in said
        with Image.open(path) as picture:
            assert picture.width > 300
    assert len(run.require(run.finished())) == 2  # the store takes no notice of them
    assert bundle([Entry(["task=trace", *TRACE, where])], Reads()) == 1
    execute(configure(["task=trace", *TRACE, where]), entry_point.draw)
    assert "no merge map: the run is in a bundle" in capsys.readouterr().out
    execute(configure(["task=profile", "blocks=[1]", where]), entry_point.draw)
    assert not list(Path(tmp_path).rglob("*.png"))

"""A traced run leaves pictures beside its rows, and says where."""

from pathlib import Path

from PIL import Image

import run as entry_point
from bigain.experiments.runner import execute

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
    execute(configure(["task=profile", "blocks=[1]", where]), entry_point.draw)
    assert len(list(Path(tmp_path).rglob("*.png"))) == 2

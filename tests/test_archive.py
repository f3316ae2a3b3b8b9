"""Archived runs: small, whole for tables, and drawn anew when more is asked of them."""

import pytest

from bigain.archive import archive
from bigain.errors import BiGainError
from bigain.experiments import Cell
from bigain.images import read_sheet
from bigain.job import Job
from bigain.results.store import Run
from bigain.runner import execute
from bigain.tasks.generate import folder


@pytest.fixture
def overrides(small_dit, tmp_path) -> list[str]:
    settings = ["task=generate", "task.steps=2", "limit=12", "evaluation.allow_few=true"]
    return [*settings, f"model.path={small_dit}", f"results={tmp_path}", "batch_size=4"]


@pytest.fixture
def run(configure):
    return lambda overrides: execute(configure(overrides))


def test_scored_images_go_and_all_else_stays(overrides, run, capsys):
    first = run(overrides)
    rows, sheet = first.rows(), read_sheet(first.path / "sheet.png")
    assert len(list(first.path.glob("part-*"))) == 3
    assert archive([Cell(overrides)]) == 1
    assert not folder(first).exists() and len(list(first.path.glob("part-*"))) == 1
    capsys.readouterr()
    again = run(overrides)
    assert "nothing to compute" in capsys.readouterr().out
    assert again.rows().equals(rows)
    assert all(
        (a == b).all() for a, b in zip(read_sheet(again.path / "sheet.png"), sheet, strict=True)
    )
    assert not folder(again).exists()
    assert archive([Cell(overrides)]) == 1


def test_other_scores_need_the_images(overrides, run):
    first = run(overrides)
    archive([Cell(overrides)])
    with pytest.raises(BiGainError, match=r"archived its images.*remove its archived\.json"):
        run([*overrides, "evaluation.coverage_neighbours=4"])
    (first.path / "archived.json").unlink()
    assert len(list(folder(run([*overrides, "evaluation.coverage_neighbours=4"])).iterdir())) == 12


def test_more_images_draw_all_again(overrides, run):
    first = run(overrides)
    rows = first.rows()
    archive([Cell(overrides)])
    more = run([*overrides, "limit=16"])
    assert len(list(folder(more).iterdir())) == 16 and more.records("archived") == []
    assert more.rows().head(12)["label"].equals(rows["label"])


def test_what_is_not_finished_or_not_scored_stays(overrides, run, configure):
    assert archive([Cell(overrides)]) == 0
    unscored = run([*overrides, "features=none"])
    assert archive([Cell(overrides)]) == 0 and len(list(folder(unscored).iterdir())) == 12
    job = Job(configure([*overrides, "limit=20"]))
    assert archive([Cell([*overrides, "limit=20"])]) == 0
    assert Run.open(job.run_path).records("archived") == []

"""Archived runs: small, whole for tables, and drawn anew when more is asked of them."""

import pytest

from bigain.errors import BiGainError
from bigain.experiments.archive import archive
from bigain.experiments.configuration import settings_of
from bigain.experiments.experiment_files import Entry
from bigain.experiments.job import Job
from bigain.experiments.runner import execute
from bigain.store.runs import Run
from bigain.tasks.generate import folder
from bigain.utils.images import read_sheet


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
    assert archive([Entry(overrides)]) == 1
    assert not list(folder(first).iterdir()) and len(list(first.path.glob("part-*"))) == 1
    capsys.readouterr()
    again = run(overrides)
    assert "nothing to compute" in capsys.readouterr().out
    assert again.rows().equals(rows)
    assert all(
        (a == b).all() for a, b in zip(read_sheet(again.path / "sheet.png"), sheet, strict=True)
    )
    assert not list(folder(again).iterdir())
    assert archive([Entry(overrides)]) == 1


def test_other_scores_need_the_images(overrides, run):
    first = run(overrides)
    archive([Entry(overrides)])
    with pytest.raises(BiGainError, match=r"archived its images.*remove its archived\.json"):
        run([*overrides, "evaluation.coverage_neighbours=4"])
    (first.path / "archived.json").unlink()
    assert len(list(folder(run([*overrides, "evaluation.coverage_neighbours=4"])).iterdir())) == 12


@pytest.mark.parametrize("shards", [1, 2])
def test_a_run_goes_on_from_its_archived_images(overrides, run, shards):
    first = run(overrides)
    rows = first.rows()
    archive([Entry(overrides)])
    more = [*overrides, "limit=16", "features=none", f"shards={shards}"]
    for shard in range(shards):
        run([*more, f"shard={shard}"])
    assert sorted(p.stem for p in folder(first).iterdir()) == [f"{i:06d}" for i in range(12, 16)]
    assert first.rows().head(12).equals(rows)
    # scores need all, and say how to have them drawn again
    with pytest.raises(BiGainError, match=r"remove its archived\.json"):
        run([*overrides, "limit=16"])
    (first.path / "archived.json").unlink()
    run([*overrides, "limit=16"])
    assert len(list(folder(first).iterdir())) == 16 and len(first.rows()) == 16


def test_what_is_not_finished_or_not_scored_stays(overrides, run, configure):
    assert archive([Entry(overrides)]) == 0
    unscored = run([*overrides, "features=none"])
    assert archive([Entry(overrides)]) == 0 and len(list(folder(unscored).iterdir())) == 12
    job = Job(settings_of(configure([*overrides, "limit=20"])))
    assert archive([Entry([*overrides, "limit=20"])]) == 0
    assert Run.open(job.run_path).records("archived") == []


def test_images_beyond_the_scored_ones_stay(overrides, run):
    first = run(overrides)
    run([*overrides, "limit=16", "features=none"])
    assert archive([Entry(overrides)]) == 1
    assert sorted(p.stem for p in folder(first).iterdir()) == [f"{i:06d}" for i in range(12, 16)]


def test_the_sheet_and_the_scores_are_of_the_first_images(overrides, run):
    """Whatever part of the run was asked for."""
    odd = run([*overrides, "shards=2", "shard=1"])
    assert not (odd.path / "sheet.png").exists()
    with pytest.raises(BiGainError, match=r"lacks 6 of its first 12 images, 000000\.png first"):
        run(["task=evaluate", f"task.path={odd.path}", "evaluation.allow_few=true", "limit=12"])
    whole = run(overrides)
    sheet = (whole.path / "sheet.png").read_bytes()
    for part in (["limit=2"], ["start=9", "limit=3"], ["start=20", "limit=2"]):
        run([*overrides, *part, "features=none"])
        assert (whole.path / "sheet.png").read_bytes() == sheet
    name = next(iter(whole.records("scores")))
    before = whole.read_record(name)
    # 20 and 21 are there, 12 to 19 are not: the first twelve count
    run(["task=evaluate", f"task.path={whole.path}", "evaluation.allow_few=true"])
    assert whole.records("scores") == [name] and whole.read_record(name) == before

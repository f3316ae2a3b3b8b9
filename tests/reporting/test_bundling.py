"""Bundled runs: small, whole for tables, and drawn anew when more is asked of them."""

import shutil

import numpy as np
import pytest

from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.experiment_files import Entry
from bigain.experiments.job import Job
from bigain.experiments.runner import execute
from bigain.reporting.bundling import Reads, bundle, drop_unused
from bigain.store.run_images import folder
from bigain.store.runs import Run


@pytest.fixture
def overrides(small_dit, tmp_path) -> list[str]:
    settings = ["task=generate", "task.steps=2", "limit=12", "evaluation.allow_few=true"]
    return [*settings, f"model.path={small_dit}", f"results={tmp_path}", "batch_size=4"]


@pytest.fixture
def run(configure):
    return lambda overrides: execute(configure(overrides))


def bundled(entries: list[Entry]) -> int:
    return bundle(entries, Reads())


def test_scored_images_go_and_all_else_stays(overrides, run, capsys):
    first = run(overrides)
    rows, sheet = first.rows(), first.sheet()
    assert len(list(first.path.glob("part-*"))) == 1  # compacted as it finished
    assert bundled([Entry(overrides)]) == 1
    assert not first.path.exists() and first.bundled
    capsys.readouterr()
    again = run(overrides)
    assert "nothing to compute" in capsys.readouterr().out
    assert again.rows().equals(rows)
    kept = again.sheet()  # as far as figures show it: the first of each class
    assert len(kept) == 10 and all((a == b).all() for a, b in zip(kept, sheet, strict=False))
    assert not folder(again).exists()
    assert bundled([Entry(overrides)]) == 1


def test_runs_that_no_experiment_asks_for_are_dropped(overrides, run):
    one, other = (run([*overrides, f"seed={seed}"]) for seed in (0, 1))
    entries = [Entry([*overrides, f"seed={seed}"]) for seed in (0, 1)]
    assert bundled(entries) == 2
    assert drop_unused(entries[:1]) == [other.path.name]
    assert one.rows() is not None and Run.find(other.path) is None
    with pytest.raises(BiGainError):
        drop_unused([Entry([*overrides, "model.path=/none"])])
    assert Run.find(one.path) is not None


def test_other_scores_need_the_images(overrides, run, tmp_path, capsys):
    first = run(overrides)
    real = str(shutil.copytree(folder(first), tmp_path / "real"))
    bundled([Entry(overrides)])
    run([*overrides, "evaluation.coverage_neighbours=4"])
    said = capsys.readouterr().out
    assert "archived its images, which density_coverage would need" in said and "FID" in said
    with pytest.raises(BiGainError, match=r"archived its images.*remove its archived\.json"):
        run([*overrides, "evaluation.allow_few=true", "evaluation.reference=" + real])
    (first.path / "archived.json").unlink()
    assert len(list(folder(run([*overrides, "evaluation.coverage_neighbours=4"])).iterdir())) == 12


@pytest.mark.parametrize("shards", [1, 2])
def test_a_run_goes_on_from_its_archived_images(overrides, run, shards):
    first = run(overrides)
    rows = first.rows()
    bundled([Entry(overrides)])
    more = [*overrides, "limit=16", "features=none", f"shards={shards}"]
    for shard in range(shards):
        run([*more, f"shard={shard}"])
    assert sorted(p.stem for p in folder(first).iterdir()) == [f"{i:06d}" for i in range(12, 16)]
    assert first.rows().head(12).equals(rows)
    # scores need all; before any is drawn, the error says how to have them drawn again
    with pytest.raises(BiGainError, match=r"remove its archived\.json"):
        run([*overrides, "limit=20"])
    assert len(first.rows()) == 16
    (first.path / "archived.json").unlink()
    run([*overrides, "limit=16"])
    assert len(list(folder(first).iterdir())) == 16 and len(first.rows()) == 16


def test_what_is_not_finished_or_not_scored_stays(overrides, run, configure):
    assert bundled([Entry(overrides)]) == 0
    unscored = run([*overrides, "features=none"])
    assert bundled([Entry(overrides)]) == 0 and len(list(folder(unscored).iterdir())) == 12
    job = Job(settings_of(configure([*overrides, "limit=20"])))
    assert bundled([Entry([*overrides, "limit=20"])]) == 0
    assert not Run.open(job.run_path).bundled and Run.open(job.run_path).records("archived") == []


def test_classification_keeps_what_is_read(small_dit, tmp_path, run):
    chosen = [f"model.path={small_dit}", f"results={tmp_path}", "task.samples=[1,2]"]
    chosen += ["task.keep=[2,1]", "limit=12"]
    first = run(chosen)
    before = first.rows()
    read = set(before["image_id"][:8])
    assert bundle([Entry(chosen)], Reads(trials={first.path.name: read})) == 1 and first.bundled
    after = first.rows()
    same = ["image_id", "labels", "prediction", "samples", "seconds"]
    assert before[same].equals(after[same]) and after["errors"].map(len).max() == 0
    assert after["trials"].map(len).tolist() == [20] * 8 + [0] * 4
    for ours, theirs in zip(before["trials"][:8], after["trials"][:8], strict=True):
        ours, theirs = ours.reshape(10, -1), theirs.reshape(10, -1)
        assert (ours[:, 0] == theirs[:, 0]).all() and np.isnan(theirs[:, 1:]).all()
    grown = run([*chosen, "limit=16"])
    assert not grown.bundled and len(grown.rows()) == 16
    assert bundle([Entry([*chosen, "limit=16"])], Reads()) == 1
    assert grown.bundled and grown.rows()["trials"].map(len).max() == 0


def test_images_beyond_the_scored_ones_stay(overrides, run):
    first = run(overrides)
    run([*overrides, "limit=16", "features=none"])
    assert bundled([Entry(overrides)]) == 0 and not first.bundled
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
    before = {name: whole.read_record(name) for name in whole.records("scores")}
    # 20 and 21 are there, 12 to 19 are not: the first twelve count
    run(["task=evaluate", f"task.path={whole.path}", "evaluation.allow_few=true"])
    assert {name: whole.read_record(name) for name in whole.records("scores")} == before

"""Experiment files: every one loads, its rows compose, and a bad one is refused."""

import pytest

from bigain import experiments
from bigain.errors import BiGainError

NAMES = sorted(p.stem for p in experiments.FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_composes(name):
    experiment = experiments.load(name)
    cells = [cell for row in experiment.rows for cell in row.cells.values()]
    assert len(cells) == len(experiment.rows) * len(experiment.tasks)
    assert len({cell.run_path for cell in cells}) == len(cells), "two rows are the same run"
    assert all(cell.image_ids() for cell in cells)
    assert all(cell.command.startswith("python run.py task=") for cell in cells)


def test_extra_overrides_reach_every_row():
    cells = [row.cells["classify"] for row in experiments.load("demo", extra=["limit=7"]).rows]
    assert {len(cell.image_ids()) for cell in cells} == {7}
    assert cells[0].run_path == experiments.load("demo").rows[0].cells["classify"].run_path


def test_an_unknown_experiment_names_those_there_are():
    with pytest.raises(BiGainError, match="demo"):
        experiments.load("absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "must have the keys"),
        (
            "{title: x, note: y, next: z, baseline: b, tasks: {classify: []}, rows: "
            "[{name: a, title: A, overrides: []}]}",
            "baseline one of them",
        ),
    ],
)
def test_a_bad_file_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    with pytest.raises(BiGainError, match=message):
        experiments.load("bad")

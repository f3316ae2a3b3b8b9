"""Experiment files: every one loads, its rows compose, and a bad one is refused."""

import pytest

from bigain import experiments
from bigain.errors import BiGainError

NAMES = sorted(p.stem for p in experiments.FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_composes(name):
    experiment = experiments.load(name)
    paths = {row.run_path for row in experiment.rows}
    assert len(paths) == len(experiment.rows), "two rows are the same run"
    assert all(row.image_ids() for row in experiment.rows)
    assert experiment.rows[0].command.startswith("python run.py ")


def test_extra_overrides_reach_every_row():
    (first, *rest) = experiments.load("demo", ["limit=7"]).rows
    assert len(first.image_ids()) == len(rest[-1].image_ids()) == 7
    assert first.run_path == experiments.load("demo").rows[0].run_path


def test_an_unknown_experiment_names_those_there_are():
    with pytest.raises(BiGainError, match="demo"):
        experiments.load("absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "must have the keys"),
        (
            "{title: x, note: y, next: z, baseline: b, overrides: [], rows: "
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

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from bigain.errors import BiGainError
from bigain.results import figures
from bigain.results.build import build
from bigain.results.store import Run
from bigain.results.tables import accuracy_row

IDS = [f"{i:03d}" for i in range(20)]


@dataclass(frozen=True)
class Row:
    name: str
    run_path: Path

    title = property(lambda self: f"{self.name} method")
    command = property(lambda self: f"python run.py compressor={self.name}")

    def image_ids(self):
        return IDS


@dataclass(frozen=True)
class Experiment:
    rows: list
    baseline: str = "none"
    name: str = "toy"
    title: str = "Toy"
    note: str = ""


def make(root, name, right, ids=IDS):
    run = Run.create(root, name, {"compressor": name}, {})
    rows = [
        {
            "image_id": i,
            "label": 1,
            "prediction": 1 if int(i) < right else 0,
            "samples": [4, 6],
            "seconds": 0.5,
        }
        for i in ids
    ]
    run.append(rows)
    return run


def read(out):
    with open(out / "toy.csv") as file:
        return {line["method"]: line for line in csv.DictReader(file)}


def test_rows_come_from_their_runs(tmp_path, capsys):
    none, tome = make(tmp_path, "none", 15), make(tmp_path, "tome", 12)
    tome.record(
        "cost", {"gflops": 2.0, "gflops_matching": 0.5, "peak_memory_mib": None, "device": "x"}
    )
    sito = make(tmp_path, "sito", 11, IDS[:-3])
    experiment = Experiment(
        [
            Row("tome", tome.path),  # the baseline need not come first
            Row("none", none.path),
            Row("sito", sito.path),
            Row("lgtm", tmp_path / "not-run"),
        ]
    )
    out = tmp_path / "out"
    text = build(experiment, out)
    assert text == (out / "toy.md").read_text()
    lines = read(out)
    assert (lines["tome method"]["acc1"], lines["tome method"]["losses"]) == ("60.0", "3")
    assert (lines["tome method"]["gflops"], lines["tome method"]["peak_memory_mib"]) == ("2.0", "")
    assert lines["tome method"]["fingerprint"] == tome.fingerprint
    assert (lines["none method"]["acc1"], lines["none method"]["p"]) == ("75.0", "")
    for name in ("sito", "lgtm"):
        assert {key for key, value in lines[f"{name} method"].items() if value} == {"method"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "lacks 3 of 20 images: 017, 018, 019;" in said[0]
    assert said[0].endswith("python run.py compressor=sito")
    assert Image.open(out / "toy.png").size == (1200, 660)


def test_without_its_baseline_a_row_has_no_difference(tmp_path):
    tome = make(tmp_path, "tome", 12)
    build(Experiment([Row("none", tmp_path / "not-run"), Row("tome", tome.path)]), tmp_path / "out")
    line = read(tmp_path / "out")["tome method"]
    assert (line["acc1"], line["difference"], line["p"]) == ("60.0", "", "")


def test_nothing_run_is_a_table_of_dashes_and_no_figure(tmp_path, capsys):
    build(Experiment([Row("none", tmp_path / "not-run")]), tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".md", ".tex"]
    assert "no figure" in capsys.readouterr().err


def test_a_damaged_run_is_an_error_and_no_dash(tmp_path):
    run = make(tmp_path, "none", 15)
    next(run.path.glob("part-*")).write_bytes(b"")
    with pytest.raises(BiGainError, match="cannot be read"):
        build(Experiment([Row("none", run.path)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_baseline_that_is_no_row_is_refused(tmp_path):
    with pytest.raises(BiGainError, match="baseline dit, which is none of its rows"):
        build(Experiment([Row("none", tmp_path)], baseline="dit"), tmp_path)


def test_a_figure_needs_an_accuracy(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.tradeoff([accuracy_row("x")], tmp_path / "x.png", "t", "x")

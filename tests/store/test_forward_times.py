"""The times of forwards belong to the runs of the same compression, and tables print them."""

import json

import pytest

from bigain.errors import BiGainError
from bigain.experiments.scoring_settings import metric_kinds
from bigain.reporting import build, figures, tables
from bigain.store.forward_times import conditions_of, key, time_of
from bigain.store.runs import Run
from bigain.tasks import Classify
from bigain.tasks.classify_columns import accuracy_columns
from bigain.tasks.generate_columns import generation_columns, generation_row

LGTM = {"compressor": {"class": "LGTM", "ratio": 0.5}, "blocks": [0], "sites": ["mlp"]}

METRICS = metric_kinds()


def measured(folder, kind, model="toy", seconds=(0.8, 0.9, 1.0)):
    (folder / kind).mkdir(parents=True)
    base = key(model, None)
    measurement = {
        "model": model,
        "dtype": "bfloat16",
        "batch_size": 64,
        "baseline": base,
        "seconds": {key(model, LGTM): seconds, base: [1, 1, 1]},
    }
    content = {"conditions": {"device": f"a {kind}"}, "measurements": [measurement]}
    (folder / kind / "tables.json").write_text(json.dumps(content))
    return folder


def run_of(tmp_path, compression, model="toy", dtype="bfloat16", **task):
    identity = {"task": task, "compression": compression, "dtype": dtype}
    return Run.create(tmp_path, "r", identity, {"model": {"name": model}})


def test_a_run_s_time_is_its_compression_s(tmp_path):
    folder = measured(tmp_path / "b", "cpu")
    assert time_of(run_of(tmp_path, dict(reversed(LGTM.items()))), folder) == pytest.approx(
        (0.9, 0.85, 0.95)
    )
    assert time_of(run_of(tmp_path, {**LGTM, "blocks": [1]}), folder) is None
    assert conditions_of(folder) == "a cpu, in bfloat16 and batches of 64"


def test_another_model_s_or_dtype_s_time_is_another(tmp_path):
    folder = measured(tmp_path / "b", "cpu")
    assert time_of(run_of(tmp_path, LGTM, "other"), folder) is None
    assert time_of(run_of(tmp_path, LGTM, dtype="float32"), folder) is None


def test_forwards_of_two_kinds_have_no_one_time(tmp_path):
    folder = measured(tmp_path / "b", "cpu")
    assert time_of(run_of(tmp_path, LGTM, decide_with="uncompressed"), folder) is None


def test_a_gpu_s_times_come_before_a_cpu_s(tmp_path):
    folder = measured(tmp_path / "b", "cpu")
    measured(folder, "cuda", seconds=(0.5, 0.5, 0.5))
    assert time_of(run_of(tmp_path, LGTM), folder) == (0.5, 0.5, 0.5)
    assert conditions_of(folder).startswith("a cuda, in bfloat16")


def test_nothing_measured(tmp_path):
    assert time_of(run_of(tmp_path, LGTM), tmp_path / "none") is None
    assert conditions_of(tmp_path / "none") is None


def test_a_damaged_file_is_named(tmp_path):
    folder = measured(tmp_path / "b", "cpu")
    (folder / "cpu" / "tables.json").write_text("{")
    with pytest.raises(BiGainError, match=r"tables.json is damaged .* suites=\[tables\]"):
        time_of(run_of(tmp_path, LGTM), folder)


def test_the_table_prints_times_and_where_they_come_from(tmp_path):
    times = [dict(zip(tables.TIMES, time, strict=True)) for time in ((0.9, 0.8, 1.0), (1, 1, 1))]
    rows = [{**generation_row("a", METRICS), **time} for time in times]
    section = tables.Section(
        "", [*rows, generation_row("b", METRICS)], [generation_columns(rows, METRICS, spent=False)]
    )
    text = tables.write([section], tmp_path / "t", "T", "", "two cores")
    assert "0.90 [0.80, 1.00]" in text and "timed in turn on two cores" in text
    assert "Seconds" not in text
    assert (tmp_path / "t.csv").read_text().splitlines()[1].endswith("0.9,0.8,1.0")


def test_the_baseline_s_time_alone_is_no_column():
    row = {**generation_row("a", METRICS), **dict.fromkeys(tables.TIMES, 1.0)}
    assert not tables.Section("", [row, generation_row("b", METRICS)], []).timed


def test_a_table_without_times_has_no_column_of_them(tmp_path):
    row = generation_row("a", METRICS)
    text = tables.write(
        [tables.Section("", [row], [generation_columns([row], METRICS)])], tmp_path / "t", "T", ""
    )
    assert "Time" not in text and "Seconds (generation)" in text


def test_what_runs_took_is_printed_unless_told_otherwise():
    headers = [
        {column.header for column in accuracy_columns([{"map": None}], spent=spent).printed}
        for spent in (True, False)
    ]
    assert headers[0] - headers[1] == {"Seconds", "Peak MiB"}


def test_figures_are_against_the_time_of_a_forward():
    assert [panel.x for panel in figures.panels_of(Classify.panels, timed=True)] == [
        "gflops",
        "time",
    ]
    assert [panel.x for panel in figures.panels_of(Classify.panels)] == ["gflops", "seconds"]


def test_rows_carry_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BENCHMARKS", measured(tmp_path / "b", "cpu"))
    found = {"none": {}, "x": {"classify": build.Found(run=run_of(tmp_path, LGTM))}}
    row = type("Row", (), {"name": "x", "title": "x", "published": {}})
    line = build._row(row, found, "x")
    assert [line[name] for name in tables.TIMES] == pytest.approx([0.9, 0.85, 0.95])

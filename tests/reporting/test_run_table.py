"""Sweeps end with a table of their runs, and any runs can be compared without a file."""

import subprocess
import sys

import pytest

from bigain.errors import BiGainError
from bigain.experiments import last_sweep
from bigain.experiments.runner import report
from bigain.reporting.__main__ import main
from bigain.reporting.run_table import run_table, titles
from bigain.utils.paths import REPOSITORY


@pytest.fixture
def overrides(small_dit, tmp_path) -> list[str]:
    return [
        f"model.path={small_dit}",
        "blocks=all",
        f"results={tmp_path}/results",
        "task.samples=[1,2]",
        "task.keep=[2,1]",
        "limit=6",
    ]


def rows(text: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[field.strip() for field in line] for line in lines]


def test_a_sweep_names_what_it_sweeps_and_ends_with_a_table(overrides, monkeypatch):
    chosen = ["compressor=lgtm", "compressor.ratio=0.3,0.7"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "run.py"), "-m", *chosen, *overrides],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for ratio in ("0.3", "0.7"):
        assert f"\nlgtm compressor.ratio={ratio} " in f"\n{done.stdout}"
    assert [row[0] for row in rows(done.stdout)[2:]] == [
        "lgtm compressor.ratio=0.3",
        "lgtm compressor.ratio=0.7",
    ]
    monkeypatch.setattr(sys, "argv", ["bigain.reporting", "table", "--last"])
    assert main() == 0


def test_runs_are_compared_with_the_uncompressed_run_on_the_images_of_all(overrides, run):
    plain = run([*overrides, "limit=5"]).path
    paths = [run([*overrides, "compressor=tome", f"seed={seed}"]).path for seed in (0, 1)]
    header, _, *lines = rows(run_table([plain, *paths]))
    assert [line[0] for line in lines] == ["none seed=0", "tome seed=0", "tome seed=1"]
    assert [line[header.index("Images")] for line in lines] == ["5"] * 3
    given = [line[header.index("Wins/losses")] for line in lines]
    assert given[0] == given[2] == "–" and "/" in given[1], "another seed has no baseline here"
    (line,) = rows(run_table([paths[0]]))[2:]
    assert line[0] == "tome" and line[header.index("Wins/losses")] == given[1], "it is found beside"


def test_a_cascade_is_compared_with_the_plain_stages(overrides, run, job):
    chosen = [*overrides, "compressor=tome", "task.decide_with=uncompressed"]
    found = run(chosen)
    said = report(job(chosen), found)
    assert said.splitlines()[-2].endswith("compressor=none and without task.decide_with")
    run(overrides)
    assert "against uncompressed: " in report(job(chosen), found)
    header, _, line = rows(run_table([found.path]))
    assert "/" in line[header.index("Wins/losses")]


def test_generated_runs_show_their_scores(overrides, run):
    chosen = [o for o in overrides if not o.startswith("task.")]
    chosen += ["task=generate", "task.steps=2", "limit=12", "evaluation.allow_few=true"]
    chosen += ["evaluation.replicates=3", "evaluation.kid_subsets=2"]
    chosen += ["evaluation.kid_subset_size=10"]
    paths = [run([*chosen, f"compressor={name}"]).path for name in ("none", "todo")]
    header, _, *lines = rows(run_table(paths))
    fid = next(i for i, name in enumerate(header) if name.startswith("FID"))
    assert [line[0] for line in lines] == ["none", "todo"]
    assert all("[" in line[fid] for line in lines)


def test_runs_that_cannot_be_compared_are_refused(overrides, run, tmp_path):
    with pytest.raises(BiGainError, match="no run at"):
        run_table([tmp_path])
    one = run([*overrides, "limit=2"]).path
    other = run([*overrides, "start=2", "limit=2", "compressor=tome"]).path
    with pytest.raises(BiGainError, match="no image in common"):
        run_table([one, other])
    traced = run([*overrides[:3], "task=trace", "compressor=tome", "limit=2"]).path
    with pytest.raises(BiGainError, match="runs of task=trace have no table"):
        run_table([traced])


def test_without_a_sweep_the_last_one_is_asked_for(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(last_sweep, "FILE", tmp_path / "last_sweep.json")
    monkeypatch.setattr(sys, "argv", ["bigain.reporting", "table", "--last"])
    assert main() == 1 and "there was no sweep yet" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["bigain.reporting", "table", "--last", "demo"])
    assert main() == 1


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_record_of_the_last_sweep_is_named(text, monkeypatch, tmp_path):
    monkeypatch.setattr(last_sweep, "FILE", tmp_path / "last_sweep.json")
    last_sweep.FILE.write_text(text)
    with pytest.raises(BiGainError, match="damaged; delete it"):
        last_sweep.recalled()


def test_a_title_names_what_differs():
    def config(name, seed=0, **compressor):
        return {"compressor": {"name": name, "_target_": name, **compressor}, "seed": seed}

    assert titles([config("lgtm", ratio=0.3), config("tome", ratio=0.5)]) == ["lgtm", "tome"]
    assert titles([config("lgtm", ratio=0.3), config("lgtm", 1, ratio=0.5)]) == [
        "lgtm compressor.ratio=0.3 seed=0",
        "lgtm compressor.ratio=0.5 seed=1",
    ]

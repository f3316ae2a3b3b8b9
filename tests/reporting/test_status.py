"""How far experiments are: every state an entry can be in, and the command that mends it."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bigain.errors import BiGainError
from bigain.experiments import experiment_files
from bigain.reporting.status import State, look, status, status_of, summary
from bigain.store import locks
from bigain.store.runs import Run
from bigain.store.shards import Shard


@dataclass
class Entry:
    """A stand-in for experiment_files.Entry: three images of a run that may be there."""

    path: Path
    overrides: list[str]
    record: str | None = None
    error: str | None = None
    looked: int = 0

    @property
    def run_path(self) -> Path:
        self.looked += 1
        if self.error:
            raise BiGainError(self.error)
        return self.path

    def scores(self, run):
        return run.read_record(self.record) if self.record else None

    def scored(self, run):
        return self.record is None or self.scores(run) is not None

    def image_ids(self) -> list[str]:
        return ["0", "1", "2"]


@dataclass
class Row:
    title: str
    entries: dict[str, Entry]


@dataclass
class Group:
    title: str
    rows: list[Row]


@dataclass
class Experiment:
    groups: list[Group]
    name: str = "table4"
    title: str = "Merging"
    scale: str | None = "mini"
    overrides: list[str] = field(default_factory=list)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path, "classify", {"seed": 0}, {})


@pytest.fixture
def entry(run) -> Entry:
    return Entry(run.path, ["compressor=lgtm"])


def rows(*images: int) -> list[dict]:
    return [{"image_id": str(image), "label": 0} for image in images]


def test_an_entry_without_a_run_is_missing(tmp_path):
    state = look(Entry(tmp_path / "none", []))
    assert (state.word, state.line) == ("missing", "missing, 0 of 3 images")


def test_images_are_counted_only_if_they_are_wanted(run, entry):
    run.append(rows(0, 7))
    assert look(entry).line == "started, 1 of 3 images"
    run.append(rows(1, 2))
    assert look(entry).line == "done, 3 of 3 images"


def test_images_not_scored_are_not_done(run, entry):
    run.append(rows(0, 1, 2))
    entry.record = "scores-inception"
    assert look(entry).line == "started, 3 of 3 images; not scored"
    run.record("scores-inception", {})
    assert look(entry).word == "done"


def test_shards_at_work_are_named(run, entry):
    with run.lock(Shard(2, 1)):
        assert look(entry).line == "running, 0 of 3 images; shard 1 of 2 at work"
    assert look(entry).word == "missing"


def test_a_failure_is_told_with_its_shard(run, entry):
    run.append(rows(0))
    run.record("failed-1-of-2", {"error": "no GPU", "shard": "shard 1 of 2"})
    run.record("failed", {"error": "no disk", "shard": None})
    state = look(entry)
    assert state.word == "failed"
    assert "; shard 1 of 2 failed: no GPU" in state.line
    assert "; the whole run failed: no disk" in state.line


def test_an_entry_that_cannot_be_built_or_read_says_why(run, entry, tmp_path):
    assert look(Entry(tmp_path, [], error="no data; get it")).line == "cannot run: no data; get it"
    (run.path / "part-x.parquet").write_bytes(b"")
    assert look(entry).line.startswith("cannot run: ") and "part-x" in look(entry).line


def test_the_lines_of_an_experiment(run, tmp_path):
    run.append(rows(0, 1, 2))
    done, shared = Entry(run.path, ["a"]), Entry(tmp_path / "none", ["b"])
    broken = Entry(tmp_path, ["c"], error="no data")
    group = Group(
        "DiT",
        [
            Row("Uncompressed", {"classify": done, "generate": shared}),
            Row("L-GTM", {"classify": broken, "generate": Entry(tmp_path / "none", ["d"])}),
        ],
    )
    known: dict[tuple[str, ...], State] = {}
    lines = list(status(Experiment([group]), ["limit=3"], known))
    assert lines == [
        "table4 (mini)",
        "  Merging",
        "  DiT",
        "    done, 3 of 3 images: Uncompressed (classify)",
        "    missing, 0 of 3 images: Uncompressed (generate), L-GTM (generate)",
        "    cannot run: no data: L-GTM (classify)",
        "  4 entries: 1 done, 2 missing, 1 cannot run",
        "  next: python run.py -m experiment=table4 scale=mini limit=3",
    ]
    list(status(Experiment([group]), [], known))
    assert shared.looked == 1, "what experiments share is looked at once"


def test_a_line_per_experiment_ends_with_a_command(run, tmp_path):
    run.append(rows(0, 1, 2))
    entries = {
        "done": Entry(run.path, ["a"]),
        "missing": Entry(tmp_path / "none", ["b"]),
        "broken": Entry(tmp_path, ["c"], error="no data"),
    }

    def line(*names: str, overrides=(), scale="mini") -> str:
        group = Group("DiT", [Row(name, {"classify": entries[name]}) for name in names])
        return summary(Experiment([group], scale=scale), overrides, {}, None)

    assert line("done") == "table4 (mini): 1 entry: 1 done"
    assert line("done", "missing", "broken", overrides=["task.path=a b"]) == (
        "table4 (mini): 3 entries: 1 done, 1 missing, 1 cannot run; "
        "next: python run.py -m experiment=table4 scale=mini 'task.path=a b'"
    )
    assert line("done", "broken", scale=None) == (
        "table4: 2 entries: 1 done, 1 cannot run; why: python -m bigain.reporting status table4"
    )


def test_a_finished_run_on_a_read_only_folder_is_done(run, entry, monkeypatch):
    run.append(rows(0, 1, 2))
    with run.lock(Shard()):
        pass

    def refused(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(locks.FileLock, "acquire", refused)
    assert look(entry).line == "done, 3 of 3 images"


def test_nothing_is_next_where_all_is_done(run):
    run.append(rows(0, 1, 2))
    group = Group("", [Row("Uncompressed", {"classify": Entry(run.path, [])})])
    lines = list(status(Experiment([group], scale=None), [], {}))
    assert lines[-1] == "  1 entry: 1 done" and lines[0] == "table4"


def test_one_bad_experiment_does_not_hide_the_others(tmp_path, monkeypatch):
    text = (experiment_files.FOLDER / "demo.yaml").read_text()
    (tmp_path / "b.yaml").write_text(text)
    (tmp_path / "a.yaml").write_text("title: x\n")
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    monkeypatch.setattr(experiment_files, "names", lambda scale=None: [] if scale else ["a", "b"])
    lines = list(status_of([f"results={tmp_path}", "limit=2"], details=True))
    assert "a.yaml must have the keys" in lines[0]
    assert lines[1] == "b" and "missing, 0 of 2 images: Uncompressed" in lines[3]
    assert lines[-1] == f"  next: python run.py -m experiment=b results={tmp_path} limit=2"
    with pytest.raises(BiGainError, match="must have the keys"):
        list(status_of(["a"]))


def test_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "bigain.reporting", "status", "absent"],
        cwd=experiment_files.FOLDER.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no experiment absent")

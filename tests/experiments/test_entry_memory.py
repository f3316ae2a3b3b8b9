"""What is remembered of entries is what would be found anew."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bigain.datasets import FashionMNIST
from bigain.errors import BiGainError
from bigain.experiments import entry_memory
from bigain.experiments.entry_memory import EntryLike, EntryMemory
from bigain.experiments.experiment_files import Entry
from bigain.utils.paths import REPOSITORY

LONG_AGO = 1_000_000_000


def settle(folder: Path) -> None:
    """Let all files look old, so that they may be remembered."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def model(small_dit, tmp_path) -> Path:
    shutil.copytree(small_dit, tmp_path / "model")
    settle(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def entry(model, tmp_path) -> Entry:
    return Entry([f"model.path={model}", "blocks=all", f"results={tmp_path}", "limit=3"])


@pytest.fixture
def found(tmp_path, monkeypatch):
    """What a new process is told of an entry, and whether it had to be built."""
    monkeypatch.setenv("BIGAIN_CACHE", str(tmp_path / "cache"))

    def found(entry: Entry) -> tuple[EntryLike, bool]:
        fresh = Entry(entry.overrides)
        with EntryMemory(tmp_path / "memory.json").kept() as memory:
            told = memory.of(fresh)
        return told, "job" in vars(fresh)

    return found


def test_what_is_remembered_is_not_built(entry, found):
    first, built = found(entry)
    assert built and first.run_path == entry.run_path and first.image_ids() == entry.image_ids()
    assert found(entry) == (first, False)
    assert found(Entry([*entry.overrides, "seed=1"]))[1]


def test_scores_are_asked_for_as_by_the_entry_itself(entry, found, run):
    generated = [
        *entry.overrides[:3],
        "task=generate",
        "task.steps=2",
        "limit=12",
        "evaluation.allow_few=true",
        "evaluation.replicates=3",
        "evaluation.kid_subsets=2",
        "evaluation.kid_subset_size=10",
    ]
    made = run([*generated, "features=none"])
    scored = Entry(generated)
    found(scored)
    told, built = found(scored)
    assert not built and not told.scored(made) and not scored.scored(made)
    run(generated)
    assert told.scored(made) and Entry(generated).scored(made)


def test_other_weights_are_seen(entry, found, model, save_dit):
    before, _ = found(entry)
    save_dit(model, num_layers=1)
    settle(model)
    after, built = found(entry)
    assert built and after.run_path != before.run_path
    assert after.run_path == Entry(entry.overrides).run_path


def test_an_obstacle_that_is_gone_is_seen(entry, found, model):
    shutil.move(model, model.with_name("away"))
    for _ in range(2):
        told, _ = found(entry)
        with pytest.raises(BiGainError, match="not found"):
            _ = told.run_path
    shutil.move(model.with_name("away"), model)
    assert found(entry)[0].run_path == entry.run_path


@pytest.mark.parametrize("change", ["sources", "environment", "folder"])
def test_other_surroundings_are_seen(entry, found, monkeypatch, tmp_path, change):
    found(entry)
    if change == "sources":
        (tmp_path / "bigain").mkdir()
        monkeypatch.setattr(entry_memory, "REPOSITORY", tmp_path)
    elif change == "environment":
        monkeypatch.setenv("HF_HOME", "/elsewhere")
    else:
        monkeypatch.chdir(tmp_path)
    assert found(entry)[1]


def test_entries_on_photographs_are_not_remembered(entry, found, monkeypatch):
    monkeypatch.setattr("bigain.datasets.ImageFiles", FashionMNIST)
    assert [found(entry)[1] for _ in range(2)] == [True, True]


def test_without_a_cache_nothing_is_remembered(entry, found, monkeypatch):
    monkeypatch.setenv("BIGAIN_CACHE", "off")
    assert [found(entry)[1] for _ in range(2)] == [True, True]


def test_what_was_written_a_moment_ago_is_not_remembered(entry, found, model):
    os.utime(model / "transformer" / "config.json")
    assert [found(entry)[1] for _ in range(2)] == [True, True]


def test_a_status_that_remembers_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGAIN_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys\nfrom pathlib import Path\nfrom bigain.experiments import entry_memory\n"
        f"entry_memory.FILE = Path({str(tmp_path / 'memory.json')!r})\n"
        "from bigain.reporting.status import status_of\n"
        f"print(list(status_of(['demo', 'results={tmp_path}'])))\n"
        "print(sorted({'torch', 'diffusers', 'scipy', 'transformers'} & set(sys.modules)))\n"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for _ in range(2)
    )
    assert first[0] == second[0] and "7 missing" in first[0]
    assert "torch" in first[1] and second[1] == "[]"

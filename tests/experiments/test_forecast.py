"""What a sweep says beforehand: what is left, how long it takes here, and what it fetches."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bigain.backbones.checkpoint import Checkpoint
from bigain.experiments import forecast
from bigain.experiments.entry_memory import EntryMemory
from bigain.experiments.experiment_files import Entry
from bigain.experiments.forecast import Forecast, Share, headline, looks, outlook, paces
from bigain.experiments.plugins import register_plugins
from bigain.profiling import pace as pace_module
from bigain.profiling.pace import Pace, measure_pace, remembered
from bigain.reporting.status import status_of
from bigain.tasks import Classify, Generate, Trace
from bigain.utils import hub
from tests import tiny_data

register_plugins()  # before the sweeper is imported, as in run.py
sweeper = importlib.import_module("bigain.experiments.sweeper")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A user's cache that is empty."""
    monkeypatch.setenv("BIGAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bigain.experiments.entry_memory.FILE", tmp_path / "entries.json")
    return tmp_path / "cache"


@pytest.fixture
def unmeasured(monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr(pace_module, "measure_pace", refuse)


def job(task: Any, classes: int, name: str = "sd2", fetched: bool = True, **setup: Any) -> Any:
    """What a forecast asks of a job."""
    about = {"names": {"model": name}, "dtype": torch.float16, "batch_size": 64, "device": "cpu"}
    backbone = SimpleNamespace(fetched=lambda: fetched)
    dataset = SimpleNamespace(classes=["a"] * classes)
    skeleton = torch.nn.Linear(1000, 1000, bias=False, device="meta")
    return SimpleNamespace(
        task=task,
        dataset=dataset,
        backbone=backbone,
        skeleton=skeleton,
        setup=SimpleNamespace(**about | setup),
    )


def pace(seconds: float, **about: Any) -> Pace:
    given = {"device": "a GPU", "batch_size": 64, "budget": 20.0, "measured": "2026-01-31"}
    return Pace(seconds, **given | about)


# --- arithmetic


@pytest.mark.parametrize(
    ("task", "classes", "evaluations"),
    [
        (Classify(), 37, 260),
        (Classify(), 1000, 5075),
        (Classify([4, 8], [2, 1]), 10, 48),
        (Generate(steps=50, guidance=7.5), 37, 100),
        (Generate(steps=10, guidance=1.0), 37, 10),
        (Trace(timesteps=[25, 525]), 37, 2),
    ],
)
def test_evaluations_are_those_of_the_task(task, classes, evaluations):
    assert Share(job(task, classes), runs=2, images=3).evaluations == 3 * evaluations


def test_hours_are_evaluations_times_pace():
    shares = [Share(job(Classify(), 37), 8, 8 * 3669), Share(job(Generate(), 37), 1, 3669)]
    found = Forecast(runs=10, done=1, shares=shares)
    said = list(outlook(found, [pace(0.004), pace(0.004)]))
    total = 8 * 3669 * 260 + 3669 * 100
    assert said[0] == f"  to compute: {9 * 3669:,} images, {total:,} evaluations"
    assert said[1].startswith(f"  to wait: about {total * 0.004 / 3600:.3g} hours on one such")
    assert "this estimate" in said[1] and "compressed evaluation like an uncompressed" in said[1]
    assert said[2] == (
        "    sd2 takes 4 ms per evaluation in float16, in batches of 64 on a GPU, "
        "measured 2026-01-31"
    )
    assert said[3:] == ["  to download: no weights of models"]
    assert list(headline("table1", found)) == ["table1: 10 runs, of which 1 done, 9 to do"]


def test_what_is_unknown_is_said_and_not_counted():
    shares = [Share(job(Classify(), 37), 1, 10), Share(job(Classify(), 37, "dit"), 1, 10)]
    said = list(outlook(Forecast(2, shares=shares), [pace(0.1), "dit was not measured here"]))
    assert said[1].startswith("  to wait: about 4.33 minutes")
    assert said[3] == "  to wait further: unknown, as dit was not measured here"


def test_absent_weights_are_at_least_the_denoiser():
    shares = [Share(job(Classify(), 37, fetched=False), 1, 10)] * 2
    (*_, last) = outlook(Forecast(2, shares=shares), ["no"] * 2)
    assert last == (
        "  to download: at least 0.0 GB for sd2 (the denoiser in float32; the size of other parts "
        "is unknown)"
    )
    assert forecast._download([Share(job(Classify(), 1))]) == "no weights of models"


# --- entries


@pytest.fixture
def entries(small_dit, tmp_path) -> list[Entry]:
    common = [f"model.path={small_dit}", "blocks=all", f"results={tmp_path}/results", "limit=3"]
    common += ["task.samples=[1,2]", "task.keep=[2,1]"]
    return [Entry(["task=classify", *common, f"compressor={c}"]) for c in ("none", "lgtm")]


def test_entries_are_looked_at(entries, run):
    run(entries[0].overrides)
    run([*entries[1].overrides, "limit=1"])
    absent = Entry([*entries[0].overrides, "dataset=pets", f"dataset.root={Path('/absent')}"])
    found = forecast.forecast(looks([*entries, absent], EntryMemory()))
    assert (found.runs, found.done) == (3, 1)
    (share,) = found.shares
    assert (share.runs, share.images, share.evaluations) == (1, 2, 2 * 12)
    assert "prepare_pets.py" in found.problems[0]
    assert list(headline("x", found)) == [
        "x: 3 runs, of which 1 done, 1 to do, 1 cannot run",
        f"  cannot run: {found.problems[0]}",
    ]


def test_a_model_that_is_not_here_has_no_run_and_is_not_fetched(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was fetched")

    monkeypatch.setattr(hub, "snapshot", refuse)
    monkeypatch.setattr(hub, "local", lambda *_: None)
    root = tiny_data.pets(tmp_path / "pets")
    common = ["task=classify", "model=sd2", "dataset=pets", f"dataset.root={root}", "dtype=float16"]
    asked = [Entry([*common, f"compressor={c}"]) for c in ("none", "lgtm")]
    found = forecast.forecast(looks(asked, EntryMemory()))
    assert not found.problems
    (share,) = found.shares
    assert (share.runs, share.images, share.evaluations) == (2, 2 * 37, 2 * 37 * 260)
    (*_, last) = outlook(found, ["no measurement"])
    assert "at least 3.5 GB for sd2 (the denoiser in float32" in last


def test_whether_a_model_is_here(small_dit, tmp_path, monkeypatch):
    assert Checkpoint(str(small_dit), ("transformer",)).fetched
    cached = tmp_path / "cached"
    monkeypatch.setattr(hub, "local", lambda *_: cached)
    asked = Checkpoint("facebook/x", ("transformer", "scheduler"))
    assert not asked.fetched
    (cached / "scheduler").mkdir(parents=True)
    (cached / "transformer").mkdir()
    (cached / "transformer" / "config.json").write_text("{}")
    assert not asked.fetched  # as when only FLOPs were asked for
    (cached / "transformer" / "diffusion_pytorch_model.safetensors").touch()
    assert asked.fetched


def test_the_hub_s_cache_is_asked_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub.local("facebook/absent") is None
    assert hub.local("no id at all") is None


# --- before the first run


class Launcher:
    """Says when the first job starts."""

    def launch(self, jobs, index):
        print("the first job starts")
        return []


def launched(entries: list[Entry], name: str = "basic", scale: str = "mini") -> None:
    jobs = [["sweep=demo", f"scale={scale}", *e.overrides] for e in entries]
    shards = [[*job, "shards=2", f"shard={i}"] for job in jobs for i in (0, 1)]
    sweeper._Tally(Launcher(), name).launch(shards, 0)


def test_it_is_said_before_the_first_job(entries, cache, capsys):
    launched(entries)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "demo (mini): 2 runs, of which 0 done, 2 to do"
    assert rest[0] == "  to compute: 6 images, 72 evaluations"
    assert rest[1].startswith("  to wait: about ") and "dit_fashion takes" in rest[2]
    assert rest[-1] == "the first job starts"
    (kept,) = json.loads((cache / "paces.json").read_text()).values()
    assert f"measured {kept['measured']}" in rest[2]


def test_nothing_is_measured_when_everything_is_done(entries, run, capsys, unmeasured):
    for entry in entries:
        run(entry.overrides)
    capsys.readouterr()
    launched(entries, scale="paper")
    said = capsys.readouterr().out.splitlines()
    assert said == ["demo (paper): 2 runs, all done", "the first job starts"]


def test_other_devices_are_not_measured(entries, capsys, unmeasured):
    launched(entries, "submitit_slurm")
    said = capsys.readouterr().out
    assert "  to wait: unknown, as hydra/launcher=submitit_slurm runs on other devices\n" in said


def test_a_sweep_of_no_experiment_says_nothing(entries, capsys, unmeasured):
    sweeper._Tally(Launcher()).launch([entry.overrides for entry in entries], 0)
    assert capsys.readouterr().out == "the first job starts\n"


def test_status_says_it_without_measuring(tmp_path, monkeypatch, small_dit):
    given = ["demo", "limit=2", f"results={tmp_path}", f"model.path={small_dit}"]
    with monkeypatch.context() as patched:
        patched.setattr(pace_module, "measure_pace", None)
        said = list(status_of(given, ahead=True))
    assert "  to compute: 14 images, 672 evaluations" in said
    assert "  to wait: unknown, as dit_fashion was not measured here" in said
    assert said[-1].startswith("  next: ")
    entry = Entry([*given[1:], "task=classify"])
    about = entry.job.setup
    measure_pace(entry.job.skeleton, CPU, about.dtype, about.batch_size, 60)
    assert any("dit_fashion takes" in line for line in status_of(given, ahead=True))


# --- pace


def test_a_pace_is_measured_and_remembered(dit, cache):
    skeleton = dit.model
    assert remembered(skeleton, CPU, torch.float32, 4) is None
    drawn = torch.random.get_rng_state()
    found = measure_pace(skeleton, CPU, torch.float32, 4, budget=60)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert found is not None and 0 < found.seconds < 10 and found.batch_size == 4
    assert remembered(skeleton, CPU, torch.float32, 4) == found
    assert remembered(skeleton, CPU, torch.float32, 5) is None
    assert remembered(skeleton, CPU, torch.bfloat16, 4) is None
    (cache / "paces.json").write_text('{"half')
    assert remembered(skeleton, CPU, torch.float32, 4) is None
    assert measure_pace(skeleton, CPU, torch.float32, 4, budget=60) is not None


def test_nothing_is_remembered_where_the_user_wants_no_cache(dit, monkeypatch):
    monkeypatch.setenv("BIGAIN_CACHE", "off")
    assert measure_pace(dit.model, CPU, torch.float32, 4, budget=60) is not None
    assert remembered(dit.model, CPU, torch.float32, 4) is None


def test_measuring_ends_in_its_time(dit):
    """By a clock on which every look takes a second."""
    times = iter(range(10**6))
    assert measure_pace(dit.model, CPU, torch.float32, 64, 30, lambda: float(next(times))) is None
    assert next(times) < 40
    assert remembered(dit.model, CPU, torch.float32, 64) is None


def test_a_slow_device_is_measured_in_small_batches(dit):
    """By a clock that each look moves, so that a million evaluations would take far too long."""
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    found = measure_pace(dit.model, CPU, torch.float32, 10**6, 2.0, clock)
    assert found is not None and 1 <= found.batch_size < 100


def test_an_earlier_measurement_serves_unless_it_had_less_time(dit, monkeypatch):
    about: Any = job(Classify(), 37)
    about.skeleton, about.setup.dtype, about.setup.batch_size = dit.model, torch.float32, 4
    share = Share(about, 1, 1)
    calls = []

    def measured(*given: Any) -> Pace:
        calls.append(given)
        return pace(1.0)

    measure_pace(dit.model, CPU, torch.float32, 4, 30)
    monkeypatch.setattr(pace_module, "measure_pace", measured)
    assert paces([share], 20)[0] == paces([share], 0)[0] != pace(1.0)
    assert not calls
    assert paces([share], 60) == [pace(1.0)] and len(calls) == 1
    monkeypatch.setattr(pace_module, "measure_pace", lambda *_: None)
    about.setup.batch_size = 5
    assert paces([share], 60) == ["an evaluation of sd2 did not end within 60 seconds here"]
    about.setup.device = "cuda:99"
    assert "device=cuda:99 cannot be used" in str(paces([share], 60)[0])

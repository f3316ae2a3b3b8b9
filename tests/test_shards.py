"""Runs dealt out to shards: the same table, whoever computed it and whatever killed them."""

import multiprocessing
import random
import signal
import time

import pytest
import torch

from bigain import runner
from bigain.errors import BiGainError
from bigain.job import Job
from bigain.results.accuracy import accuracy_row
from bigain.results.store import LockedError, Run
from bigain.runner import execute
from bigain.shards import Shard

FORKSERVER = multiprocessing.get_context("forkserver")


@pytest.fixture
def overrides(small_dit, tmp_path) -> list[str]:
    return [
        f"model.path={small_dit}",
        "blocks=all",
        f"results={tmp_path}",
        "task.samples=[1,2]",
        "task.keep=[2,1]",
        "compressor=lgtm",
        "limit=12",
    ]


@pytest.fixture
def run(configure):
    return lambda *overrides: execute(configure(list(overrides)))


@pytest.fixture
def path(configure):
    return lambda *overrides: Job(configure(list(overrides))).run_path


def shard(index: int, count: int) -> list[str]:
    return [f"shards={count}", f"shard={index}"]


def row(run: Run) -> dict:
    """The run's row of a table, less what differs between two timings."""
    cost = run.read_record("cost")
    made = accuracy_row("lgtm", run.rows(), cost=cost, fingerprint=run.fingerprint)
    return {k: v for k, v in made.items() if k not in ("seconds", "peak_memory_mib")}


def assert_same(left: Run, right: Run) -> None:
    """Equal rows, predictions and errors to 1e-5."""
    a, b = left.rows(), right.rows()
    assert a["image_id"].tolist() == b["image_id"].tolist()
    assert a["prediction"].tolist() == b["prediction"].tolist()
    for one, other in zip(a["errors"], b["errors"], strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0, atol=1e-5)
    assert row(left) == row(right)


@pytest.mark.parametrize("start", [0, 1, 7])
def test_shards_are_a_partition_by_place(start):
    ids = [f"{i:03d}" for i in range(start, 23)]
    for count in (1, 2, 5, 40):
        shares = [Shard(count, i).of(ids, start) for i in range(count)]
        assert sorted(i for share in shares for i in share) == ids
        for index, share in enumerate(shares):
            assert all(int(i) % count == index for i in share)
    assert Shard(5, 1).of(ids) == ids[1::5]


def test_a_shard_that_is_none_is_refused():
    for index in (-1, 2):
        with pytest.raises(ValueError, match=r"one of 0\.\.1"):
            Shard(2, index)


@pytest.mark.parametrize("count", [2, 5])
def test_shards_give_the_table_of_the_whole(count, overrides, tmp_path, run, path, capsys):
    whole = run(*overrides, f"results={tmp_path}/whole")
    assert path(*overrides).name == whole.path.name
    order = list(range(count))
    random.Random(0).shuffle(order)
    for n, index in enumerate(order, 1):
        capsys.readouterr()
        sharded = run(*overrides, *shard(index, count))
        out = capsys.readouterr().out
        assert ("top-1" in out) == (n == count), "the last one reports, and no other"
        if n < count:
            done = len(sharded.rows())
            assert f"shard {index} of {count} is done; the run holds {done} of 12 images" in out
    assert_same(whole, sharded)
    about = [(r.path / "run.json").read_text() for r in (whole, sharded)]
    assert about[0] == about[1], "how a run was dealt out is not part of what ran"
    sessions = sharded.read_record("sessions")["sessions"]
    assert sum(s["images"] for s in sessions) == 12
    assert [s["shard"] for s in sessions] == [f"shard {i} of {count}" for i in order]


def test_generated_images_are_scored_once_all_are_there(small_dit, tmp_path, run):
    chosen = [
        f"model.path={small_dit}",
        f"results={tmp_path}",
        "task=generate",
        "task.steps=2",
        "features=none",
        "limit=5",
    ]
    first = run(*chosen, *shard(1, 2))
    assert len(list(first.path.glob("images/*.png"))) == 2
    assert not (first.path / "sheet.png").exists()
    run(*chosen, *shard(0, 2))
    assert len(list(first.path.glob("images/*.png"))) == 5
    assert (first.path / "sheet.png").exists()


def test_other_shard_counts_go_on_where_others_stopped(overrides, run):
    run(*overrides, *shard(0, 2))
    for index in range(5):
        sharded = run(*overrides, *shard(index, 5))
    assert len(sharded.rows()) == 12
    assert [s["images"] for s in sharded.read_record("sessions")["sessions"]] == [6, 1, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["shards=2"], "shards=2 needs one of shard=0..1, or -m"),
        (["shards=0"], "at least 1"),
        (["shards=2", "shard=2"], "one of 0..1 (shards=2), got 2"),
        (["shards=2", "shard=0", "task=evaluate"], "task=evaluate has no shards"),
    ],
)
def test_refusals(overrides, change, message, run):
    with pytest.raises(BiGainError) as caught:
        run(*overrides[:3], *change)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [Shard(), Shard(3, 1), Shard(2, 0)])
def test_what_overlaps_a_running_shard_is_refused(held, overrides, configure, run):
    job = Job(configure(overrides))
    with job.run().lock(held), pytest.raises(LockedError, match="another process"):
        run(*overrides, *shard(0, 2))
    assert job.run().records("failed") == [], "that another works on it is no failure"
    assert len(run(*overrides, *shard(0, 2)).rows()) == 6


def test_one_that_finishes_leaves_the_end_to_it(overrides, run, configure, capsys):
    run(*overrides, *shard(0, 2))
    with Job(configure(overrides)).run().lock_finish():
        run(*overrides, *shard(1, 2))
    out = capsys.readouterr().out
    assert "shard 1 of 2 is done; another one finishes" in out and "top-1" not in out


def test_a_failure_is_recorded_until_it_is_mended(overrides, run, monkeypatch):
    def broken(*_):
        raise RuntimeError("the GPU fell off")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_compute", broken)
        for index in (0, 1):
            with pytest.raises(RuntimeError):
                run(*overrides, *shard(index, 2))
    there = run(*overrides, *shard(0, 2))
    assert there.records("failed") == ["failed-1-of-2"]
    failure = there.read_record("failed-1-of-2")
    assert failure["error"] == "RuntimeError: the GPU fell off"
    assert failure["shard"] == "shard 1 of 2" and failure["time"].endswith("+00:00")
    assert failure["traceback"][-1] == failure["error"]
    run(*overrides)  # the whole succeeds where a shard had failed
    assert there.records("failed") == []


@pytest.mark.slow
def test_sigkill_of_two_workers_loses_nothing(
    overrides, tmp_path, configure, run, path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two workers of all threads wait for each other
    FORKSERVER.set_forkserver_preload(["bigain.runner"])  # starts imported, and quick
    chosen = [*overrides, "limit=160", "batch_size=4"]
    shards = [configure([*chosen, *shard(index, 2)]) for index in range(2)]
    folder = path(*chosen)
    draw = random.Random(0)
    kept = 0
    for _ in range(4):
        workers = [FORKSERVER.Process(target=execute, args=(cfg,)) for cfg in shards]
        for worker in workers:
            worker.start()
        parts = len(list(folder.glob("part-*"))) + draw.randint(0, 2)
        while len(list(folder.glob("part-*"))) < parts or not (folder / "run.json").exists():
            assert all(worker.is_alive() for worker in workers), "one ended before its kill"
            time.sleep(0.001)
        for worker in workers:
            time.sleep(draw.random() * 0.05)
            worker.kill()
        for worker in workers:
            worker.join()
            assert worker.exitcode == -signal.SIGKILL, "it ended before it could be killed"
        finished = len(Run.open(folder).finished())
        assert finished >= kept, "a finished image was lost"
        kept = finished
    assert 0 < kept < 160
    for cfg in shards:
        resumed = execute(cfg)
    assert_same(run(*chosen, f"results={tmp_path}/whole"), resumed)

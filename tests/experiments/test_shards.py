"""Runs dealt out to shards: the same table, whoever computed it and whatever killed them."""

import random

import pytest

from bigain.errors import BiGainError
from bigain.experiments import runner
from bigain.store.locks import LockedError
from bigain.store.shards import Shard
from tests.runs import assert_same_table


@pytest.fixture
def overrides(overrides) -> list[str]:
    return [*overrides, "compressor=lgtm"]


def shard(index: int, count: int) -> list[str]:
    return [f"shards={count}", f"shard={index}"]


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
def test_shards_give_the_table_of_the_whole(count, overrides, tmp_path, run, job, capsys):
    whole = run([*overrides, f"results={tmp_path}/whole"])
    assert job(overrides).run_path.name == whole.path.name
    order = list(range(count))
    random.Random(0).shuffle(order)
    for n, index in enumerate(order, 1):
        capsys.readouterr()
        sharded = run([*overrides, *shard(index, count)])
        out = capsys.readouterr().out
        assert ("top-1" in out) == (n == count), "the last one reports, and no other"
        if n < count:
            done = len(sharded.rows())
            assert f"shard {index} of {count} is done; the run holds {done} of 12 images" in out
    assert_same_table(whole, sharded)
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
    first = run([*chosen, *shard(1, 2)])
    assert len(list(first.path.glob("images/*.png"))) == 2
    assert not (first.path / "sheet.png").exists()
    run([*chosen, *shard(0, 2)])
    assert len(list(first.path.glob("images/*.png"))) == 5
    assert (first.path / "sheet.png").exists()


def test_other_shard_counts_go_on_where_others_stopped(overrides, run):
    run([*overrides, *shard(0, 2)])
    for index in range(5):
        sharded = run([*overrides, *shard(index, 5)])
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
        run([*overrides[:3], *change])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [Shard(), Shard(3, 1), Shard(2, 0)])
def test_what_overlaps_a_running_shard_is_refused(held, overrides, job, run):
    there = job(overrides).run()
    with there.lock(held), pytest.raises(LockedError, match="another process"):
        run([*overrides, *shard(0, 2)])
    assert there.records("failed") == [], "that another works on it is no failure"
    assert len(run([*overrides, *shard(0, 2)]).rows()) == 6


def test_one_that_finishes_leaves_the_end_to_it(overrides, run, job, capsys):
    run([*overrides, *shard(0, 2)])
    with job(overrides).run().lock_finish():
        run([*overrides, *shard(1, 2)])
    out = capsys.readouterr().out
    assert "shard 1 of 2 is done; another one finishes" in out and "top-1" not in out


def test_a_failure_is_recorded_until_it_is_mended(overrides, run, monkeypatch):
    def broken(*_):
        raise RuntimeError("the GPU fell off")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_compute", broken)
        for index in (0, 1):
            with pytest.raises(RuntimeError):
                run([*overrides, *shard(index, 2)])
    there = run([*overrides, *shard(0, 2)])
    assert there.records("failed") == ["failed-1-of-2"]
    failure = there.read_record("failed-1-of-2")
    assert failure["error"] == "RuntimeError: the GPU fell off"
    assert failure["shard"] == "shard 1 of 2" and failure["time"].endswith("+00:00")
    assert failure["traceback"][-1] == failure["error"]
    run(overrides)  # the whole succeeds where a shard had failed
    assert there.records("failed") == []

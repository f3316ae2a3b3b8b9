"""A run on disk: no row is lost or doubled, whatever ends a process, and damage is named."""

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigain.errors import BiGainError
from bigain.store import parts as parts_module
from bigain.store.identity import fingerprint
from bigain.store.locks import LockedError
from bigain.store.runs import MissingImagesError, Run
from bigain.store.shards import WHOLE, Shard

IDENTITY = {"task": "classify", "compressor": {"name": "lgtm", "ratio": 0.5}}
CONFIG = {**IDENTITY, "batch_size": 8}
FORK = multiprocessing.get_context("fork")  # a fresh interpreter would import torch


def row(image, **changes):
    image_id = image if isinstance(image, str) else f"{image:05d}"
    made = {"label": 3, "prediction": 4, "errors": [0.5, 0.25], "samples": [5, 7], "seconds": 0.5}
    return {"image_id": image_id, **made, **changes}


def temporaries(run):
    return list(run.path.glob(".*.tmp"))


def parts(run):
    return list(run.path.glob("part-*.parquet"))


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, "classify-lgtm", IDENTITY, CONFIG)


@contextlib.contextmanager
def other_process(work, *arguments):
    """Another process at ``work(ready, *arguments)``, past ``ready.set()``; killed on leaving."""
    ready = FORK.Event()
    process = FORK.Process(target=work, args=(ready, *arguments))
    process.start()
    try:
        assert ready.wait(10)
        yield process
    finally:
        process.kill()
        process.join()


def hold(ready, run, shard, sweep="", seconds=60):
    with run.lock(shard, sweep):
        ready.set()
        time.sleep(seconds)


def hang_in_append(ready, run):
    """Write a part and stop just before it takes its name."""

    def fsync(_):
        ready.set()
        time.sleep(60)

    os.fsync = fsync
    with run.lock(Shard(2, 0)):
        run.append([row("torn")])


def append_for_ever(ready, run):
    with run.lock():
        ready.set()
        for image in range(10**5):
            run.append([row(2 * image), row(2 * image + 1)])


# --- identity


def test_fingerprint_knows_values_and_not_the_order_of_keys():
    turned = {"compressor": {"ratio": 0.5, "name": "lgtm"}, "task": "classify"}
    assert fingerprint(IDENTITY) == fingerprint(turned)
    assert fingerprint(IDENTITY) != fingerprint({**IDENTITY, "task": "generate"})
    assert len(fingerprint(IDENTITY)) == 16


def test_fingerprint_is_the_same_for_ever():
    # finished runs are found by it: a change here orphans them all
    assert fingerprint({"b": [1, 2.5, None], "a": {"c": "é"}}) == "96226d34f44978a6"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1}, object()])
def test_fingerprint_refuses_what_is_not_plain_json(value):
    with pytest.raises(BiGainError, match="plain JSON"):
        fingerprint({"x": value})


def test_a_run_is_found_again(run, tmp_path):
    assert run.path == tmp_path / f"classify-lgtm-{fingerprint(IDENTITY)}"
    other_batch = {**CONFIG, "batch_size": 64}
    for again in (
        Run.create(tmp_path, "classify-lgtm", IDENTITY, other_batch),
        Run.open(run.path),
    ):
        assert (again.path, again.fingerprint) == (run.path, run.fingerprint)
        assert (again.identity, again.config) == (IDENTITY, CONFIG)


def test_a_tuple_in_the_identity_is_the_list_it_is_stored_as(tmp_path):
    identity = {"blocks": (1, 2)}
    Run.create(tmp_path, "x", identity, {})
    assert Run.create(tmp_path, "x", identity, {}).identity == {"blocks": [1, 2]}


def test_a_folder_of_another_identity_is_refused(run, tmp_path):
    other = {**IDENTITY, "task": "generate"}
    shutil.copytree(run.path, tmp_path / f"classify-lgtm-{fingerprint(other)}")
    with pytest.raises(BiGainError, match=r"another identity .*task"):
        Run.create(tmp_path, "classify-lgtm", other, CONFIG)


def test_a_damaged_run_file_is_refused_and_written_anew(run, tmp_path):
    run.append([row(1)])
    about = run.path / "run.json"
    for text in ("{", "[]", "{}", about.read_text().replace("0.5", "0.6")):
        about.write_text(text)
        with pytest.raises(BiGainError, match=r"run\.json is damaged.*rm "):
            Run.open(run.path)
    about.unlink()
    assert Run.create(tmp_path, "classify-lgtm", IDENTITY, CONFIG).finished() == {"00001"}


def test_no_run_is_an_error_that_says_where(tmp_path):
    with pytest.raises(BiGainError, match=r"no run at .*nowhere"):
        Run.open(tmp_path / "nowhere")


# --- rows


def test_rows_come_back_as_they_were_sorted_by_image(run):
    run.append([row(3, seconds=1 / 3), row(1, errors=[float("nan"), 0.1])])
    Run.open(run.path).append([row(2, samples=[9, 9])])
    frame = run.rows()
    assert list(frame.image_id) == ["00001", "00002", "00003"]
    assert frame.seconds[2] == 1 / 3
    np.testing.assert_array_equal(frame.errors[0], [float("nan"), 0.1])
    assert list(frame.samples[1]) == [9, 9]
    assert (frame.label.dtype, frame.seconds.dtype) == (np.int64, np.float64)
    assert run.finished() == {"00001", "00002", "00003"}
    assert len(parts(run)) == 2


def test_a_run_with_nothing_finished(run):
    run.append([])
    assert parts(run) == []
    assert run.finished() == set()
    assert list(run.rows().columns) == ["image_id"]


def test_require_keeps_the_order_asked_for(run):
    run.append([row(image) for image in range(5)])
    assert list(run.require(["00004", "00000", "00002"]).image_id) == ["00004", "00000", "00002"]
    with pytest.raises(ValueError, match="twice"):
        run.require(["00001", "00001"])


def test_a_gap_names_ten_images_and_how_many(run):
    run.append([row(image) for image in range(5)])
    with pytest.raises(MissingImagesError, match=r"lacks 15 of 18 images: 00005, .*00014, …") as e:
        run.require([f"{image:05d}" for image in range(2, 20)])
    assert e.value.missing == [f"{image:05d}" for image in range(5, 20)]
    assert "00015" not in str(e.value)


def test_a_duplicate_names_its_images_and_parts(run):
    run.append([row(1), row(2)])
    run.append([row(3)])
    run.append([row(2)])
    with pytest.raises(BiGainError, match="1 images more than once: 00002;") as e:
        run.rows()
    holders = {p.name for p in parts(run) if "00002" in pq.read_table(p)["image_id"].to_pylist()}
    assert len(holders) == 2
    assert {name for name in (p.name for p in parts(run)) if name in str(e.value)} == holders
    for ask in (run.finished, lambda: run.require(["00001"])):
        with pytest.raises(BiGainError, match="more than once"):
            ask()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": 1}], "image_id"),
        ([row(1), {"image_id": "2"}], "columns of the others"),
        ([row(1, image_id=1)], "str image_id"),
        ([row(1), row(1)], "repeats"),
        ([row(1, label=None), row(2)], "nulls"),
        ([row(1, errors=[0.5, None])], "nulls"),
        ([row(1, errors=[])], "errors is list"),
        ([row(1, seconds=np.float32(1))], "seconds is float"),
        ([row(1, errors="0.5, 0.25")], "not those of the run's other"),
    ],
)
def test_rows_of_another_form_are_refused(run, rows, message):
    run.append([row(0)])
    with pytest.raises(ValueError, match=message):
        Run.open(run.path).append(rows)
    assert run.finished() == {"00000"}


def test_a_foreign_part_is_refused_by_name(run, tmp_path):
    other = Run.create(tmp_path, "classify-tome", {**IDENTITY, "seed": 1}, CONFIG)
    other.append([row(7)])
    foreign = shutil.copy(parts(other)[0], run.path)
    with pytest.raises(BiGainError, match=f"{foreign} belongs to another run.*{other.fingerprint}"):
        run.rows()
    pq.write_table(pa.table({"image_id": ["x"]}), foreign)
    with pytest.raises(BiGainError, match="its fingerprint is none"):
        run.rows()


def test_a_part_with_other_columns_is_refused_by_name(run):
    run.append([row(1)])
    odd = run.path / "part-zz.parquet"
    table = pa.table({"image_id": ["x"]})
    pq.write_table(table.replace_schema_metadata({"bigain.fingerprint": run.fingerprint}), odd)
    for ask in (run.rows, run.finished):
        with pytest.raises(BiGainError, match=f"{odd} has the columns image_id: string,"):
            ask()


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_an_unreadable_part_is_refused_with_how_to_mend(run, damage):
    run.append([row(1)])
    run.append([row(2)])
    part = parts(run)[0]
    data = bytearray(part.read_bytes())
    if damage == "flipped":
        at = data.index(b"0000")  # in a page, which its checksum covers
        data[at] ^= 1
    part.write_bytes({"empty": b"", "cut": data[:-20], "flipped": data}[damage])
    with pytest.raises(BiGainError, match=f"rm {part}"):
        run.rows()
    part.unlink()
    assert len(run.finished()) == 1


# --- what ends a write


def test_a_torn_temporary_is_ignored_and_goes_at_the_next_lock(run):
    run.append([row(1)])
    torn = run.path / ".part-x.parquet.0.tmp"
    torn.write_bytes(parts(run)[0].read_bytes()[:50])
    assert run.finished() == {"00001"}
    with run.lock():
        assert not torn.exists()
    assert run.finished() == {"00001"}


def test_a_full_disk_leaves_no_part(run, monkeypatch):
    run.append([row(1)])

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(BiGainError, match=r"part-\w+\.parquet: No space left.*same command"):
            run.append([row(2)])
        with pytest.raises(BiGainError, match=r"cost\.json: No space left"):
            run.record("cost", {})
    assert (run.finished(), temporaries(run)) == ({"00001"}, [])
    assert run.read_record("cost") is None
    run.append([row(2)])
    assert run.finished() == {"00001", "00002"}


def test_a_write_that_stops_midway_leaves_no_part(run):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores its SIGXFSZ
    try:
        with pytest.raises(BiGainError, match="File too large"):
            run.append([row(i, errors=list(np.random.rand(10))) for i in range(1000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (parts(run), temporaries(run)) == ([], [])


def test_a_killed_writer_leaves_complete_parts_only(run):
    with other_process(append_for_ever, run):
        until = time.monotonic() + 10
        while len(parts(run)) < 20:
            assert time.monotonic() < until
            time.sleep(0.001)
    frame = run.rows()
    assert len(frame) == 2 * len(parts(run)) >= 40
    assert list(frame.image_id) == [f"{image:05d}" for image in range(len(frame))]
    with run.lock():  # the system freed the dead one's
        assert temporaries(run) == []


def test_a_lock_spares_a_live_writers_file_and_removes_a_dead_ones(run):
    with other_process(hang_in_append, run):
        with run.lock(Shard(2, 1)):
            assert len(temporaries(run)) == 1
        assert run.finished() == set()
    assert len(temporaries(run)) == 1
    with run.lock():
        assert temporaries(run) == []


# --- locks


@pytest.mark.parametrize(
    ("theirs", "ours", "free"),
    [
        (WHOLE, WHOLE, False),
        (Shard(2, 0), Shard(2, 0), False),
        (Shard(2, 0), Shard(2, 1), True),
        (Shard(2, 0), WHOLE, False),
        (WHOLE, Shard(2, 0), False),
        (Shard(2, 0), Shard(5, 1), False),
    ],
)
def test_a_second_process_is_refused_at_once(run, theirs, ours, free):
    refused = pytest.raises(LockedError, match="worked on by another process")
    with other_process(hold, run, theirs):
        start = time.monotonic()
        assert run.running() == [theirs]
        with contextlib.nullcontext() if free else refused, run.lock(ours):
            assert run.running() == [theirs, ours]
        assert time.monotonic() - start < 1
    assert run.running() == []
    with run.lock(ours):
        pass


def test_a_process_of_the_same_sweep_is_waited_for(run):
    with other_process(hold, run, Shard(2, 0), "a", 0.5):
        for sweep in ("", "b"):
            with pytest.raises(LockedError), run.lock(WHOLE, sweep):
                pass
        with run.lock(WHOLE, "a"):
            assert run.running() == [WHOLE]


def enter(ready, run, shard, go, entered):
    """Lock at a signal, as all the others do, and stay."""
    ready.set()
    go.wait()
    with contextlib.suppress(LockedError), run.lock(shard):
        entered.put(shard)
        time.sleep(60)


def test_of_shards_that_overlap_one_count_gets_in(run):
    go, entered = FORK.Event(), FORK.Queue()
    with contextlib.ExitStack() as others:
        for shard in (Shard(2, 0), Shard(2, 1), Shard(3, 0), Shard(3, 1), WHOLE):
            others.enter_context(other_process(enter, run, shard, go, entered))
        go.set()
        first = entered.get(timeout=10)
        time.sleep(0.2)
        held = run.running()
        assert first in held
        assert {shard.count for shard in held} == {first.count}


def test_the_finish_has_a_lock_of_its_own(run):
    with run.lock(Shard(2, 0)), run.lock_finish(), pytest.raises(LockedError), run.lock_finish():
        pass


def test_a_lock_is_freed_by_an_exception(run):
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock(), pytest.raises(BiGainError), run.lock():
        pass


# --- records


def test_records_come_back_and_the_last_one_stands(run):
    assert run.read_record("cost") is None
    run.record("cost", {"gflops": 1.5})
    run.record("cost", {"gflops": None, "peak": 3})
    assert run.read_record("cost") == {"gflops": None, "peak": 3}
    written = json.loads((run.path / "cost.json").read_text())
    assert written == {"gflops": None, "peak": 3, "checksum": written["checksum"]}
    assert run.finished() == set()


def count_up(ready, run, times):
    ready.set()
    for _ in range(times):
        run.update("counts", lambda found: {"n": (found or {"n": 0})["n"] + 1})


def test_processes_that_update_a_record_lose_nothing(run):
    with other_process(count_up, run, 50) as other:
        count_up(FORK.Event(), run, 50)
        other.join()
    assert run.read_record("counts") == {"n": 100}


def test_a_record_can_be_forgotten(run):
    for name in ("failed", "failed-1-of-2"):
        run.record(name, {})
    assert run.records("failed") == ["failed", "failed-1-of-2"]
    run.forget("failed")
    run.forget("failed")
    assert run.records("failed") == ["failed-1-of-2"]


def test_bad_records_are_refused(run):
    with pytest.raises(BiGainError, match="plain JSON"):
        run.record("cost", {"gflops": float("nan")})
    (run.path / "cost.json").write_text("{")
    with pytest.raises(BiGainError, match=r"cost\.json is damaged.*`rm .*cost\.json`"):
        run.read_record("cost")
    for name in ("run", "../cost", "", ".cost"):
        with pytest.raises(ValueError, match="record"):
            run.record(name, {})


def test_a_compacted_run_is_the_same_run(tmp_path):
    run = Run.create(tmp_path, "a", {"x": 1}, {})
    for i in range(5):
        run.append([row(2 * i), row(2 * i + 1)])
    before = run.rows()
    run.compact()
    assert len(list(run.path.glob("part-*"))) == 1
    pd.testing.assert_frame_equal(Run.open(run.path).rows(), before)
    run.append([row(10)])
    run.compact()
    assert len(run.rows()) == 11 and len(list(run.path.glob("part-*"))) == 1


@pytest.mark.parametrize("moment", ["write", "drop", "half"])
def test_a_killed_compaction_loses_and_doubles_nothing(tmp_path, monkeypatch, moment):
    """Whatever is called next, be it a reader, works and sees every row once."""
    run = Run.create(tmp_path, "a", {"x": 1}, {})
    for i in range(4):
        run.append([row(i)])
    before = run.rows()
    unlink, left = Path.unlink, {"write": 0, "drop": 0, "half": 2}[moment]

    def killed(path, *arguments, **options):
        nonlocal left
        if not path.name.startswith("part-"):
            return unlink(path, *arguments, **options)
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return unlink(path, *arguments, **options)

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(pq, "write_table", killed_at_once)
        else:
            patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            run.compact()
    pd.testing.assert_frame_equal(Run.open(run.path).rows(), before)
    Run.open(run.path).append([row(4)])
    assert len(Run.open(run.path).rows()) == 5
    run.compact()
    run.compact()
    assert len(Run.open(run.path).rows()) == 5
    assert len(list(run.path.glob("part-*"))) == 1


def killed_at_once(*_, **__):
    raise KeyboardInterrupt


def test_a_reader_meets_a_compaction(tmp_path, monkeypatch):
    """Parts that go while another process lists them are looked for again."""
    run = Run.create(tmp_path, "a", {"x": 1}, {})
    for i in range(3):
        run.append([row(i)])
    reader, read = Run.open(run.path), parts_module.Parts._read_part
    calls = 0

    def late(self, part, columns):
        nonlocal calls
        calls += 1
        if calls == 2:
            Run.open(run.path).compact()
        return read(self, part, columns)

    monkeypatch.setattr(parts_module.Parts, "_read_part", late)
    assert len(reader.rows()) == 3


def test_a_part_names_nothing_outside_its_folder(tmp_path):
    run = Run.create(tmp_path / "runs", "a", {"x": 1}, {})
    victim = tmp_path / "part-victim.parquet"
    victim.write_bytes(b"mine")
    run.append([row(0)])
    run.append([row(1)])
    (part, _) = parts(run)
    table = pq.read_table(part)
    names = json.dumps(["../../part-victim.parquet", str(victim), "run.json"])
    marks = {**table.schema.metadata, b"bigain.replaces": names}
    pq.write_table(table.replace_schema_metadata(marks), part)
    run.compact()
    assert victim.exists() and (run.path / "run.json").exists() and len(run.rows()) == 2


def test_every_flipped_byte_of_a_part_is_one_line(tmp_path):
    run = Run.create(tmp_path, "a", {"x": 1}, {})
    run.append([row(0)])
    (part,) = parts(run)
    whole, before = part.read_bytes(), run.rows()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 128
        part.write_bytes(changed)
        with contextlib.suppress(BiGainError):
            pd.testing.assert_frame_equal(Run.open(run.path).rows(), before)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "[" * 5000])
def test_records_of_another_shape_are_one_line(run, text):
    (run.path / "cost.json").write_text(text)
    with pytest.raises(BiGainError, match="damaged"):
        run.read_record("cost")


def test_a_changed_record_is_noticed(run):
    run.record("scores-fid-1", {"fid": 20.0})
    file = run.path / "scores-fid-1.json"
    file.write_text(file.read_text().replace("20.0", "10.0"))
    with pytest.raises(BiGainError, match="changed after it had been written"):
        run.read_record("scores-fid-1")

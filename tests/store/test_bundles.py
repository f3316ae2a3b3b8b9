"""Bundled runs read as they did in their folders, go on where they stopped, and survive kills."""

import lzma
import multiprocessing
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigain.errors import BiGainError
from bigain.store import bundles as module
from bigain.store.bundles import Bundles
from bigain.store.runs import Run
from bigain.utils.images import read_sheet, write_sheet
from tests.runs import runs_in

FORK = multiprocessing.get_context("fork")


def row(image: int, **changes) -> dict:
    made = {
        "labels": [image % 10],
        "prediction": image % 7,
        "errors": [float(np.float32(image / 3)), float("nan")],
        "seconds": image / 7,
        "prompt": f"a photo of {image % 3}",
        "pruned": image % 2 == 0,
    }
    return {"image_id": f"{image:05d}", **made, **changes}


def make(root, name="classify-toy-a", seed=0, images=5, sheet=0) -> Run:
    run = Run.create(root, name, {"seed": seed}, {"model": {"name": "toy"}})
    if images:
        run.append([row(i) for i in range(images // 2)])
        run.append([row(i) for i in range(images // 2, images)])
    run.record("cost", {"gflops": 0.1})
    if sheet:
        shown = np.random.default_rng(seed).integers(0, 256, (sheet, 8, 8, 1), np.uint8)
        write_sheet(run.path / "sheet.png", list(shown))
    return run


def bundle(*made: Run, sheet: int = 0) -> None:
    Bundles.beside(made[0].path.parent).add([run.pack(run.rows(), sheet) for run in made])
    for run in made:
        with run.lock():
            run.remove()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "mini" / "runs"


def test_a_bundled_run_reads_as_before(root):
    made = [make(root, seed=seed, images=5 + seed) for seed in range(3)]
    made += [make(root, "generate-toy-a", 7), make(root, "trace-other-a", 8, images=0)]
    before = [run.rows() for run in made]
    assert len({run.path.name for run in made}) == len(made)
    bundle(*made[:-1])
    assert [run.path.exists() for run in made] == [False] * 4 + [True]
    for run, rows in zip(made[:-1], before, strict=False):
        found = Run.open(run.path)
        assert found.bundled and found.fingerprint == run.fingerprint
        assert (found.identity, found.config) == (run.identity, run.config)
        pd.testing.assert_frame_equal(found.rows(), rows)
        assert found.finished() == set(rows["image_id"])
        assert found.read_record("cost") == {"gflops": 0.1} and found.records("") == ["cost"]
        assert found.read_record("sessions") is None and found.running() == []
        assert len(found.require(["00003", "00001"])) == 2
        assert not run.path.exists()  # reading unpacks nothing
    assert [run.path for run in runs_in(root)] == sorted(run.path for run in made)
    files = {path.name for path in (root.parent / "bundles").iterdir()}
    assert files == {"index.json.xz", "classify-toy.parquet", "generate-toy.parquet"}


def test_dropped_runs_are_gone_and_the_others_stay(root):
    made = [make(root, seed=0), make(root, "generate-toy-b", 1, sheet=2), make(root, seed=2)]
    kept, rows = made[0], made[0].rows()
    bundle(*made, sheet=2)
    bundles, sizes = Bundles.beside(root), {}
    for path in bundles.folder.iterdir():
        sizes[path.name] = path.stat().st_size
    bundles.drop([made[1].path.name, made[2].path.name, "classify-toy-never"])
    assert bundles.names() == [kept.path.name]
    pd.testing.assert_frame_equal(Run.open(kept.path).rows(), rows)
    left = {path.name: path.stat().st_size for path in bundles.folder.iterdir()}
    assert left.keys() == {"index.json.xz", "classify-toy.parquet"}  # nor an empty one, nor sheets
    assert left["classify-toy.parquet"] < sizes["classify-toy.parquet"]
    bundles.drop([])
    assert bundles.names() == [kept.path.name]


def test_what_is_asked_to_grow_has_its_folder_back(root):
    run = make(root, sheet=3)
    sheet = run.sheet()
    bundle(run, sheet=2)
    found = Run.create(root, "classify-toy-a", {"seed": 0}, {})
    assert found.bundled
    assert all((a == b).all() for a, b in zip(found.sheet(), sheet[:2], strict=True))
    with found.lock():
        assert not found.bundled and found.finished() == {f"{i:05d}" for i in range(5)}
        found.append([row(5)])
    assert len(found.rows()) == 6 and found.read_record("cost") == {"gflops": 0.1}
    kept = read_sheet(found.path / "sheet.png")
    assert all((a == b).all() for a, b in zip(kept, sheet[:2], strict=True))
    bundle(found, sheet=2)  # in the place of the older one
    assert len(Run.open(run.path).rows()) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.append([row(9)]),
        lambda run: run.record("more", {}),
        lambda run: run.forget("cost"),
        lambda run: run.update("cost", lambda found: {**found, "x": 1}),
        lambda run: run.lock_finish().__enter__(),
        lambda run: run.compact(),
    ],
)
def test_every_change_unpacks(root, change):
    run = make(root)
    bundle(run)
    change(run)
    assert not run.bundled and len(run.rows()) >= 5


def test_a_folder_stands_before_its_bundle(root):
    run = make(root)
    Bundles.beside(root).add([run.pack(run.rows(), 0)])  # killed before the folder went
    run.append([row(5)])
    assert len(Run.open(run.path).rows()) == 6
    bundle(run)
    assert len(Run.open(run.path).rows()) == 6 and len(runs_in(root)) == 1


def test_a_kill_before_the_index_leaves_all_as_it_was(root, monkeypatch):
    first = make(root)
    bundle(first)
    second = make(root, seed=1)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lzma, "compress", killed)
        with pytest.raises(KeyboardInterrupt):
            bundle(second)
    assert len(Run.open(first.path).rows()) == 5 and Run.open(first.path).bundled
    assert not Run.open(second.path).bundled and second.path.name not in Bundles.beside(root)
    bundle(second)
    assert [run.bundled for run in runs_in(root)] == [True, True]
    assert not list((root.parent / "bundles").glob(".*"))


def test_a_kill_while_a_folder_goes_leaves_the_bundle(root, monkeypatch):
    run = make(root)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            bundle(run)
    assert list(run.path.glob("part-*")) and run.bundled
    assert len(Run.open(run.path).rows()) == 5
    with run.lock():  # the old parts are not counted twice
        assert len(run.rows()) == 5
    bundle(run)
    run.path.mkdir()
    (run.path / "part-x.parquet").write_bytes(b"torn")
    run.tidy()
    assert not list(run.path.glob("part-*")) and len(run.rows()) == 5


def test_a_kill_while_unpacking_is_made_good(root, monkeypatch):
    run = make(root)
    bundle(run)
    written = module.files.write_text

    def killed(path, text):
        if path.name == "run.json":
            raise KeyboardInterrupt
        written(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(module.files, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            run.unpack()
    assert run.bundled and list(run.path.glob("part-*"))
    run.unpack()
    assert not run.bundled and len(run.rows()) == 5


def test_two_processes_unpack_once(root):
    run = make(root, images=40)
    bundle(run)
    processes = [FORK.Process(target=Run.open(run.path).unpack) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert not run.bundled and len(list(run.path.glob("part-*"))) == 1 and len(run.rows()) == 40


def test_values_are_kept_exactly_in_narrow_types(root):
    exact, single = 0.1, float(np.float32(0.1))
    run = Run.create(root, "classify-toy-a", {}, {})
    values = {"few": 200, "many": 2**40, "exact": exact, "single": single, "none": [1.0]}
    made = [{"image_id": str(i), **values, "none": [] if i else [single]} for i in range(3)]
    run.append(made)
    before = run.rows()
    bundle(run)
    schema = pq.read_schema(root.parent / "bundles" / "classify-toy.parquet")
    kinds = {name: schema.field(name).type for name in (*values,)}
    assert (kinds["few"], kinds["many"]) == (pa.int16(), pa.int64())
    assert (kinds["exact"], kinds["single"]) == (pa.float64(), pa.float32())
    assert kinds["none"] == pa.list_(pa.float32())
    pd.testing.assert_frame_equal(run.rows(), before)


def test_damage_is_named_with_its_mend(root):
    run = make(root)
    bundle(run)
    rows = root.parent / "bundles" / "classify-toy.parquet"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-20])
    with pytest.raises(BiGainError, match=r"classify-toy\.parquet cannot be read.*git checkout"):
        run.rows()
    rows.unlink()
    with pytest.raises(BiGainError, match="is missing, which index"):
        run.rows()
    (root.parent / "bundles" / "index.json.xz").write_bytes(b"{")
    with pytest.raises(BiGainError, match="is damaged"):
        Run.find(run.path)


def test_only_what_is_bundled_may_be_removed(root):
    run = make(root)
    with pytest.raises(ValueError, match="no bundle"):
        run.remove()
    assert len(run.rows()) == 5

"""Runs on a small random DiT, logged offline and read back from what wandb wrote."""

import getpass
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import wandb
from omegaconf import open_dict
from wandb.proto.wandb_internal_pb2 import Record

from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.experiment_files import Entry
from bigain.experiments.job import Job
from bigain.experiments.logging import log, usable
from bigain.experiments.runner import execute
from bigain.loggers import run_report
from bigain.loggers.wandb import INSTALL, LOGIN, WandB
from bigain.reporting.bundling import Reads, bundle
from bigain.store.runs import Run
from bigain.tasks import Classify
from bigain.tasks.classify_columns import accuracy_row
from bigain.utils.images import read_image, read_sheet
from bigain.utils.paths import REPOSITORY


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path) -> Iterator[None]:
    """Offline, without a login, and with wandb's settings read anew."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)  # where `wandb offline` would have left its settings
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def overrides(small_dit, tmp_path) -> list[str]:
    return [
        "logger=wandb",
        f"logger.dir={tmp_path}",
        f"model.path={small_dit}",
        "blocks=all",
        f"results={tmp_path}/results",
        "task.samples=[1,2]",
        "task.keep=[2,1]",
        "limit=12",
    ]


@pytest.fixture
def generation(overrides) -> list[str]:
    others = [o for o in overrides if not o.startswith("task.")]
    return [
        *others,
        "task=generate",
        "task.steps=2",
        "evaluation.allow_few=true",
        "evaluation.replicates=3",
        "evaluation.kid_subsets=2",
        "evaluation.kid_subset_size=10",
    ]


@pytest.fixture
def configured(configure):
    def configured(overrides, sweep=None):
        cfg = configure(overrides)
        with open_dict(cfg):
            cfg.sweep = sweep
        return cfg

    return configured


@pytest.fixture
def run(configured):
    return lambda *arguments: execute(configured(*arguments))


def unlogged(overrides: list[str]) -> list[str]:
    return [o for o in overrides if not o.startswith("logger")]


@dataclass
class Logged:
    """What wandb wrote about a run in one session."""

    path: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def file(self, entry: dict[str, Any]) -> Path:
        return self.path / "files" / entry["path"]

    @property
    def table(self) -> pd.DataFrame:
        found = json.loads(self.file(self.summary["images"]).read_text())
        return pd.DataFrame(found["data"], columns=found["columns"])


def records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file, which is a LevelDB log behind a header of seven bytes."""
    data, place, whole = path.read_bytes(), 7, b""
    while place < len(data):
        if (room := 32768 - place % 32768) < 7:  # too little for a record's header
            place += room
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def put(found: dict[str, Any], items: Any) -> None:
    for item in items:
        *parents, last = item.nested_key or [item.key]
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)


def logged(folder: Path) -> list[Logged]:
    """The runs under ``folder``, by start."""
    wandb.teardown()  # its service writes out what it still holds
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        one = Logged(path.parent)
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                one.run = record.run
                put(one.config, record.run.config.update)
            elif kind == "history":
                one.history.append({})
                put(one.history[-1], record.history.item)
            elif kind == "summary":
                put(one.summary, record.summary.update)
        found.append(one)
    return found


def test_a_classification(overrides, run, tmp_path, capsys):
    plain = run(unlogged(overrides))
    assert not logged(tmp_path)
    chosen = [*overrides, "compressor=lgtm", "compressor.ratio=0.25"]
    found = run(chosen, "demo")
    (one,) = logged(tmp_path)
    assert one.run.run_id == found.fingerprint and one.run.project == "bigain"
    assert one.run.display_name == "classify-dit_fashion-fashion_mnist-lgtm"
    assert one.run.run_group == "demo" and one.run.job_type == "classify"
    assert set(one.run.tags) == {"dit_fashion", "lgtm", "fashion_mnist", "classify"}
    assert one.run.resume

    assert one.config["compressor"]["ratio"] == one.config["ratio"] == 0.25
    assert one.config["identity"] == found.identity
    assert one.config["blocks"] == [0, 1] and one.config["seed"] == 0
    assert one.config["dataset"]["root"] == "assets/fashion_mnist"
    assert "logger" not in one.config and "results" not in one.config
    assert str(tmp_path) not in json.dumps(one.config) and str(REPOSITORY) not in str(one.config)

    cost = {k: v for k, v in found.read_record("cost").items()}
    wanted = accuracy_row("lgtm", found.rows(), plain.rows(), cost)
    for key in ("acc1", "low", "high", "difference", "wins", "gflops", "gflops_matching"):
        assert one.summary[key] == pytest.approx(wanted[key]), key
    assert one.summary["n"] == 12 and one.summary["seconds"] > 0
    assert one.summary["evaluations"] == wanted["evaluations"]
    assert "fid" not in one.summary and "map" not in one.summary

    (row,) = one.history
    assert row["_step"] == 12 and row["ratio"] == 0.25 and row["acc1"] == one.summary["acc1"]
    table, rows = one.table, found.rows().set_index("image_id").loc[one.table["image_id"]]
    assert len(table) == 12 and table["prediction"].tolist() == rows["prediction"].tolist()
    assert table["correct"].mean() * 100 == pytest.approx(one.summary["acc1"])
    assert table["labels"].tolist() == [list(labels) for labels in rows["labels"]]
    errors = [e[k] for e, k in zip(rows["errors"], table["prediction"], strict=True)]
    assert table["prediction_error"].tolist() == pytest.approx(errors)
    assert (table["label_error"] > 0).all()
    assert f"logged: `wandb sync {one.path}`" in capsys.readouterr().out


def test_a_generation(generation, run, tmp_path):
    plain = run(unlogged([*generation, "features=none"]))
    scored = [*generation, f"evaluation.reference={plain.path}/images"]
    run(unlogged(scored))
    found = run([*scored, "compressor=todo"])
    (one,) = logged(tmp_path)
    assert one.summary["fid_difference"] == pytest.approx(one.summary["fid"])  # less about 0
    assert one.summary["fid_diff_low"] < one.summary["fid_difference"]
    assert one.run.job_type == "generate" and not one.run.run_group
    record: dict[str, Any] = {}
    for path in found.path.glob("scores-*.json"):
        record |= json.loads(path.read_text())
    for key in ("fid", "fid_low", "fid_high", "sfid", "kid", "precision", "recall", "coverage"):
        assert one.summary.get(key) == pytest.approx(record[key]), key
    assert one.summary["n"] == 12 and one.summary["evaluations"] == 2
    assert one.summary["factor"] == one.config["factor"] == 2
    assert one.table.columns.tolist() == ["image_id", "label", "prompt", "seconds"]
    assert one.table["prompt"].tolist() == found.rows()["prompt"].tolist()
    assert one.file(one.summary["sheet"]).read_bytes() == (found.path / "sheet.png").read_bytes()
    samples = one.summary["samples"]
    assert samples["captions"] == found.rows()["prompt"].tolist()
    for name, image_id in zip(samples["filenames"], found.rows()["image_id"], strict=True):
        image = (found.path / "images" / f"{image_id}.png").read_bytes()
        assert (one.path / "files" / name).read_bytes() == image


def test_a_run_that_goes_on_keeps_its_id(overrides, run, tmp_path):
    for limit in (5, 12, 12):
        run([*overrides, f"limit={limit}"])
    sessions = logged(tmp_path)
    assert len({one.run.run_id for one in sessions}) == 1
    # offline, each session holds all there is, once, under a step that is the number of images
    assert [len(one.table) for one in sessions] == [5, 12, 12]
    assert [[row["_step"] for row in one.history] for one in sessions] == [[5], [12], [12]]
    assert all(one.table["image_id"].is_unique for one in sessions)


def test_another_start_is_a_wandb_run_of_its_own(overrides, run, tmp_path):
    found = [run([*overrides, "limit=5", f"start={start}"], "demo") for start in (0, 5)]
    assert found[0].path == found[1].path
    first, second = logged(tmp_path)
    assert first.run.run_id == found[0].fingerprint
    assert second.run.run_id == f"{found[0].fingerprint}-from-5"
    assert second.run.display_name == f"{first.run.display_name}-from-5"
    assert second.run.run_group == first.run.run_group == "demo"
    assert (first.config["start"], second.config["start"]) == (0, 5)
    assert [row["_step"] for row in first.history + second.history] == [5, 5]
    assert not set(first.table["image_id"]) & set(second.table["image_id"])
    assert second.table["correct"].mean() * 100 == pytest.approx(second.summary["acc1"])


def test_an_archived_generation_shows_its_sheet(generation, run, tmp_path):
    chosen = unlogged(generation)
    sheet = run(chosen).path / "sheet.png"
    assert bundle([Entry(chosen)], Reads()) == 1 and not sheet.parent.exists()
    found = run(generation)
    run([*generation, "limit=5", "start=5", "features=none"])
    first, other = logged(tmp_path)
    assert first.summary["n"] == 12 and first.summary["fid"] is not None
    assert first.file(first.summary["sheet"]).read_bytes() == sheet.read_bytes()
    assert other.summary["n"] == 5 and "sheet" not in other.summary  # it shows the first
    for one, part in ((first, slice(0, 10)), (other, slice(5, 10))):
        samples = one.summary["samples"]
        assert samples["captions"] == found.rows()["prompt"].tolist()[part]
        for name, image in zip(samples["filenames"], read_sheet(sheet)[part], strict=True):
            assert (read_image(one.path / "files" / name) == image).all()


def test_a_trace(overrides, run, tmp_path):
    others = [o for o in overrides if not o.startswith("task.")]
    found = run([*others, "task=trace", "task.timesteps=[125,925]", "compressor=lgtm", "limit=3"])
    (one,) = logged(tmp_path)
    assert one.run.run_id == found.fingerprint and one.run.job_type == "trace"
    assert one.summary["n"] == 3 and one.summary["evaluations"] == 2
    assert one.summary["seconds"] == pytest.approx(found.rows()["seconds"].median())
    assert one.summary["gflops"] > 0 and one.summary["ratio"] == one.config["ratio"]
    assert not {"images", "samples", "acc1"} & one.summary.keys()


@pytest.mark.parametrize(("step", "rows"), [(0, 1), (6, 1), (13, 0)])
def test_what_the_server_has_is_not_sent_again(overrides, run, monkeypatch, capsys, step, rows):
    """Resumed online, a run's next step is one past the number of images it holds."""
    sent: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    server = SimpleNamespace(
        step=step,
        summary=summary,
        offline=False,
        dir="",
        url="https://server/run",
        log=lambda data, step: sent.append(data),
        finish=lambda exit_code=0: None,
    )
    monkeypatch.setattr(wandb, "init", lambda **_: server)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    run([*overrides, "logger.mode=online"])
    assert len(sent) == rows and bool(summary) == (not rows)
    assert "logged: https://server/run" in capsys.readouterr().out


def test_figures_drawn_since_the_run_come_with_it(overrides, run, configured, tmp_path):
    found = run(unlogged(overrides))
    job = Job(settings_of(configured(overrides, "demo")))
    assert run_report.figures(job, found) == {}
    old, new = tmp_path / "results" / "demo.png", tmp_path / "results" / "demo-samples.png"
    for figure in (old, new):
        figure.write_bytes(b"")
    os.utime(old, (0, 0))  # it cannot show the run
    assert run_report.figures(job, found) == {"demo-samples": new}


def test_compacting_a_run_leaves_its_figures_current(
    overrides, run, configured, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Run, "compact", lambda run: None)
        run(unlogged([*overrides, "limit=5"]))
        found = run(unlogged(overrides))
    figure = tmp_path / "results" / "demo.png"
    figure.write_bytes(b"")
    found.compact()
    (part,) = found.path.glob("part-*.parquet")
    assert part.stat().st_mtime_ns > figure.stat().st_mtime_ns
    assert run_report.figures(Job(settings_of(configured(overrides, "demo"))), found) == {
        "demo": figure
    }


@pytest.mark.parametrize(("folder", "beside"), [("mini", True), ("paper", True), ("other", False)])
def test_figures_are_found_by_the_experiments_name(
    overrides, run, configured, tmp_path, folder, beside
):
    here = tmp_path / "results" / folder
    chosen = [*overrides, f"results={here}"]
    found = run(unlogged(chosen))
    mine = ["table1", "table1-dit_fashion", "table1-maps", "table1-coherence"]
    for name in [*mine, "table11", "table11-maps", "table"]:
        (here / f"{name}.png").write_bytes(b"")
    for name in ("table1-samples", "table11-samples"):
        (here.parent / f"{name}.png").write_bytes(b"")
    names = {*mine, "table1-samples"} if beside else {*mine}
    assert run_report.figures(Job(settings_of(configured(chosen, "table1"))), found).keys() == names


def test_of_several_labels_the_error_is_the_lowest():
    rows = {
        "image_id": ["a", "b"],
        "labels": [[0, 2], [1]],
        "prediction": [2, 0],
        "errors": [[0.3, 0.4, 0.2], [0.1, 0.5, 0.6]],
        "seconds": [1.0, 1.0],
    }
    found = Classify().images(pd.DataFrame(rows))
    assert found["label_error"].tolist() == [0.2, 0.5]
    assert found["prediction_error"].tolist() == [0.2, 0.1]
    assert found["correct"].tolist() == [True, False]


def assert_one_line(capsys, *words: str) -> None:
    """On stderr, beside progress bars; and the run's report on stdout."""
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.strip() and "img" not in line]
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in words), lines
    assert "top-1" in out


def test_without_the_package_the_run_goes_on(overrides, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert len(run(overrides).rows()) == 12
    assert_one_line(capsys, "logger=wandb: nothing is logged", "pip install")


def test_without_a_login_the_run_goes_on(overrides, run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("asked the server"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked the user"))
    assert len(run(overrides).rows()) == 12
    assert_one_line(capsys, "logger=wandb: nothing is logged", "wandb login", "WANDB_MODE=offline")
    assert not logged(tmp_path)


def test_what_is_a_login(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    assert WandB().problem() == LOGIN
    assert WandB(mode="offline").problem() is None
    host = wandb.setup().settings.base_url.removeprefix("https://")
    (tmp_path / "netrc").write_text(f"machine {host} login user password {'k' * 40}\n")
    assert WandB().problem() is None
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    wandb.teardown()
    assert WandB().problem() is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    assert "disabled" in str(WandB().problem())
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert WandB().problem() == INSTALL


def test_its_failure_is_one_line(overrides, run, monkeypatch, capsys):
    def fail(**_):
        raise wandb.errors.CommError("no\nnetwork")

    monkeypatch.setattr(wandb, "init", fail)
    assert len(run(overrides).rows()) == 12
    assert_one_line(capsys, "is not logged: no network", "the same command logs it")


def test_the_command_line_never_asks(overrides, tmp_path):
    environment = {**os.environ, "WANDB_MODE": "online", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "run.py"), *overrides, "limit=2"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is logged" in done.stderr and "Traceback" not in done.stderr
    assert "\nwandb:" not in done.stderr and "top-1" in done.stdout


def test_none_logs_nothing(configure):
    assert usable(settings_of(configure([])).logger) is None
    log(None, None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("logger.mode=onlin", "mode must be null or one of online, offline"),
        ("+logger.projekt=x", "accepted: dir, entity, mode, name, project"),
    ],
)
def test_refusals(overrides, run, change, message):
    with pytest.raises(BiGainError) as caught:
        run([*overrides, change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_of_the_environment_is_logged(overrides, run, tmp_path, monkeypatch):
    training = {"hyperparameters": {"password": "hunter2"}, "network_interface_name": "eth9"}
    for name, value in {
        "SM_TRAINING_ENV": json.dumps(training),
        "TRAINING_JOB_NAME": "tuning-job",
        "CURRENT_HOST": "algo-7",
        "HOME": str(tmp_path),  # media wait there to be sent
        "USER": "someone",
        "LOGNAME": "someone",
        "PLACE": "a secret place",
        "LIMIT": "12",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "gethostname", lambda: "private-host")
    monkeypatch.setattr(getpass, "getuser", lambda: "someone")
    monkeypatch.setattr(sys, "argv", ["run.py", "dataset.root=/private/data"])
    given = [
        "features.path='${oc.env:PLACE}'",
        "evaluation.statistics='at/${features.path}'",
        "limit='${oc.decode:${oc.env:LIMIT}}'",
    ]
    found = run([*overrides, *given])
    (one,) = logged(tmp_path)
    assert one.run.run_id == found.fingerprint
    assert one.config["features"]["path"] == "${oc.env:PLACE}"
    assert one.config["evaluation"]["statistics"] == "at/${oc.env:PLACE}"
    assert one.config["limit"] == "${oc.decode:${oc.env:LIMIT}}" and one.summary["n"] == 12
    written = {path.name: path.read_bytes() for path in one.path.rglob("*") if path.is_file()}
    for name in (
        "hunter2",
        "tuning-job",
        "algo-7",
        "eth9",
        "someone",
        "private-host",
        "/private/data",
        "a secret",
    ):
        holders = [file for file, data in written.items() if name.encode() in data]
        assert not holders, f"{name} is in {holders}"

"""Killed before any of its file operations, every command that writes goes on when called again.

A process that has everything imported is forked, and ends at once before its n-th operation, for
every n until one comes through. After each kill the same command, and whatever else reads its
files, must work without help and end in the state that an undisturbed command leaves.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from bigain.errors import BiGainError
from bigain.experiments import experiment_files, job, runner
from bigain.experiments.experiment_files import Entry
from bigain.experiments.runner import execute
from bigain.preparation import fashion_textured
from bigain.reporting.build import build
from bigain.reporting.bundling import Reads, bundle
from bigain.reporting.report import report
from bigain.store.run_images import folder
from bigain.store.runs import Run
from bigain.training import export
from bigain.training.curves import Panel
from bigain.training.loop import Trainer

pytestmark = pytest.mark.slow
KILLED = 137
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
EXPERIMENT = """\
title: Toy
note: ""
baseline: none
tasks: {{classify: {overrides}}}
rows: [none, iekvd@2]
"""


def killed(root: Path, before: int, command: Callable[[], Any]) -> bool:
    """Run a command in a fork that ends before its n-th change of a file under ``root``.

    Returns:
        False if the command came through.
    """
    process = os.fork()
    if process:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status in (0, KILLED), "the command failed before it was killed"
        return status == KILLED
    left = before

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if not (event in CHANGES or (event == "open" and _writes(*arguments))):
            return
        name = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
        relative = not os.path.isabs(name)  # shutil.rmtree names files within an open folder
        if relative or str(name).startswith(str(root)):
            if ".lock-" in str(name):
                return
            left -= 1
            if left < 0:
                os._exit(KILLED)

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.addaudithook(count)
        command()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _writes(path: Any, mode: str | None, flags: int) -> bool:
    if mode is not None:
        return any(letter in mode for letter in "wax+")
    return bool(flags & WRITING)


def survives(
    template: Path,
    root: Path,
    command: Callable[[], Any],
    state: Callable[[], Any],
    between: Callable[[], Any] = lambda: None,
) -> int:
    """Kill a command before each of its operations, and see that it ends as if undisturbed.

    Args:
        template: a folder; each attempt starts with a copy of it at ``root``.
        between: what must work right after a kill.

    Returns:
        The number of operations.
    """

    def anew() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)

    anew()
    command()
    want = state()
    for n in itertools.count():
        anew()
        if not killed(root, n, command):
            assert state() == want
            return n
        between()
        command()
        assert state() == want, f"killed before operation {n}"
        strays = [path for path in root.rglob(".*.tmp")]
        assert not strays, f"left behind by a kill before operation {n}: {strays}"
    raise AssertionError


def digests(root: Path, *patterns: str) -> dict[str, str]:
    """The SHA-256 of the files under ``root``, by their names."""
    found = itertools.chain.from_iterable(root.rglob(pattern) for pattern in patterns)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
    }


def all_runs(root: Path) -> list[Run]:
    from tests.runs import runs_in  # which this file as a script cannot import

    return runs_in(root)


def results(root: Path) -> list[Any]:
    """What the runs under ``root`` hold, less what depends on the time."""
    found = []
    for run in all_runs(root / "runs"):
        rows = run.rows().drop(columns=["seconds"]).to_dict("list")
        records = {name: run.read_record(name) for name in run.records("scores-")}
        sessions = run.sessions()
        assert sessions and all("device" in session for session in sessions)
        drawn = digests(run.path, "images/*.png", "sheet.png")
        found.append((run.fingerprint, str(rows), records, drawn, run.bundled))
    return found


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file outlives its process without reaching the disk, which takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def warm(small_dit: Path, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is loaded, and its FLOPs are counted, once, before processes are forked."""
    torch.set_num_threads(1)  # other threads do not survive a fork
    known: dict[str, Any] = {}

    def once(make: Callable[..., Any], about: Callable[..., Any]) -> Callable[..., Any]:
        def remembered(*given: Any, **more: Any) -> Any:
            key = f"{make} {about(*given)} {given[1:]} {more}"
            if key not in known:
                known[key] = make(*given, **more)
            return known[key]

        return remembered

    load = once(runner.load, lambda job: job.setup.backbone.identity())
    monkeypatch.setattr(runner, "load", load)
    monkeypatch.setattr(job, "count", once(job.count, lambda model, *_: model.config))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """An empty template, and where attempts are made."""
    (tmp_path / "template").mkdir()
    return tmp_path / "template", tmp_path / "root"


def classify(small_dit: Path, root: Path) -> list[str]:
    protocol = ["task.samples=[1]", "task.keep=[1]", "limit=2", "batch_size=32", "blocks=all"]
    return [f"model.path={small_dit}", f"results={root}", *protocol]


def generate(small_dit: Path, root: Path, real: Path) -> list[str]:
    protocol = ["task=generate", "task.steps=1", "task.guidance=1", "limit=2", "batch_size=1"]
    scored = ["evaluation.allow_few=true", "evaluation.replicates=2", "evaluation.metrics.kid=null"]
    where = [f"model.path={small_dit}", f"results={root}", f"evaluation.reference={real}"]
    return [*where, *protocol, *scored, "model.smallest_batch=1"]


@pytest.fixture
def real(small_dit: Path, tmp_path: Path, configure: Any, warm: None) -> Path:
    """Images to compare with."""
    settings = [*generate(small_dit, tmp_path / "real", tmp_path), "seed=1", "features=none"]
    run = execute(configure(settings))
    assert run is not None
    return folder(run)


@pytest.mark.usefixtures("warm")
def test_classification(small_dit: Path, places: Any, configure: Any) -> None:
    template, root = places
    cfg = configure(classify(small_dit, root))
    assert survives(template, root, lambda: execute(cfg), lambda: results(root)) > 10


@pytest.mark.usefixtures("warm")
def test_generation_with_scores(small_dit: Path, real: Path, places: Any, configure: Any) -> None:
    template, root = places
    cfg = configure(generate(small_dit, root, real))

    def readable() -> None:
        for run in all_runs(root / "runs"):
            run.rows()

    assert survives(template, root, lambda: execute(cfg), lambda: results(root), readable) > 20


@pytest.mark.usefixtures("warm")
def test_a_bundle(small_dit: Path, real: Path, places: Any, configure: Any) -> None:
    template, root = places
    settings = [classify(small_dit, root), generate(small_dit, root, real)]
    root.mkdir()
    for overrides in settings:
        execute(configure(overrides))
    shutil.copytree(root, template, dirs_exist_ok=True)
    entries = [Entry(overrides) for overrides in settings]

    def readable() -> None:
        for entry in entries:
            assert len(Run.open(Entry(entry.overrides).run_path).rows()) == len(entry.image_ids())

    command = lambda: bundle(entries, Reads())  # noqa: E731
    assert survives(template, root, command, lambda: results(root), readable) > 10


@pytest.mark.usefixtures("warm")
def test_unpacking(small_dit: Path, places: Any, configure: Any) -> None:
    template, root = places
    overrides = classify(small_dit, root)
    root.mkdir()
    execute(configure(overrides))
    bundle([Entry(overrides)], Reads())
    shutil.copytree(root, template, dirs_exist_ok=True)
    cfg = configure([*overrides, "limit=3"])
    assert survives(template, root, lambda: execute(cfg), lambda: results(root)) > 10


@pytest.mark.usefixtures("warm")
def test_a_table_and_the_report(
    small_dit: Path, places: Any, configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, root = places
    overrides = [f'"{setting}"' for setting in classify(small_dit, tmp_path / "runs")]
    (tmp_path / "experiments").mkdir()
    text = EXPERIMENT.format(overrides=f"[{', '.join(overrides)}]")
    (tmp_path / "experiments" / "toy.yaml").write_text(text)
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path / "experiments")
    for row in experiment_files.load("toy").rows:
        for entry in row.entries.values():
            execute(configure(entry.overrides))

    def command() -> None:
        build(experiment_files.load("toy"), root / "out")
        report("mini", root / "report.html", ["toy"], root / "out")

    def state() -> dict[str, str]:
        return digests(root, "*.csv", "*.md", "*.tex", "*.png")

    assert survives(template, root, command, state) > 4


def test_prepared_data(places: Any) -> None:
    template, root = places
    target = root / "textured"
    command = lambda: fashion_textured.prepare(target, count=8)  # noqa: E731
    assert survives(template, root, command, lambda: digests(root, "*.*")) > 8


class Line:
    """The recipe of a line through random points."""

    loss_name, panel = "loss", Panel("val_loss", "loss", 1.0)

    def identity(self) -> dict[str, Any]:
        return {"name": "points"}

    def build(self, device: torch.device) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def optimizers(self, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(model.parameters(), lr=0.1)]

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(2, 4, 1, generator=torch.Generator().manual_seed(step)),)

    def loss(self, model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        return {"val_loss": self.loss(model, *self.batch(-1)).item()}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        return {"accuracy": 1.0}

    def save(self, model: torch.nn.Module, out: Path) -> None:
        torch.save(model.state_dict(), out / "model.bin")


def training_survives(template: Path, root: Path) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # type: ignore[assignment]  # as for the other commands
    # drawing takes most of the time
    export.draw_curves = lambda *given: given[-1].write_text("curves")  # type: ignore[assignment]
    steps = {"images": 16, "batch_size": 4, "log_every": 1, "save_every": 2}
    rates = {"warmup_images": 4, "decay_fraction": 0.5, "ema_decay": 0.9}
    where = {"checkpoints": f"{root}/state", "output": f"{root}/model", "device": "cpu"}
    cfg = OmegaConf.create({**steps, **rates, **where, "seed": 0, "precision": "fp32"})

    def state() -> tuple[dict[str, str], list[str]]:
        log = (root / "state" / "log.csv").read_text()
        rows = [line.split(",") for line in log.splitlines()]
        seconds = rows[0].index("seconds")
        left = [",".join(row[:seconds] + row[seconds + 1 :]) for row in rows]
        assert json.loads((root / "model" / "training.json").read_text())["steps"] == 4
        return digests(root / "model", "*.bin", "*.png"), left

    assert survives(template, root, lambda: Trainer(cfg, Line()).run(), state) > 12


def test_training(places: Any) -> None:
    # torch refuses to differentiate in forks of a process that has compiled a model
    command = [sys.executable, __file__, *map(str, places)]
    alone = subprocess.run(command, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr


def test_the_harness_sees_a_kill(places: Any) -> None:
    """A command that is not consistent fails it."""
    template, root = places

    def append() -> None:
        with (root / "log").open("a") as file:
            file.write("x")
        (root / "done").touch()

    with pytest.raises(AssertionError, match="killed before operation"):
        survives(template, root, append, lambda: digests(root, "log"))


def test_a_failing_command_is_no_kill(places: Any) -> None:
    def fail() -> None:
        raise BiGainError("no")

    with pytest.raises(AssertionError, match="failed before"):
        killed(places[1], 0, fail)


if __name__ == "__main__":
    training_survives(*map(Path, sys.argv[1:]))

"""Calls of run.py as a shell makes them, and what two runs have in common."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bigain.store.bundles import Bundles
from bigain.store.runs import Run
from bigain.tasks.classify_columns import accuracy_row
from bigain.utils.paths import REPOSITORY

RUN = str(REPOSITORY / "run.py")
# Its processes begin with all that run.py imports, whose import takes longer than a small run.
_IMPORTED = multiprocessing.get_context("forkserver")
_IMPORTED.set_forkserver_preload(["bigain.experiments.runner"])
_STARTED = "started"


def call(
    *arguments: str, entry: tuple[str, ...] = (RUN,), **options: Any
) -> subprocess.CompletedProcess[str]:
    """``python run.py arguments``, once it has ended."""
    command = [sys.executable, *entry, *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def finish(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python run.py arguments`` from ``folder`` as by `start`, once it has ended."""
    with tempfile.TemporaryDirectory() as temporary:
        output, errors = Path(temporary, "output"), Path(temporary, "errors")
        process = start(*arguments, folder=folder, output=output, errors=errors)
        process.join()
        assert process.exitcode is not None  # it has ended
        said = output.read_text(), errors.read_text()
        return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def start(
    *arguments: str, script: str = RUN, folder: Path, output: Path, errors: Path | None = None
) -> BaseProcess:
    """``python run.py arguments`` from ``folder``, at once and in a process group of its own.

    Args:
        output: what it writes is added to this file.
        errors: the same for what it writes to stderr, if not to ``output``.
    """
    streams = (output, errors or output)
    for file in streams:
        file.touch()
    started = {_STARTED: (script, arguments, folder, streams, dict(os.environ))}
    # it cannot import this file by name: other packages are called tests, too
    process = _IMPORTED.Process(target=runpy.run_path, args=(__file__, started, _STARTED))
    process.start()
    return process


def _main(
    script: str,
    arguments: tuple[str, ...],
    folder: Path,
    streams: tuple[Path, Path],
    environment: dict[str, str],
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream, path in enumerate(streams, start=1):
        with path.open("ab") as file:
            os.dup2(file.fileno(), stream)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        # as an interpreter ends, and multiprocessing's processes do not: joblib and Ray hang on it
        threading._shutdown()
        atexit._run_exitfuncs()


def assert_same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Equal predictions, and errors to 1e-5."""
    assert left["image_id"].tolist() == right["image_id"].tolist()
    assert left["prediction"].tolist() == right["prediction"].tolist()
    for a, b in zip(left["errors"], right["errors"], strict=True):
        torch.testing.assert_close(
            torch.tensor(list(a)), torch.tensor(list(b)), rtol=0, atol=1e-5, check_dtype=False
        )


def runs_in(root: Path) -> list[Run]:
    """The runs under ``root``, in folders and in the bundles beside it, by name."""
    names = {about.parent.name for about in root.glob("*/run.json")}
    return [Run.open(root / name) for name in sorted(names.union(Bundles.beside(root).names()))]


def table_row(run: Run) -> dict:
    """The run's row of a table, less what differs between two timings."""
    cost = run.read_record("cost")
    row = accuracy_row("method", run.rows(), cost=cost, fingerprint=run.fingerprint)
    return {k: v for k, v in row.items() if k not in ("seconds", "peak_memory_mib")}


def assert_same_table(left: Run, right: Run) -> None:
    assert_same(left.rows(), right.rows())
    assert table_row(left) == table_row(right)


if __name__ == _STARTED:
    _main(*globals()[_STARTED])

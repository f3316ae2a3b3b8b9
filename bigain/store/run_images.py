"""The images that a run of task=generate has drawn: their ids and their files."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from bigain.store.runs import Run

ARCHIVED = "archived"  # the record of a run whose scored images were removed

MOST = 1_000_000  # images: the order of their names is that of their numbers, of six digits each


def first_ids(count: int) -> list[str]:
    """The ids of the first images."""
    return [f"{i:06d}" for i in range(count)]


def contiguous(run: Run) -> int:
    """How many of the run's first images are finished, with none missing between them."""
    finished = run.finished()
    return sum(1 for _ in takewhile(finished.__contains__, first_ids(len(finished))))


def folder(run: Run) -> Path:
    """The folder of a run's images."""
    return run.path / "images"


def files(run: Run, ids: Sequence[str]) -> list[Path]:
    """The files of these images, which need not exist."""
    return [folder(run) / f"{i}.png" for i in ids]

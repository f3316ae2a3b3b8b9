"""What the runner asks of a task, and what it gives it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import pandas as pd

from bigain.backbones import Backbone
from bigain.compression import Attachment
from bigain.datasets.base import Dataset
from bigain.store.runs import Run


@dataclass(frozen=True)
class Work:
    """Images to compute, and all it takes.

    Attributes:
        run: where finished images go.
        ids: every image asked for, in order.
        todo: those of them to compute.
        attachment: the compressor on the backbone, None without one.
        batch_size: forward passes at a time.
        title: for the progress bar.
    """

    run: Run
    ids: Sequence[str]
    todo: Sequence[str]
    dataset: Dataset
    backbone: Backbone
    attachment: Attachment | None
    seed: int
    batch_size: int
    title: str


class Task(Protocol):
    """A frozen dataclass whose fields are the protocol, and so part of a run's fingerprint.

    Attributes:
        compared: whether a compressed run is to be compared with the uncompressed one.
    """

    compared: ClassVar[bool]

    def ids(self, dataset: Dataset, limit: int | None) -> list[str]:
        """The images asked for; BiGainError if there are not so many."""

    def unfinished(self, run: Run, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the run lacks."""

    def compute(self, work: Work) -> None:
        """Compute ``work.todo``, appending finished images to the run batch by batch."""

    def finish(self, run: Run, ids: Sequence[str]) -> None:
        """Called when all of ``ids`` are there."""

    def spent(self, frame: pd.DataFrame) -> float:
        """Evaluations of the denoiser an image, the mean of the run's rows."""

    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        """Lines for people: what came out, and against the uncompressed run of the same images."""

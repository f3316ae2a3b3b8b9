"""The interface of a task, and what the runner hands to it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

from bigain.backbones import Backbone
from bigain.compression import Attachment
from bigain.compressors import Compressor
from bigain.datasets.base import Dataset
from bigain.errors import BiGainError
from bigain.store.runs import Run
from bigain.tasks.columns import Columns, Metrics, Panel, Results, Row
from bigain.tasks.scoring import Scoring


@dataclass(frozen=True)
class Setup:
    """The objects that a configuration names, none of them loaded.

    Attributes:
        names: of the chosen model, compressor, dataset and task, by group.
        compressor: None for compressor=none, or a task that needs none.
        dataset, backbone: None for a task that needs none.
        scoring: scores generated images; None for other tasks and for features=none.
        blocks: "default", "all", or a list as :func:`bigain.compress` takes it.
        sites: as :func:`bigain.compress` takes them.
        decide_on: one of `bigain.compression.DECIDE_ON`, or "default".
        seed: keys all randomness.
        dtype: of the denoiser.
        device: "auto", or a name as torch knows it.
        batch_size: evaluations per forward pass.
        smallest_batch: what smaller batches are padded to on a CPU.
        plans: one of `bigain.compression.sharing.PLANS`.
        compile: a mode of torch.compile, or None.
        results: the folder that everything is written to.
        start: how many of the first images are left out.
        limit: how many images are asked for; None for all.
    """

    names: Mapping[str, str]
    compressor: Compressor | None
    dataset: Dataset | None
    backbone: Backbone | None
    scoring: Scoring | None
    blocks: str | tuple[int, ...]
    sites: tuple[str, ...]
    decide_on: str
    seed: int
    dtype: torch.dtype
    device: str
    batch_size: int
    smallest_batch: int
    compile: str | None
    results: Path
    plans: str = "shared"
    start: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Work:
    """Images to compute, and all it takes.

    Attributes:
        run: where finished images go.
        ids: every image asked for, in order.
        todo: those of them that are left to compute.
        backbone: loaded.
        attachment: the compressor on the backbone; None without one.
        batch_size: evaluations per forward pass.
        smallest_batch: what smaller batches are padded to. Matrix products of fewer rows are summed
            in another order; without them, results in float32 do not depend on ``batch_size``.
        plans: one of `bigain.compression.sharing.PLANS`.
        title: of the progress bar.
        schema: of the rows; see `Task.schema`.
    """

    run: Run
    ids: Sequence[str]
    todo: Sequence[str]
    dataset: Dataset
    backbone: Backbone
    attachment: Attachment | None
    seed: int
    batch_size: int
    smallest_batch: int
    plans: str
    title: str
    schema: Mapping[str, str]

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store finished images, one row each.

        Raises:
            ValueError: if a row has other columns than the task's schema.
        """
        for row in rows:
            if row.keys() != self.schema.keys():
                raise ValueError(
                    f"the task's rows have the columns {sorted(self.schema)}, got {sorted(row)}"
                )
        self.run.append(rows)


class Task(ABC):
    """What is computed, and how its results are stored, printed and drawn.

    A task is a frozen dataclass whose fields are its protocol, and so a part of a run's
    fingerprint. All tasks are listed in `bigain.tasks.TASKS`; no other file asks which task
    it has in hand.

    Attributes:
        name: as in ``task=name``.
        needs: the groups of the configuration that it uses.
        schema: the columns of its rows in the store and their types (of Arrow); empty for a task
            that keeps no row per image, which then does all its work in `report`.
        searches: whether it runs jobs of other tasks and chooses among them, as
            `bigain.experiments.tuning` does; it then has no `report`.
        purpose: "classification" or "generation"; compressors may have different defaults for each.
        draws: whether it generates images of the data set's classes.
        watches: whether its rows tell what a compressor does inside the model.
        scored: whether features= scores its images.
        compares_classes: whether it compares the classes of one noisy image.
        compared: whether a compressed run is compared with the uncompressed one.
        compressed_only: fields that only a compressor gives a meaning; the uncompressed run that
            another is compared with has their defaults.
        panels: what a figure draws against costs; empty if it draws nothing.
        figures: the names of the figures that usually stand beside its table.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset({"model", "compressor", "dataset"})
    schema: ClassVar[Mapping[str, str]]
    searches: ClassVar[bool] = False
    purpose: ClassVar[str] = "classification"
    draws: ClassVar[bool] = False
    watches: ClassVar[bool] = False
    scored: ClassVar[bool] = False
    compares_classes: ClassVar[bool] = False
    compared: ClassVar[bool] = False
    compressed_only: ClassVar[frozenset[str]] = frozenset()
    panels: ClassVar[Sequence[Panel]] = ()
    figures: ClassVar[Sequence[str]] = ()

    @property
    def shares_noise(self) -> bool:
        """Whether samples of one forward have the same noisy image, so that one plan can serve."""
        return self.compares_classes

    def uncompressed(self) -> "Task":
        """The task of the uncompressed run that a compressed one is compared with."""
        own: Any = self
        usual = {f.name: f.default for f in fields(own) if f.name in self.compressed_only}
        found: Task = replace(own, **usual)
        return found

    # What it computes

    def report(self, setup: Setup) -> Run | None:
        """Do all the work of a task that keeps no row per image, and print what came out.

        Returns:
            The run that was added to, if any.
        """
        raise NotImplementedError(f"task={self.name} is computed image by image")

    def check(self, setup: Setup) -> None:  # noqa: B027 (most tasks accept every setup)
        """Refuse a setup that the task cannot use, with a BiGainError."""

    def revision(self, noise_schedule: Mapping[str, Any]) -> dict[str, Any]:
        """What a run's identity holds if its settings gave other results in earlier versions.

        Args:
            noise_schedule: the scheduler config that comes with the model.

        Raises:
            BiGainError: if the task cannot use the model's schedule.
        """
        return {}

    def ids(self, dataset: Dataset, limit: int | None) -> list[str]:
        """The images asked for; BiGainError if there are not so many."""
        raise NotImplementedError(f"task={self.name} keeps no rows of images")

    def unfinished(self, run: Run, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the run lacks."""
        finished = run.finished()
        return [i for i in ids if i not in finished]

    def anchor_share(
        self, every: int, classes: int, frame: pd.DataFrame | None = None
    ) -> float | None:
        """The share of anchors among an image's evaluations, for `bigain.Anchored`.

        Args:
            every: its number of sampling steps from one anchor to the next.
            classes: K.
            frame: the rows of finished images; None before there are any.

        Returns:
            The share, or None if it depends on the images and there is no ``frame``.

        Raises:
            BiGainError: if the task cannot be done with it.
        """
        raise BiGainError(
            f"task={self.name} cannot be done with an anchored compressor, only task=classify and "
            "task=generate can; choose the compressor that it holds"
        )

    def uncompressed_share(self, classes: int) -> float:
        """The share of an image's evaluations that leave the compressor out; classes: K."""
        return 0.0

    def evaluations(self, classes: int) -> int:
        """Evaluations of the denoiser per image of a data set with this many classes."""
        raise NotImplementedError(f"task={self.name} keeps no rows of images")

    def compute(self, work: Work) -> None:
        """Compute ``work.todo``, appending finished images to the run batch by batch."""
        raise NotImplementedError(f"task={self.name} keeps no rows of images")

    def finish(self, run: Run, ids: Sequence[str]) -> None:  # noqa: B027 (for most, rows are all)
        """Called once all of ``ids`` are there."""

    # What it says

    def spent(self, frame: pd.DataFrame) -> float:
        """Evaluations of the denoiser per image, the mean over the run's rows."""
        return float(frame["evaluations"].mean())

    @abstractmethod
    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        """Lines that say what came out, compared with the uncompressed run of the same images."""

    @classmethod
    def row(cls, title: str, found: Results, baseline: Results | None) -> Row:
        """One row of a table; what is not known is None.

        Args:
            title: the method's name.
            baseline: None if this is the baseline.

        Raises:
            BiGainError: if the baseline is of other images, or was scored otherwise.
        """
        return {"method": title}

    @classmethod
    def columns(cls, rows: Sequence[Row], metrics: Metrics, spent: bool = True) -> Columns | None:
        """The columns of ``rows``; None if the task has no table.

        Args:
            metrics: of images, in the order of their columns.
            spent: print the runs' time and memory, which depend on what else their machines did.
        """
        return None

    def numbers(self, found: Results, baseline: Results | None) -> Row:
        """A finished run in numbers, for services such as wandb.

        "n", "evaluations", "seconds" and "peak_memory_mib" have these names under every task.
        """
        frame = found.frame
        assert frame is not None
        costs = dict(found.cost or {})
        spent = {"evaluations": self.spent(frame), "seconds": float(frame["seconds"].median())}
        return {"n": len(frame), **spent, **costs}

    def images(self, frame: pd.DataFrame) -> pd.DataFrame | None:
        """A table with one row per image to show beside a run's numbers; None for none."""
        return None

    def pictures(self, run: Run, ids: Sequence[str], start: int) -> list[Any]:
        """Pictures of the run's images, (file or uint8 [H, W, 3], caption) each; may be empty."""
        return []

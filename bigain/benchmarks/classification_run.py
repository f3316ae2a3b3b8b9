"""A whole run of classification, from images to rows in the store, that can be repeated."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.benchmarks.methods import Method
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.experiments.runner import load, working


def configured(method: Method, model: str, own: DictConfig, device: torch.device) -> DictConfig:
    """The configuration of a task=classify run with the settings of a suite."""
    chosen = [f"model={model}", "task=classify", f"limit={own.images}", f"dtype={own.dtype}"]
    for key in ("samples", "keep"):
        chosen.append(f"task.{key}=[{','.join(map(str, own[key]))}]")
    return method.configured(*chosen, f"batch_size={own.batch_size}", f"device={device}")


class ClassificationRun:
    """A run whose weights are loaded once, and whose images are computed each time.

    Attributes:
        job: the configuration's job.
        backbone: the loaded backbone.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = settings_of(cfg)
        self.job = Job(self.settings)
        self.backbone: Any = load(self.job)

    @contextmanager
    def side(self) -> Iterator[Callable[[], None]]:
        """One side to time: a new run, in a folder that is removed afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            setup = replace(self.settings.setup, results=Path(folder))
            job = Job(replace(self.settings, setup=setup))
            with working(job, self.backbone, job.run(), job.ids, job.ids, "timed") as work:
                yield partial(job.task.compute, work)

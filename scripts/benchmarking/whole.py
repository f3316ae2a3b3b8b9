"""A whole run of classification, from images to rows in the store, again and again."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.attach import Attachment, compress
from bigain.compilation import compile_denoiser
from bigain.job import Job
from bigain.tasks.base import Work
from scripts.benchmarking.methods import Method


def configured(method: Method, model: str, own: DictConfig) -> DictConfig:
    """A run of task=classify, with the settings of a suite."""
    chosen = [f"model={model}", "task=classify", f"limit={own.images}", f"dtype={own.dtype}"]
    for key in ("samples", "keep"):
        chosen.append(f"task.{key}=[{','.join(map(str, own[key]))}]")
    return method.configured(*chosen, f"batch_size={own.batch_size}")


class Whole:
    """A configuration whose weights are loaded once, and whose images are computed each time.

    Attributes:
        backbone: loaded.
    """

    def __init__(self, cfg: DictConfig, device: torch.device) -> None:
        self.cfg = cfg
        job = Job(cfg)
        self.compressor, self.blocks, self.dataset = job.compressor, job.blocks, job.dataset
        self.backbone: Any = job.backbone.load(device, getattr(torch, cfg.dtype))
        if cfg.compile is not None:
            compile_denoiser(self.backbone.denoiser, cfg.compile)

    @contextmanager
    def attached(self) -> Iterator[Attachment | None]:
        if self.compressor is None:
            yield None
            return
        chosen = {"blocks": self.blocks, "sites": self.cfg.sites, "seed": self.cfg.seed}
        with compress(self.backbone.denoiser, self.compressor, **chosen) as attachment:
            yield attachment

    @contextmanager
    def side(self) -> Iterator[Callable[[], None]]:
        """A new run in a folder that is removed afterwards."""
        with tempfile.TemporaryDirectory() as folder, self.attached() as attachment:
            cfg = self.cfg.copy()
            cfg.results = folder
            Path(folder, "runs").mkdir()
            job = Job(cfg)
            work = Work(
                run=job.run(),
                ids=job.ids,
                todo=job.ids,
                dataset=job.dataset,
                backbone=self.backbone,
                attachment=attachment,
                seed=cfg.seed,
                batch_size=cfg.batch_size,
                title="timed",
            )
            yield partial(job.task.compute, work)

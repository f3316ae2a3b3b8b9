"""A configuration's objects and the run it belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bigain.backbones import Backbone
from bigain.compression.hooks import select_blocks
from bigain.compressors import Compressor
from bigain.datasets.base import Dataset
from bigain.errors import BiGainError
from bigain.experiments import configuration
from bigain.experiments.scores import scoring_of
from bigain.profiling.flops import Flops, count
from bigain.store.identity import fingerprint
from bigain.store.runs import Run
from bigain.tasks.base import Task
from bigain.tasks.scoring import Scoring

# Raised when the same configuration starts to give other numbers.
PROTOCOL = 1
# Keys of the configuration that cannot change a row: where, how and what for a command ran.
PASSING = {
    "results", "device", "batch_size", "compile", "start", "limit", "features", "evaluation",
    "logger", "experiment", "scale", "sweep", "shards", "shard",
}  # fmt: skip


class Job:
    """A configuration's objects, and the run it belongs to; no weights are loaded.

    Attributes:
        ids: the images asked for.
        blocks: the places compressed, sorted; empty without a compressor.
        scoring: of the images a task generates; None for other tasks, and with features=none.

    Raises:
        BiGainError: if the configuration or the data cannot be used.
    """

    def __init__(self, cfg: DictConfig) -> None:
        configuration.check(cfg)
        self.cfg = cfg
        self.compressor: Compressor | None = configuration.build(cfg, "compressor")
        self.task: Task = configuration.build(cfg, "task")
        paired = self.compressor is None or self.compressor.paired
        if not paired and cfg.task.name != "classify":
            raise BiGainError(
                f"{self.compressor!r} draws for each class, and only task=classify compares "
                "classes; set compressor.destinations=random"
            )
        self.dataset: Dataset = configuration.build(cfg, "dataset")
        self.backbone: Backbone = configuration.build(cfg, "model")
        self.scoring: Scoring | None = None
        if cfg.task.name == "generate" and cfg.features._target_ is not None:
            self.scoring = scoring_of(cfg)
        if cfg.start < 0:
            raise BiGainError(f"start must be at least 0, got {cfg.start}")
        if cfg.start and self.scoring is not None:
            raise BiGainError(
                f"start={cfg.start} leaves out the first images, and scores are of the first; "
                "remove start, or set features=none"
            )
        end = None if cfg.limit is None else cfg.start + cfg.limit
        self.ids = self.task.ids(self.dataset, end)[cfg.start :]
        if not self.ids:
            raise BiGainError(f"start={cfg.start} leaves no image; there are fewer")
        self._skeleton: Any = self.backbone.skeleton()
        self.blocks: list[int] = []
        if self.compressor is not None:
            with self._blamed():
                selected = select_blocks(self._skeleton, self._named)
                self.blocks = sorted({block.place for block in selected})

    @cached_property
    def flops(self) -> Flops | None:
        """Of one evaluation, None if they depend on the data.

        Raises:
            BiGainError: if the compressor does not fit the model, which a forward on the meta
                device finds out; ask before loading weights.
        """
        if self.compressor is None:
            return count(self._skeleton)
        with self._blamed():
            return count(self._skeleton, self.compressor, blocks=self._named, sites=self.cfg.sites)

    @property
    def _named(self) -> Any:
        blocks = self.cfg.blocks
        return blocks if isinstance(blocks, str) else list(blocks)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise BiGainError(f"compressor={self.cfg.compressor.name}: {error}") from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that can change a result, less what stands at its default.

        The images asked for are no part of it, nor is how they are computed.
        """
        compression = None
        if self.compressor is not None:
            compression = {
                "compressor": configuration.plain(self.compressor),
                "blocks": self.blocks,
                **_chosen({"sites": sorted(self.cfg.sites)}),
            }
        return {
            "protocol": PROTOCOL,
            "model": self.backbone.identity(),
            "compression": compression,
            "dataset": self.dataset.identity(),
            "task": configuration.plain(self.task),
            **_chosen({"seed": self.cfg.seed, "dtype": self.cfg.dtype}),
        }

    @property
    def _root(self) -> Path:
        return Path(self.cfg.results) / "runs"

    @property
    def _prefix(self) -> str:
        return "-".join(self.cfg[g].name for g in ("task", "model", "dataset", "compressor"))

    @property
    def run_path(self) -> Path:
        """The run's folder, there or not."""
        return self._root / f"{self._prefix}-{fingerprint(self.identity)}"

    def run(self) -> Run:
        """The run, its folder made if it is new.

        Raises:
            BiGainError: if the compressor does not fit the model; no folder is made.
        """
        _ = self.flops
        settings = OmegaConf.to_container(self.cfg)
        assert isinstance(settings, dict)
        kept = {str(k): v for k, v in settings.items() if k not in PASSING}
        return Run.create(self._root, self._prefix, self.identity, kept)

    def uncompressed(self) -> "Job":
        """The same without a compressor."""
        plain = self.cfg.copy()
        plain.compressor = {"name": "none", "_target_": None}
        return Job(plain)


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of ``settings`` that differ from their defaults in `configuration.Config`."""
    usual = configuration.Config()
    return {key: value for key, value in settings.items() if value != getattr(usual, key)}

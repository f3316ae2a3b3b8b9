"""A configuration's objects and the run it belongs to."""

from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bigain import config
from bigain.attach import select_blocks
from bigain.backbones import Backbone
from bigain.compressors import Compressor
from bigain.datasets.base import Dataset
from bigain.errors import BiGainError
from bigain.metrics import flops
from bigain.results.store import Run, fingerprint
from bigain.scoring import Scoring
from bigain.tasks.base import Task

# Raised when the same configuration starts to give other numbers.
PROTOCOL = 1


class Job:
    """A configuration's objects, and the run it belongs to; no weights are loaded.

    Attributes:
        ids: the images asked for.
        blocks: the places compressed, sorted; empty without a compressor.
        flops: of one evaluation, None if they depend on the data.
        scoring: of the images a task generates; None for other tasks, and with features=none.

    Raises:
        BiGainError: if the configuration or the data cannot be used, or the compressor does not
            fit the model.
    """

    def __init__(self, cfg: DictConfig) -> None:
        config.check(cfg)
        self.cfg = cfg
        self.compressor: Compressor | None = config.build(cfg, "compressor")
        self.task: Task = config.build(cfg, "task")
        self.dataset: Dataset = config.build(cfg, "dataset")
        self.backbone: Backbone = config.build(cfg, "model")
        self.scoring: Scoring | None = None
        if cfg.task.name == "generate" and cfg.features._target_ is not None:
            self.scoring = Scoring(cfg)
        self.ids = self.task.ids(self.dataset, cfg.limit)
        skeleton: Any = self.backbone.skeleton()
        self.blocks: list[int] = []
        if self.compressor is None:
            self.flops = flops.count(skeleton)
            return
        try:
            named = cfg.blocks if isinstance(cfg.blocks, str) else list(cfg.blocks)
            self.blocks = sorted({block.place for block in select_blocks(skeleton, named)})
            # a forward on the meta device, which any misfit breaks
            self.flops = flops.count(skeleton, self.compressor, blocks=named, sites=cfg.sites)
        except ValueError as error:
            raise BiGainError(f"compressor={cfg.compressor.name}: {error}") from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that can change a result; not the images asked for, nor how they are computed."""
        compression = None
        if self.compressor is not None:
            compression = {
                "compressor": config.plain(self.compressor),
                "blocks": self.blocks,
                "sites": sorted(self.cfg.sites),
            }
        return {
            "protocol": PROTOCOL,
            "model": self.backbone.identity(),
            "compression": compression,
            "dataset": self.dataset.identity(),
            "task": config.plain(self.task),
            "seed": self.cfg.seed,
            "dtype": self.cfg.dtype,
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
        """The run, its folder made if it is new."""
        settings = OmegaConf.to_container(self.cfg)
        assert isinstance(settings, dict)
        where = {"results", "device", "batch_size", "limit", "features", "evaluation"}
        kept = {str(k): v for k, v in settings.items() if k not in where}
        return Run.create(self._root, self._prefix, self.identity, kept)

    def uncompressed(self) -> "Job":
        """The same without a compressor."""
        plain = self.cfg.copy()
        plain.compressor = {"name": "none", "_target_": None}
        return Job(plain)

"""A configuration's objects and the run it belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bigain.backbones.scheduler_config import timesteps
from bigain.compression import architecture_of, select_blocks
from bigain.compression.checks import decide_on
from bigain.compression.sharing import shares_plans
from bigain.compressors import Compressor
from bigain.errors import BiGainError
from bigain.experiments.configuration import Settings
from bigain.experiments.schema import Config
from bigain.experiments.scoring_settings import metric_kinds
from bigain.profiling.flops import Flops, UncountableError, count
from bigain.store.identity import fingerprint, plain
from bigain.store.runs import Run
from bigain.tasks.columns import Results

# Raised when the same configuration starts to give other numbers.
PROTOCOL = 1


class Job:
    """A configuration's objects, and the run it belongs to; no weights are loaded.

    Attributes:
        settings: what it was made from; ``task``, ``setup``, ``dataset``, ``backbone`` and
            ``scoring`` are parts of it.
        ids: the images asked for.
        skeleton: the denoiser on the meta device.
        blocks: the places compressed, sorted; empty without a compressor.
        decide_on: the tokens that the compressor looks at, "block_input" or "attention_input".

    Raises:
        BiGainError: if the configuration or the data cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.task, self.setup = settings.task, settings.setup
        setup = self.setup
        assert setup.dataset is not None and setup.backbone is not None  # see Task.needs
        self.dataset, self.backbone, self.scoring = setup.dataset, setup.backbone, setup.scoring
        if setup.start and self.scoring is not None:
            raise BiGainError(
                f"start={setup.start} leaves out the first images, and scores are of the first; "
                "remove start, or set features=none"
            )
        self.ids = self._ids(setup.start, setup.limit)
        self.skeleton: Any = self.backbone.skeleton()
        self.blocks: list[int] = []
        self.decide_on = "block_input"
        if setup.compressor is not None:
            with self._blamed():
                selected = select_blocks(self.skeleton, setup.blocks)
                self.blocks = sorted({block.place for block in selected})
                self.decide_on = decide_on(
                    setup.decide_on, architecture_of(self.skeleton), selected
                )

    def _ids(self, start: int, limit: int | None) -> list[str]:
        """The images asked for.

        Raises:
            BiGainError: if there are not so many.
        """
        if not start or (limit is not None and limit < 1):
            return self.task.ids(self.dataset, limit)
        end = None if limit is None else start + limit
        try:
            found = self.task.ids(self.dataset, end)[start:]
        except BiGainError:
            found = []
        if not found:
            n = len(self.task.ids(self.dataset, None))
            asked = f"start={start}" if limit is None else f"start={start} with limit={limit}"
            raise BiGainError(
                f"{asked} goes beyond the last image, which is number {n - 1}, counted from 0; "
                f"lower {'start' if limit is None or start >= n else 'limit'}"
            )
        return found

    @cached_property
    def compressor(self) -> Compressor | None:
        """The compressor, with what depends on the model's noise schedule filled in."""
        found = self.setup.compressor
        return None if found is None else found.scheduled(timesteps(self._noise_schedule))

    @cached_property
    def _model(self) -> dict[str, Any]:
        """The model's identity, which takes a look at all of its weights."""
        return self.backbone.identity()

    @property
    def _noise_schedule(self) -> dict[str, Any]:
        found: dict[str, Any] = self._model["scheduler"]
        return found

    @cached_property
    def flops(self) -> Flops | None:
        """FLOPs of one evaluation; None if they depend on the data.

        Raises:
            BiGainError: if the compressor does not fit the model, which a forward on the meta
                device finds out; ask before loading weights.
        """
        return self._flops(None)

    def flops_spent(self, run: Run) -> Flops | None:
        """FLOPs of one evaluation, the mean over what the run has finished; None as of `flops`."""
        compressor = self.setup.compressor
        if self.flops is not None or compressor is None or compressor.anchor_every is None:
            return self.flops
        rows = run.rows()
        return None if rows.empty else self._flops(rows)

    def _flops(self, frame: pd.DataFrame | None) -> Flops | None:
        """FLOPs of one evaluation, with anchors at their share in ``frame``, or as expected."""
        compressor = self.setup.compressor  # its costs depend on no noise schedule
        where = {"blocks": self.setup.blocks, "sites": self.setup.sites}
        classes = len(self.dataset.classes)
        uncompressed = self.task.uncompressed_share(classes)
        with self._blamed():
            if compressor is None:
                if uncompressed:
                    raise ValueError(
                        "task.decide_with=uncompressed needs a compressor; set one, or remove it"
                    )
                return count(self.skeleton)
            share, every = None, compressor.anchor_every
            if every is not None:
                share = self.task.anchor_share(every, classes, frame)
            found = count(self.skeleton, compressor, anchor_share=share, **where)
            if found is None or (every is not None and share is None):
                return None
            if not uncompressed:
                return found
            whole = count(self.skeleton)
            return None if whole is None else found.mixed(whole, uncompressed)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Turn a ValueError into an error that names the model or the compressor."""
        try:
            yield
        except UncountableError as error:
            raise BiGainError(f"model={self.setup.names['model']}: {error}") from error
        except ValueError as error:
            raise BiGainError(f"compressor={self.setup.names['compressor']}: {error}") from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that can change a result, less what stands at its default.

        The images asked for are no part of it, nor is how they are computed.
        """
        compression = None
        if self.compressor is not None:
            compression = {
                "compressor": plain(self.compressor),
                "blocks": self.blocks,
                **_chosen({"sites": sorted(self.setup.sites)}),
                **self._decision,
            }
        return {
            "protocol": PROTOCOL,
            "model": self._model,
            "compression": compression,
            "dataset": self.dataset.identity(),
            "task": {**plain(self.task), **self.task.revision(self._noise_schedule)},
            **_chosen(
                {
                    "seed": self.setup.seed,
                    "dtype": str(self.setup.dtype).removeprefix("torch."),
                }
            ),
        }

    @property
    def _decision(self) -> dict[str, str]:
        """Which tokens decide, where that is not each sample's block input and matters."""
        found: dict[str, str] = {}
        if self.compressor is None:
            return found
        if self.decide_on != "block_input" and self.compressor.content_dependent:
            found["decide_on"] = self.decide_on
        together = self.task.shares_noise and shares_plans(self.compressor)
        if self.setup.plans == "shared" and together:
            found["plans"] = "shared"
        return found

    @property
    def _root(self) -> Path:
        return self.setup.results / "runs"

    @property
    def _prefix(self) -> str:
        return "-".join(self.setup.names[g] for g in ("task", "model", "dataset", "compressor"))

    @property
    def run_path(self) -> Path:
        """The run's folder, whether or not it exists."""
        return self._root / f"{self._prefix}-{fingerprint(self.identity)}"

    def run(self) -> Run:
        """The run, its folder made if it is new.

        Raises:
            BiGainError: if the compressor does not fit the model; no folder is made.
        """
        _ = self.flops
        return Run.create(self._root, self._prefix, self.identity, self.settings.recorded)

    def results(self) -> Results:
        """What the store holds of the images asked for.

        Raises:
            MissingImagesError: if the run lacks some of them.
            BiGainError: if there is no run, or it is damaged.
        """
        run = Run.open(self.run_path)
        frame = run.require(self.ids)
        scores = self.scoring.read(run, len(self.ids)) if self.scoring else None
        return Results.of(run, frame, scores, metric_kinds())

    def uncompressed(self) -> "Job":
        """The same job without a compressor."""
        return Job(self.settings.uncompressed())


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from their defaults in `schema.Config`."""
    usual = Config()
    return {key: value for key, value in settings.items() if value != getattr(usual, key)}

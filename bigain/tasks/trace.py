"""What a compressor does inside the model: which tokens it joins, which frequencies survive.

Each image is noised to a few timesteps and denoised once at each, as its first label.
`bigain.tasks.trace_rows` says how the rows are laid out; the figures of `bigain.reporting.maps` and
`bigain.reporting.retention` are drawn from them alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.backbones.base import Backbone
from bigain.backbones.scheduler_config import timesteps
from bigain.compression import Attachment
from bigain.compression.batch_groups import padded
from bigain.datasets.base import Dataset, labelled, select
from bigain.errors import BiGainError, NotFiniteError
from bigain.metrics.spectrum import coherence, retention
from bigain.tasks.base import Setup, Task, Work
from bigain.tasks.trace_rows import SCHEMA, spectra
from bigain.tasks.watching import Look, fields_of, watching
from bigain.utils.images import pixels
from bigain.utils.progress import Progress
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import fits

MOST_BANDS = 1000
SIDE = 256  # pixels of an image's longer side in the store, at most


@dataclass(frozen=True)
class Trace(Task):
    """Where to look, and how finely.

    Args:
        timesteps: places in the model's training schedule, from its lowest noise level.
        bands: of spatial frequency up to half a cycle per token.
    """

    name: ClassVar[str] = "trace"
    schema: ClassVar[Mapping[str, str]] = SCHEMA
    watches: ClassVar[bool] = True

    timesteps: Sequence[int] = (125, 525, 925)
    bands: int = 8

    def __post_init__(self) -> None:
        times = list(self.timesteps)
        whole = all(fits(t, int) and t >= 0 for t in times)
        if not times or not whole or len(set(times)) < len(times):
            raise ValueError(f"Trace: timesteps must be distinct whole numbers from 0, got {times}")
        if not fits(self.bands, int) or self.bands < 1:
            raise ValueError(f"Trace: bands must be a whole number from 1, got {self.bands!r}")
        if self.bands > MOST_BANDS:
            raise ValueError(
                f"Trace: bands must be at most {MOST_BANDS}, as every row keeps each of them for "
                f"every block; got {self.bands}"
            )

    def revision(self, noise_schedule: Mapping[str, Any]) -> dict[str, Any]:
        self.check_times(timesteps(noise_schedule))  # before the model is loaded
        return {}

    def check_times(self, length: int) -> None:
        """Refuse timesteps beyond a schedule of this length, with a BiGainError."""
        if max(self.timesteps) >= length:
            raise BiGainError(
                f"task.timesteps asks for t={max(self.timesteps)} of a schedule of {length}; "
                f"the last is {length - 1}"
            )

    def evaluations(self, classes: int) -> int:
        return len(self.timesteps)

    def ids(self, dataset: Dataset, limit: int | None) -> list[str]:
        return select(labelled(dataset), limit)

    def check(self, setup: Setup) -> None:
        if setup.compressor is None:
            raise BiGainError(
                "task=trace records what a compressor does, and compressor=none does nothing; "
                "choose one, as in compressor=lgtm"
            )

    def compute(self, work: Work) -> None:
        condition = work.backbone.condition(work.dataset)
        position = {image_id: i for i, image_id in enumerate(work.dataset.ids())}
        done = len(work.ids) - len(work.todo)
        assert work.attachment is not None  # `check` refuses to go on without one
        with Progress(work.title, len(work.ids), done, len(self.timesteps)) as progress:
            for start in range(0, len(work.todo), work.batch_size):
                ids = work.todo[start : start + work.batch_size]
                began = time.perf_counter()
                examples = [work.dataset[position[i]] for i in ids]
                images = torch.stack([e.image for e in examples])
                places = padded(len(ids), work.smallest_batch)
                conditions = condition[[e.labels[0] for e in examples]]
                found = trace(
                    work.backbone,
                    self,
                    work.backbone.encode(images)[places],
                    conditions[places],
                    [ids[i] for i in places],
                    work.seed,
                    work.attachment,
                    partial(progress.evaluated, len(ids)),
                )[: len(ids)]
                seconds = (time.perf_counter() - began) / len(ids)
                shown = pixels(shrink(images))
                work.append(
                    [
                        {
                            "image_id": example.id,
                            "labels": list(example.labels),
                            "evaluations": len(self.timesteps),
                            "seconds": seconds,
                            **row,
                            "image": image.flatten().tolist(),
                            "image_shape": list(image.shape),
                        }
                        for example, row, image in zip(examples, found, shown, strict=True)
                    ]
                )
                progress.finished(len(ids))

    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        first = frame.iloc[0]
        lines = [f"{len(frame)} images at t = {', '.join(map(str, first['timesteps']))}"]
        # the mean, band 0, would hide all else
        halves = {"low": slice(1, 1 + self.bands // 2), "high": slice(1 + self.bands // 2, None)}
        for f, field in enumerate(first["fields"]):
            words = []
            for name, part in halves.items():
                sums = [values[..., f, part].sum(-1) for values in spectra(frame)]
                same, power = np.nanmean(coherence(*sums)), np.nanmean(retention(*sums[:2]))
                words.append(f"{name} {same:.3f} (power {power:.3f})")
            lines.append(f"coherence of {field.replace('_', ' and ')}: {', '.join(words)}")
        return lines


@torch.inference_mode()
def trace(
    backbone: Backbone,
    protocol: Trace,
    latents: Tensor,
    condition: Tensor,
    ids: Sequence[str],
    seed: int,
    attachment: Attachment,
    evaluated: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Run B images once at each timestep and watch the compressed blocks.

    Args:
        latents: float32 [B, c, h, w].
        condition: one row per image, [B, ...].
        ids: of the images; with ``seed`` and the timestep they key noise and compressor.
        evaluated: is called after each timestep.

    Returns:
        The columns of each image's row that come from the model.

    Raises:
        BiGainError: if a timestep is not of the model's schedule.
        NotFiniteError: if the model returns NaN or infinity.
    """
    schedule = backbone.schedule
    protocol.check_times(len(schedule))
    device = latents.device
    attachment.sample_keys = KeyedStream.of(seed, "image", ids, device).keys
    noise = KeyedStream.of(seed, "noise", ids, device)
    looks: list[list[Look]] = []
    for step in protocol.timesteps:
        t = schedule.timesteps([step] * len(latents))
        x = schedule.noised(latents, noise.fork(t).normal(*latents.shape[1:]), t)
        with watching(attachment, protocol.bands, latents.shape[-2], latents.shape[-1]) as seen:
            predicted = backbone.predict(x, t, condition)
        if not predicted.isfinite().all():
            raise NotFiniteError
        looks.append(seen)
        evaluated()
    blocks = attachment.blocks
    grids = [look.grid for look in looks[0]]
    about = {
        "timesteps": list(protocol.timesteps),
        "blocks": [block.place for block in blocks],
        "heights": [grid.height for grid in grids],
        "widths": [grid.width for grid in grids],
        "fields": fields_of(attachment.compressor),
        "pruned": all(look.pruned for seen in looks for look in seen),
    }
    lists = {
        name: torch.cat([getattr(look, name).flatten(1) for seen in looks for look in seen], 1)
        for name in ("slots", "roles", "before", "after", "product")
    }
    return [
        {**about, **{name: values[b].tolist() for name, values in lists.items()}}
        for b in range(len(ids))
    ]


def shrink(images: Tensor) -> Tensor:
    """Images [B, C, H, W] shrunk to at most `SIDE`."""
    longer = max(images.shape[-2:])
    if longer <= SIDE:
        return images
    height, width = (max(1, round(side * SIDE / longer)) for side in images.shape[-2:])
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)

"""Images drawn by a diffusion model, each keyed by (seed, index).

The same image comes out in any batch, order, shard or process, so runs resume and methods are
compared on the same noise.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bigain.backbones import EVERY_SAMPLER, SPACINGS, Backbone, check_sampler
from bigain.compression.batch_groups import Groups, padded
from bigain.compression.sharing import Sharing
from bigain.datasets.base import Dataset
from bigain.errors import BiGainError, NotFiniteError
from bigain.store.run_images import ARCHIVED, MOST, files, first_ids, folder
from bigain.store.runs import Run
from bigain.tasks.base import Task, Work
from bigain.tasks.columns import Columns, Metrics, Panel, Results, Row
from bigain.tasks.generate_columns import PANEL, generation_columns, generation_row
from bigain.utils.images import (
    FINGERPRINT,
    IMAGE_ID,
    PROMPT,
    pixels,
    read_image,
    write_png,
    write_sheet,
)
from bigain.utils.progress import Progress
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice, fits

SHEET = 64  # images on the contact sheet


@dataclass(frozen=True)
class Generate(Task):
    """One image for each image of the data set, of its class.

    Args:
        sampler: "ddim", "ddpm", "euler", "dpmsolver++" or "unipc"; for models of flow matching
            "flow_euler".
        steps: of the sampler.
        guidance: g of classifier-free guidance, u + g (c - u) for the predictions u without and c
            with the class (Ho and Salimans 2022); 1 is none, and saves half of the evaluations.
        spacing: of the timesteps: "leading", "linspace", "trailing", or None for the model's own.
    """

    name: ClassVar[str] = "generate"
    schema: ClassVar[Mapping[str, str]] = {
        "image_id": "string",
        "label": "int64",
        "prompt": "string",
        "evaluations": "int64",
        "seconds": "double",
    }
    purpose: ClassVar[str] = "generation"
    draws: ClassVar[bool] = True
    scored: ClassVar[bool] = True
    compared: ClassVar[bool] = True
    panels: ClassVar[Sequence[Panel]] = (PANEL,)
    figures: ClassVar[Sequence[str]] = ("samples",)

    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 4.0
    spacing: str | None = None

    def __post_init__(self) -> None:
        check_choice("Generate", "sampler", self.sampler, EVERY_SAMPLER)
        if self.spacing is not None and self.spacing not in SPACINGS:
            raise ValueError(
                f"Generate: spacing must be null or one of {', '.join(SPACINGS)}; "
                f"got {self.spacing!r}"
            )
        if not fits(self.steps, int) or self.steps < 1:
            raise ValueError(f"Generate: steps must be a whole number from 1, got {self.steps!r}")
        if not fits(self.guidance, float) or self.guidance < 0:
            raise ValueError(f"Generate: guidance must be at least 0, got {self.guidance!r}")

    def revision(self, noise_schedule: Mapping[str, Any]) -> dict[str, Any]:
        schedule = json.dumps(noise_schedule, sort_keys=True)
        found = _corrected(self.sampler, schedule, self.steps, self.spacing)
        return {"levels": "listed"} if found else {}

    @property
    def passes(self) -> int:
        """Forward passes per step."""
        return 1 if self.guidance == 1 else 2

    @property
    def shares_noise(self) -> bool:
        return self.passes > 1

    def evaluations(self, classes: int) -> int:
        return self.steps * self.passes

    def anchor_share(self, every: int, classes: int, frame: pd.DataFrame | None = None) -> float:
        return -(-self.steps // every) / self.steps

    def ids(self, dataset: Dataset, limit: int | None) -> list[str]:
        """Indices as text; past the data set's end its classes come again in the same order."""
        if limit is not None and not 1 <= limit <= MOST:
            raise BiGainError(
                f"limit must lie in 1..{MOST}, with start counted in, as the ids of images have "
                f"six digits; got {limit}"
            )
        return first_ids(len(dataset) if limit is None else limit)

    def unfinished(self, run: Run, ids: Sequence[str]) -> list[str]:
        """Also an image whose file has gone since, unless it was archived."""
        there = {path.stem for path in folder(run).glob("*.png")}
        there.update(first_ids((run.read_record(ARCHIVED) or {"images": 0})["images"]))
        there &= run.finished()
        return [i for i in ids if i not in there]

    def compute(self, work: Work) -> None:
        places = [int(i) % len(work.dataset) for i in work.todo]
        known = work.run.finished()
        folder(work.run).mkdir(exist_ok=True)
        size = max(1, work.batch_size // self.passes)
        done = len(work.ids) - len(work.todo)
        schedule, cpu = work.backbone.schedule, torch.device("cpu")
        sampler = schedule.sampler(self.sampler, self.steps, self.spacing, cpu)
        each = len(sampler.timesteps) * self.passes
        with (
            Progress(work.title, len(work.ids), done, each) as progress,
            Sharing(work.backbone.denoiser, work.attachment, work.plans) as sharing,
        ):
            for start in range(0, len(work.todo), size):
                ids, indices = work.todo[start : start + size], places[start : start + size]
                began = time.perf_counter()
                images, evaluations = generate(
                    work.backbone,
                    self,
                    work.backbone.condition_images(work.dataset, indices),
                    ids,
                    work.seed,
                    sharing,
                    work.smallest_batch,
                    progress.evaluated,
                )
                prompts = [work.dataset.prompt(i) for i in indices]
                # that of an image without labels, as some of COCO's, is -1
                labels = [next(iter(work.dataset.labels(i)), -1) for i in indices]
                for image_id, prompt, image in zip(ids, prompts, images, strict=True):
                    about = {
                        FINGERPRINT: work.run.fingerprint,
                        IMAGE_ID: image_id,
                        PROMPT: prompt,
                    }
                    write_png(folder(work.run) / f"{image_id}.png", image, about)
                seconds = (time.perf_counter() - began) / len(ids)
                rows = [
                    {
                        "image_id": image_id,
                        "label": label,
                        "prompt": prompt,
                        "evaluations": evaluations,
                        "seconds": seconds,
                    }
                    for image_id, label, prompt in zip(ids, labels, prompts, strict=True)
                ]
                work.append([row for row in rows if row["image_id"] not in known])
                progress.finished(len(ids))

    def finish(self, run: Run, ids: Sequence[str]) -> None:
        """Write the contact sheet of the run's first images, whichever were asked for."""
        paths = list(takewhile(Path.exists, files(run, first_ids(SHEET))))
        if paths:  # else they are archived, with their sheet
            write_sheet(run.path / "sheet.png", [read_image(path) for path in paths])

    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        return [f"{len(frame)} images"]

    @classmethod
    def row(cls, title: str, found: Results, baseline: Results | None) -> Row:
        other = baseline.scores if baseline else None
        return generation_row(
            title,
            found.metrics,
            found.frame,
            found.scores,
            other,
            found.cost,
            found.fingerprint,
            found.conditions,
        )

    @classmethod
    def columns(cls, rows: Sequence[Row], metrics: Metrics, spent: bool = True) -> Columns:
        return generation_columns(rows, metrics, spent)

    def numbers(self, found: Results, baseline: Results | None) -> Row:
        row = self.row(self.name, found, baseline)
        row = {key.removeprefix("generate_"): value for key, value in row.items()}
        row.pop("conditions", None)
        return {"n": row.pop("generated"), **row}

    def images(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[["image_id", "label", "prompt", "seconds"]]

    def pictures(self, run: Run, ids: Sequence[str], start: int) -> list[Any]:
        """The images with their prompts, or what the contact sheet still shows of them."""
        paths = files(run, ids)
        shown: Sequence[Path | np.ndarray] = paths
        if not all(path.exists() for path in paths):
            # the sheet is of the run's first images, be they more or fewer than these
            shown = run.sheet()[start:]
        return list(zip(shown, run.require(ids)["prompt"], strict=False))


@cache  # a table's jobs share a few samplers, and each takes a moment to build
def _corrected(sampler: str, noise_schedule: str, steps: int, spacing: str | None) -> bool:
    return check_sampler(sampler, json.loads(noise_schedule), steps, spacing)


@torch.inference_mode()
def generate(
    backbone: Backbone,
    protocol: Generate,
    condition: Tensor,
    ids: Sequence[str],
    seed: int,
    sharing: Sharing | None = None,
    smallest_batch: int = 1,
    evaluated: Callable[[int], None] = lambda count: None,
) -> tuple[list[np.ndarray], int]:
    """Draw one image for each row of ``condition`` [B, ...].

    Args:
        ids: of the images; with ``seed`` they key all randomness.
        sharing: on the backbone, and told each image's key; without it nothing is shared.
        smallest_batch: images to which smaller batches are padded.
        evaluated: is told of evaluations as they are computed.

    Returns:
        B images, uint8 [H, W, C], and the evaluations each took.

    Raises:
        NotFiniteError: if the model returns NaN or infinity.
    """
    device, drawn = condition.device, len(ids)
    # both halves of guidance share work that is done once per image, so images are what counts
    places = padded(drawn, smallest_batch)
    ids, condition = [ids[i] for i in places], condition[places]
    sampler = backbone.schedule.sampler(protocol.sampler, protocol.steps, protocol.spacing, device)
    # for samplers that add noise: diffusers draws each sample's from its own generator, step by
    # step, and on the CPU whatever the device
    seeds = KeyedStream.of(seed, "sampler", ids).keys.tolist()
    generators = [torch.Generator().manual_seed(one) for one in seeds]
    noisy = {"generator": generators} if protocol.sampler == "ddpm" else {}
    x = KeyedStream.of(seed, "latent", ids, device).normal(*backbone.latent_shape)
    x = x * sampler.init_noise_sigma
    guided = protocol.passes == 2
    if guided:
        condition = torch.cat([condition, backbone.unconditional().expand_as(condition)])
    if sharing is not None:  # all steps are of the same samples
        sharing.conditions(condition)
        keys = KeyedStream.of(seed, "image", ids, device).keys.repeat(protocol.passes)
        groups = Groups.copies(len(ids), 2, device) if guided else None
        classes = torch.arange(len(condition), device=device)
        condition = sharing.batch(classes, groups, keys, groups)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for t in sampler.timesteps:
        inputs = torch.cat([sampler.scale_model_input(x, t)] * protocol.passes)
        predicted = backbone.predict(inputs, t.expand(len(inputs)), condition)
        finite &= predicted.isfinite().all()  # before the sampler can clip infinity away
        if guided:
            with_class, without = predicted.chunk(2)
            predicted = without + protocol.guidance * (with_class - without)
        x = sampler.step(predicted, t, x, return_dict=False, **noisy)[0]
        evaluated(drawn * protocol.passes)
    if not finite:  # the first wait for the device
        raise NotFiniteError
    images = backbone.decode(x[:drawn])
    if not images.isfinite().all():
        raise NotFiniteError
    return list(pixels(images)), len(sampler.timesteps) * protocol.passes

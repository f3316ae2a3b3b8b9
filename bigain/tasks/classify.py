"""Zero-shot classification by denoising error (Li et al. 2023, arXiv 2303.16203).

error(c) = mean over s of loss(eps_s, eps_theta(x_{t_s}, c, t_s)) with the same (t_s, eps_s) for
every class. A model of flow matching predicts the velocity eps_s - x_0 in place of the noise eps_s.
Timesteps may be weighted, as in Clark and Jaini (2023, arXiv 2303.15233).
Which classes are left is decided after each of a few stages (`bigain.tasks.stages`), or in a race
after every timestep (`bigain.tasks.racing`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bigain.backbones.base import Backbone
from bigain.backbones.schedule import Schedule
from bigain.backbones.scheduler_config import timesteps
from bigain.compression.sharing import Sharing
from bigain.datasets.base import Dataset, labelled, select
from bigain.errors import BiGainError
from bigain.metrics.accuracy import hits, paired, top1
from bigain.metrics.ranking import mean
from bigain.tasks.base import Task, Work
from bigain.tasks.classify_columns import (
    PANEL,
    accuracy_columns,
    accuracy_row,
    precisions,
    several_labels,
)
from bigain.tasks.columns import Columns, Metrics, Panel, Results, Row
from bigain.tasks.racing import Track, order
from bigain.tasks.stages import Stages
from bigain.tasks.trials import LOSSES, Prepared, keyed_noise, rows
from bigain.utils.prefetch import prefetch
from bigain.utils.progress import Progress
from bigain.utils.setting_types import check_choice

STRATEGIES = ("staged", "race")
DECIDERS = ("compressed", "uncompressed")
KEEP = (5, 1)
AGREEMENT = 0.99


@dataclass(frozen=True)
class Classify(Task):
    """The protocol.

    Args:
        samples: timesteps of each stage, spread evenly over the grid, of which the last stage
            takes all; those tried before are not tried again. Each must divide the last. A race
            takes at most as many as the last stage, with the noise that each has there.
        keep: classes that remain after each stage; the last is 1, the prediction. A race has none.
        loss: "l2", "l1" or "huber", averaged over the latent; or "norm", the square root of l2.
        strategy: "staged" or "race".
        agreement: of a race, the wanted share of images that get the answer that all timesteps for
            all classes would give.
        decide_with: "compressed", or "uncompressed" for a cascade: the compressor chooses the
            classes of the last stage, and without it this stage decides by its own timesteps
            alone. Rows hold the trials of both, and a finalist's error is that of the last stage.
        weights: one per timestep of the last stage, from the cleanest to the noisiest; null weighs
            all equally. Each error is multiplied by its weight over the mean weight.
            ``python -m bigain.reporting weights`` finds them.
    """

    name: ClassVar[str] = "classify"
    schema: ClassVar[Mapping[str, str]] = {
        "image_id": "string",
        "labels": "list<int64>",
        "prediction": "int64",
        "errors": "list<double>",
        "samples": "list<int64>",
        "trials": "list<double>",
        "seconds": "double",
    }
    compares_classes: ClassVar[bool] = True
    compared: ClassVar[bool] = True
    compressed_only: ClassVar[frozenset[str]] = frozenset({"decide_with"})
    panels: ClassVar[Sequence[Panel]] = (PANEL,)

    samples: Sequence[int] = (5, 20)
    keep: Sequence[int] = KEEP
    loss: str = "l2"
    strategy: str = "staged"
    agreement: float = AGREEMENT
    decide_with: str = "compressed"
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self._check_stages()
        self._check_weights()
        check_choice("Classify", "loss", self.loss, tuple(LOSSES))
        check_choice("Classify", "strategy", self.strategy, STRATEGIES)
        check_choice("Classify", "decide_with", self.decide_with, DECIDERS)
        if self.cascade and (self.strategy == "race" or len(self.samples) == 1):
            raise ValueError(
                "Classify: decide_with=uncompressed needs a last stage that decides among the "
                "classes which earlier ones leave; set strategy=staged with at least two stages, "
                f"got strategy={self.strategy} with samples={list(self.samples)}"
            )
        if not 0 < self.agreement < 1:
            raise ValueError(
                "Classify: agreement must lie between 0 and 1, such as 0.99 for 99% of the "
                f"images; got {self.agreement}"
            )
        # they would make another run of the same results
        if self.strategy == "race" and list(self.keep) != list(KEEP):
            raise ValueError(
                f"Classify: a race decides by itself which classes to keep; leave keep at "
                f"{list(KEEP)}, or set strategy=staged; got keep={list(self.keep)}"
            )
        if self.strategy == "staged" and self.agreement != AGREEMENT:
            raise ValueError(
                "Classify: stages keep as many classes as keep says, whatever the agreement; "
                f"remove agreement, or set strategy=race; got agreement={self.agreement}"
            )

    def _check_stages(self) -> None:
        samples, keep = list(self.samples), list(self.keep)
        if self.strategy == "race":
            keep = list(range(len(samples), 0, -1))  # as good as any
        if not samples or len(samples) != len(keep):
            raise ValueError(
                f"Classify: samples and keep need one entry per stage, got {samples} and {keep}"
            )
        if samples[0] < 1 or any(a >= b for a, b in pairwise(samples)):
            raise ValueError(f"Classify: samples must rise from at least 1, got {samples}")
        if any(samples[-1] % s for s in samples):
            raise ValueError(f"Classify: each of samples must divide the last, got {samples}")
        if keep[-1] != 1 or any(a <= b for a, b in pairwise(keep)):
            raise ValueError(f"Classify: keep must fall to 1, got {keep}")

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        weights, samples = [float(w) for w in self.weights], self.samples[-1]
        if len(weights) != samples or not all(0 <= w < inf for w in weights):
            raise ValueError(
                f"Classify: weights needs {samples} finite numbers, none below 0: one for each "
                f"timestep of the last stage, from the cleanest to the noisiest; got {weights}"
            )
        if len(set(weights)) == 1 and weights[0]:  # another run of the same results
            raise ValueError("Classify: remove weights to weigh all timesteps equally")
        stages = self.stages() if self.strategy == "staged" else [range(samples)]
        if not all(any(weights[p] for p in stage) for stage in stages):
            raise ValueError(
                "Classify: each stage needs a timestep with a weight above 0, or it decides "
                f"nothing; got {weights} for stages of {[len(s) for s in stages]} timesteps"
            )

    def revision(self, noise_schedule: Mapping[str, Any]) -> dict[str, Any]:
        self.timesteps(timesteps(noise_schedule))  # refuses before the model is loaded
        return {}

    def times(self, schedule: Schedule) -> Tensor:
        """The timestep of each noise, [S] in the order of the stages."""
        grid = self.timesteps(len(schedule))
        return schedule.timesteps([grid[p] for p in self.drawn()])

    def weighting(self, device: torch.device | None = None) -> Tensor:
        """The weight of each noise, float32 [S] in the order of the stages; their mean is 1."""
        weights = [1.0] * self.trials if self.weights is None else list(map(float, self.weights))
        mean_weight = fmean(weights)
        return torch.tensor([weights[p] / mean_weight for p in self.drawn()], device=device)

    def timesteps(self, length: int) -> list[int]:
        """The grid, as places of a schedule of this length: 25, 75, ..., 975 for 20 of 1000."""
        count = self.samples[-1]
        if count > length:
            raise BiGainError(
                f"task.samples asks for {count} timesteps of a schedule of {length}; ask for fewer"
            )
        interval = length // count
        return [interval // 2 + i * interval for i in range(count)]

    def stages(self) -> list[list[int]]:
        """Grid positions that each stage adds, in the order in which noise is drawn for them."""
        total = self.samples[-1]
        seen: set[int] = set()
        stages = []
        for count in self.samples:
            step = total // count
            stage = [p for p in range(step // 2, total, step) if p not in seen]
            seen.update(stage)
            stages.append(stage)
        return stages

    def drawn(self) -> list[int]:
        """The grid position of each noise, in the order of the stages."""
        return [p for stage in self.stages() for p in stage]

    def rounds(self) -> list[int]:
        """The noises in the order in which a race takes them."""
        drawn = self.drawn()
        return [drawn.index(p) for p in order(len(drawn))]

    def staged(
        self, backbone: Backbone, sharing: Sharing, batch_size: int, smallest_batch: int = 1
    ) -> Stages:
        """What the stages run on."""
        times = self.times(backbone.schedule)
        return Stages(
            backbone,
            sharing,
            self.loss,
            times,
            self.weighting(times.device),
            [len(stage) for stage in self.stages()],
            self.keep,
            self.cascade,
            batch_size,
            smallest_batch,
        )

    def track(
        self, backbone: Backbone, sharing: Sharing, batch_size: int, smallest_batch: int = 1
    ) -> Track:
        """What a race runs on."""
        return Track(
            backbone,
            sharing,
            self.loss,
            self.times(backbone.schedule).tolist(),
            self.weighting().tolist(),
            self.rounds(),
            self.agreement,
            batch_size,
            smallest_batch,
        )

    @property
    def trials(self) -> int:
        """Timesteps, and so noises, in all stages together."""
        return sum(map(len, self.stages()))

    def evaluations(self, classes: int) -> int:
        """Evaluations per image; of a race, at most."""
        if self.strategy == "race":
            return classes * self.samples[-1]
        alive = [classes, *(min(k, classes) for k in self.keep)]
        return sum(a * len(s) for a, s in zip(alive, self.stages(), strict=False))

    @property
    def cascade(self) -> bool:
        """Whether the last stage leaves the compressor out."""
        return self.decide_with == "uncompressed"

    def uncompressed_share(self, classes: int) -> float:
        return self._uncompressed(classes) / self.evaluations(classes)

    def _uncompressed(self, classes: int) -> int:
        """Evaluations per image that leave the compressor out."""
        return min(self.keep[-2], classes) * len(self.stages()[-1]) if self.cascade else 0

    def anchor_share(
        self, every: int, classes: int, frame: pd.DataFrame | None = None
    ) -> float | None:
        """One class for each image, stage and timestep, or for each round of a race."""
        if self.strategy == "race":
            if frame is None:
                return None
            return float(frame["samples"].map(max).sum() / frame["samples"].map(sum).sum())
        anchors = self.trials - (len(self.stages()[-1]) if self.cascade else 0)
        return anchors / (self.evaluations(classes) - self._uncompressed(classes))

    def ids(self, dataset: Dataset, limit: int | None) -> list[str]:
        return select(labelled(dataset), limit)

    def compute(self, work: Work) -> None:
        condition = work.backbone.condition(work.dataset)
        # enough images to fill several batches, few enough to lose little
        each = self.evaluations(len(condition))
        chunk = min(max(4 * work.batch_size // each, 8), 64)
        position = {image_id: i for i, image_id in enumerate(work.dataset.ids())}
        todo = set(work.todo)
        seen = len(work.ids) - len(todo)
        right = 0
        expected = float(each)
        if seen:
            before = work.run.require([i for i in work.ids if i not in todo])
            right = int(hits(before["prediction"], before["labels"]).sum())
            expected = self.spent(before)

        def prepare(ids: Sequence[str]) -> Prepared:
            examples = [work.dataset[position[i]] for i in ids]
            latents = work.backbone.encode(torch.stack([e.image for e in examples]))
            return (
                ids,
                [e.labels for e in examples],
                latents,
                *keyed_noise(self.trials, latents, ids, work.seed),
            )

        chunks = [work.todo[i : i + chunk] for i in range(0, len(work.todo), chunk)]
        # on a CPU another thread would take the cores from the model: slower by a fifth and more
        on_gpu = condition.device.type == "cuda"
        prepared = prefetch(prepare, chunks) if on_gpu else map(prepare, chunks)
        with (
            Progress(work.title, len(work.ids), seen, round(expected)) as progress,
            Sharing(work.backbone.denoiser, work.attachment, work.plans, trials=True) as sharing,
        ):
            sharing.conditions(condition)
            began = time.perf_counter()
            on = (work.backbone, sharing, work.batch_size, work.smallest_batch)
            race = self.strategy == "race"
            classifier: Track | Stages = self.track(*on) if race else self.staged(*on)
            for ids, labels, scores in classifier.in_groups(prepared, progress.evaluated):
                right += int(hits(scores.predictions.tolist(), labels).sum())
                now = time.perf_counter()
                work.append(list(rows(scores, ids, labels, (now - began) / len(ids))))
                began = now
                expected += (float(scores.samples.sum()) - expected * len(ids)) / (seen + len(ids))
                seen += len(ids)
                progress.finished(len(ids), f", top-1 {100 * right / seen:.1f}%", expected)

    def spent(self, frame: pd.DataFrame) -> float:
        return float(frame["samples"].map(sum).mean())

    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        correct = hits(frame["prediction"], frame["labels"])
        accuracy = top1(correct)
        lines = [
            f"top-1 {100 * accuracy.value:.1f}% "
            f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}] on {accuracy.n} images"
        ]
        if baseline is not None:
            test = paired(correct, hits(baseline["prediction"], baseline["labels"]))
            lines.append(
                f"against uncompressed: {test.difference:+.1f} points "
                f"[{test.low:+.1f}, {test.high:+.1f}], {test.wins} wins, {test.losses} losses, "
                f"McNemar p = {test.p:.2g}"
            )
        if several_labels(frame):
            precision = mean(precisions(frame))
            lines.append(
                f"mAP {100 * precision.value:.1f}% [{100 * precision.low:.1f}, "
                f"{100 * precision.high:.1f}] over the ranking of all classes"
            )
        return lines

    @classmethod
    def row(cls, title: str, found: Results, baseline: Results | None) -> Row:
        other = baseline.frame if baseline else None
        return accuracy_row(
            title,
            found.frame,
            other,
            found.cost,
            found.fingerprint,
            found.conditions,
            found.unlabelled,
        )

    @classmethod
    def columns(cls, rows: Sequence[Row], metrics: Metrics, spent: bool = True) -> Columns:
        return accuracy_columns(rows, spent)

    def numbers(self, found: Results, baseline: Results | None) -> Row:
        row = self.row(self.name, found, baseline)
        row.pop("conditions", None)
        return row

    def images(self, frame: pd.DataFrame) -> pd.DataFrame:
        """With the mean errors of the label (the lowest of several) and of the prediction."""
        errors = np.stack(list(frame["errors"]))
        labels = [list(map(int, wanted)) for wanted in frame["labels"]]
        return pd.DataFrame(
            {
                "image_id": frame["image_id"],
                "labels": labels,
                "prediction": frame["prediction"],
                "correct": np.asarray(hits(frame["prediction"], frame["labels"]), dtype=bool),
                "seconds": frame["seconds"],
                "label_error": [e[w].min() for e, w in zip(errors, labels, strict=True)],
                "prediction_error": errors[np.arange(len(frame)), frame["prediction"]],
            }
        )

"""Trials: the model's error for one image, class and timestep."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.backbones.base import Backbone
from bigain.compression.batch_groups import Groups
from bigain.compression.sharing import Sharing
from bigain.utils.randomness import KeyedStream


def _averaged(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda predicted, target: loss(predicted, target, reduction="none").flatten(1).mean(1)


# of predictions [B, ...] for their targets, [B]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": _averaged(F.mse_loss),
    "l1": _averaged(F.l1_loss),
    "huber": _averaged(F.huber_loss),
    # the length of the difference, per pixel: an outlying timestep counts less than in l2
    "norm": lambda predicted, target: _averaged(F.mse_loss)(predicted, target).sqrt(),
}

# images to classify: their ids and labels, latents [I, c, h, w], and what `keyed_noise` gives
Prepared = tuple[Sequence[str], Sequence[Sequence[int]], Tensor, Tensor, Tensor]


def keyed_noise(
    count: int, latents: Tensor, ids: Sequence[str], seed: int
) -> tuple[Tensor, Tensor]:
    """The images' noise, float32 [I, S, c, h, w], and their keys for random compressors, int64 [I].

    Args:
        count: S, the number of noises of each image.
        latents: [I, c, h, w].
        ids: of the images; with ``seed`` they key all randomness.
    """
    stream = KeyedStream.of(seed, "noise", ids, latents.device)
    shape = latents.shape[1:]
    noise = torch.stack([stream.fork(s).normal(*shape) for s in range(count)], 1)
    return noise, KeyedStream.of(seed, "image", ids, latents.device).keys


@dataclass(frozen=True)
class Scores:
    """What classification found for a batch of I images, K classes, S timesteps.

    Attributes:
        trials: the weighted loss of every (image, class, timestep) tried, float32 [I, K, S] in the
            order of the stages; NaN where a class was out of the race.
        predictions: int64 [I].
        decisive: the first of the timesteps that decide among the classes tried there, in the order
            of ``trials``; earlier ones count for no class that has later ones.
    """

    trials: Tensor
    predictions: Tensor
    decisive: int = 0

    @property
    def errors(self) -> Tensor:
        """Mean over the timesteps that count, [I, K]."""
        return mean_errors(self.trials, self.decisive)

    @property
    def samples(self) -> Tensor:
        """Timesteps tried, int64 [I, K]."""
        return (~self.trials.isnan()).sum(-1)


def mean_errors(trials: Tensor, decisive: int = 0) -> Tensor:
    """`Scores.errors`, also while stages are still to come."""
    means = trials.nanmean(-1)
    if not decisive:
        return means
    last = trials[..., decisive:].nanmean(-1)
    return last.where(~last.isnan(), means)


# images' ids and labels, and what was found
Classified = tuple[Sequence[str], Sequence[Sequence[int]], Scores]


def denoising_errors(
    backbone: Backbone,
    sharing: Sharing,
    loss: str,
    latents: Tensor,
    noise: Tensor,
    t: Tensor,
    classes: Tensor,
    groups: Groups | None,
    keys: Tensor | None,
    together: Groups | None = None,
) -> Tensor:
    """The errors of a batch of B trials, float32 [B].

    Args:
        sharing: on the backbone, with the condition of each class.
        loss: one of `LOSSES`.
        latents, noise: float32 [B, c, h, w].
        t: timesteps of the schedule, [B].
        classes: int64 [B].
        groups: of trials that differ in nothing but their class.
        keys: int64 [B], for random compressors.
        together: groups that share a compressor's plans; see `Sharing.batch`.
    """
    schedule = backbone.schedule
    x = schedule.noised(latents, noise, t)
    predicted = backbone.predict(x, t, sharing.batch(classes, groups, keys, together))
    return LOSSES[loss](predicted, schedule.target(latents, noise))


def rows(
    scores: Scores, ids: Sequence[str], labels: Sequence[Sequence[int]], seconds: float
) -> Iterator[dict[str, object]]:
    """Store rows; ``seconds`` is the images' share of the wall-clock, ``trials`` is [K * S]."""
    errors, samples = scores.errors.double().cpu(), scores.samples.cpu()
    trials, predictions = scores.trials.double().cpu(), scores.predictions.cpu()
    for i, (image_id, wanted) in enumerate(zip(ids, labels, strict=True)):
        yield {
            "image_id": image_id,
            "labels": list(wanted),
            "prediction": int(predictions[i]),
            "errors": errors[i].tolist(),
            "samples": samples[i].tolist(),
            "trials": trials[i].flatten().tolist(),
            "seconds": seconds,
        }

"""A race between the classes of an image: those that can hardly win any more are dropped.

In each round, every class still in the race is tried at the same timestep. A class drops out once
its mean error exceeds the leader's by more than the timesteps that are left are likely to make up
for. The prediction is the class that remains, or that leads when all timesteps have been tried.
This is successive elimination (Even-Dar, Mannor and Mansour 2006, JMLR 7:1079-1105) with paired
differences, as Clark and Jaini (2023, arXiv 2303.15233) use them to prune the classes of a
diffusion classifier.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t
from torch import Tensor

from bigain.backbones.base import Backbone
from bigain.compression.batch_groups import Groups, padded
from bigain.compression.compilation import is_compiled
from bigain.compression.sharing import Sharing
from bigain.errors import NotFiniteError
from bigain.tasks.trials import Classified, Prepared, Scores, denoising_errors

FIRST = 2  # rounds before the first class may drop out: a variance takes two
# The parts of the grid, from clean to noisy in twentieths, in the order of the rounds: each tells
# the most about the mean of all that those before it leave open (principal variables, McCabe 1984,
# Technometrics 26:137-144). docs/performance.md says how they were found.
PARTS = (17, 7, 4, 14, 12, 2, 13, 0, 9, 15, 8, 3, 11, 6, 16, 1, 10, 5, 18, 19)
# Errors are not normal, and the variance is pooled over classes further behind than those in doubt;
# found with the order
SCALE = 0.75


def order(total: int) -> list[int]:
    """The positions of a grid of ``total`` timesteps in the order of the rounds.

    >>> order(4)
    [3, 1, 2, 0]
    """
    parts: dict[int, list[int]] = {part: [] for part in PARTS}
    for position in range(total):
        parts[(2 * position + 1) * len(PARTS) // (2 * total)].append(position)
    depth = max(map(len, parts.values()))
    return [parts[part][i] for i in range(depth) for part in PARTS if i < len(parts[part])]


def tolerance(agreement: float, freedom: ArrayLike) -> NDArray[np.float64]:
    """The standard errors by which a class must lie behind the leader to drop out.

    Args:
        freedom: the degrees of freedom of the variance.
    """
    found: NDArray[np.float64] = SCALE * np.asarray(t.isf(1 - agreement, freedom))
    return found


class Race:
    """The race of one image, which depends on nothing but that image's own errors.

    Args:
        classes: K.
        total: S, the timesteps of the whole grid.
        agreement: the wanted share of images with the answer of all timesteps.

    Attributes:
        errors: what is known, float64 [K, S] in the order of the rounds; NaN elsewhere.
        alive: the classes to try in the next round, int64; the prediction alone once `finished`.
        round: the number of rounds behind.
        finished: whether the prediction is known.
    """

    def __init__(self, classes: int, total: int, agreement: float) -> None:
        self.errors = np.full((classes, total), np.nan)
        self.alive = np.arange(classes)
        self.round = 0
        self.finished = False
        self._agreement = agreement

    def enter(self, errors: NDArray[np.float64]) -> None:
        """Add the errors of all classes that are `alive` at the round's timestep."""
        self.errors[self.alive, self.round] = errors
        self.round += 1
        if self.round >= min(FIRST, self.errors.shape[1]):
            self.alive = self.alive[self._remain()]
        self.finished = len(self.alive) == 1

    def _remain(self) -> NDArray[np.bool_]:
        """Which of the classes alive stay."""
        errors, total = self.errors[:, : self.round], self.errors.shape[1]
        means = errors[self.alive].mean(1)
        leader = int(means.argmin())
        if self.round == total:
            return np.arange(len(means)) == leader
        # of the differences of all classes, each over its own rounds, so that there are many also
        # when few classes are left
        differences = errors - errors[self.alive[leader]]
        tried = np.isfinite(differences).sum(1, keepdims=True)
        deviations = differences - np.nansum(differences, 1, keepdims=True) / tried
        freedom = max((tried - 1).sum() - (self.round - 1), 1)  # the leader's own are none
        variance = np.nansum(deviations**2) / freedom
        # the mean of all timesteps is known the better, the more of them have been tried
        left = (1 - self.round / total) / self.round
        margin = tolerance(self._agreement, freedom) * np.sqrt(variance * left)
        stay: NDArray[np.bool_] = means - means[leader] <= margin
        return stay


def raced(errors: NDArray[np.float64], agreement: float) -> Race:
    """The race that an image with these errors ran, [K, S] in the order of the rounds."""
    classes, total = errors.shape
    race = Race(classes, total, agreement)
    while not race.finished:
        race.enter(errors[race.alive, race.round])
    return race


@dataclass(frozen=True)
class Entrant:
    """An image to race.

    Attributes:
        image_id, labels: passed on to the result.
        latent: float32 [c, h, w].
        noise: float32 [S, c, h, w], in the order of the protocol's stages.
        key: int64 scalar, for random compressors.
    """

    image_id: str
    labels: Sequence[int]
    latent: Tensor
    noise: Tensor
    key: Tensor


@dataclass
class _Running:
    """An image in flight: its race, and the errors of the round that have come so far."""

    entrant: Entrant
    race: Race
    errors: list[float]


class _Trial(NamedTuple):
    """A class to try in an image's round; not ``new`` if that has been done in another batch."""

    image: _Running
    k: int
    new: bool = True


@dataclass(frozen=True)
class Track:
    """What all images race on.

    Attributes:
        loss: see `bigain.tasks.trials.LOSSES`.
        times: the timestep of each of the S noises.
        weights: what the errors at each of them are multiplied by.
        order: the indices of noises in the order of the rounds.
        agreement: see `Race`.
        sharing: on the backbone, with the condition of each of the K classes.
        batch_size: evaluations per forward pass.
        smallest_batch: what smaller batches are padded to.
    """

    backbone: Backbone
    sharing: Sharing
    loss: str
    times: Sequence[float]
    weights: Sequence[float]
    order: Sequence[int]
    agreement: float
    batch_size: int
    smallest_batch: int = 1

    def run(
        self, entrants: Iterable[Entrant], evaluated: Callable[[int], None] = lambda count: None
    ) -> Iterator[tuple[Entrant, Scores]]:
        """Race images, as many at a time as fill a batch.

        A batch takes the next trials of the images in flight. Another image starts only when these
        do not fill it, so every evaluation is one that its image needs.

        Args:
            evaluated: is told of evaluations as they are computed.

        Yields:
            Each image with its scores, [1, K, S], when its race is over.

        Raises:
            NotFiniteError: if the model returns NaN or infinity.
        """
        waiting = iter(entrants)
        # trials to come, of which those of one round stand together
        queue: deque[_Trial] = deque()
        more = True
        while True:
            while more and len(queue) < self.batch_size:
                entrant = next(waiting, None)
                more = entrant is not None
                if entrant is not None:
                    queue.extend(self._round(_Running(entrant, self._race(), [])))
            if not queue:
                return
            batch = self._batch(queue)
            errors = self._errors(batch)
            evaluated(sum(trial.new for trial in batch))
            for (image, _, new), error in zip(batch, errors, strict=True):
                if not new:
                    continue
                image.errors.append(error)
                if len(image.errors) < len(image.race.alive):
                    continue
                image.race.enter(np.asarray(image.errors))
                image.errors.clear()
                if image.race.finished:
                    yield image.entrant, self._scores(image.race)
                else:
                    queue.extend(self._round(image))

    def in_groups(
        self, prepared: Iterable[Prepared], evaluated: Callable[[int], None]
    ) -> Iterator[Classified]:
        """`run` on images that are prepared several at a time; as many are given back together."""
        size = 1

        def entrants() -> Iterator[Entrant]:
            nonlocal size
            for images in prepared:
                size = max(size, len(images[0]))
                yield from (Entrant(*each) for each in zip(*images, strict=True))

        raced = self.run(entrants(), evaluated)
        while several := list(islice(raced, size)):
            yield (
                [entrant.image_id for entrant, _ in several],
                [entrant.labels for entrant, _ in several],
                Scores(
                    torch.cat([scores.trials for _, scores in several]),
                    torch.cat([scores.predictions for _, scores in several]),
                ),
            )

    def _race(self) -> Race:
        return Race(self.sharing.classes, len(self.order), self.agreement)

    def _round(self, image: _Running) -> list["_Trial"]:
        return [_Trial(image, k) for k in image.race.alive.tolist()]

    def _batch(self, queue: deque["_Trial"]) -> list["_Trial"]:
        """The next trials.

        If one plan of a compressor serves all classes of a round, a round is not divided between
        batches. One that no batch can hold has its first class in each of its batches, because the
        plan follows that class.
        """
        batch: list[_Trial] = []
        while queue and len(batch) < self.batch_size:
            image = queue[0].image
            begun = len(image.errors)
            left = len(image.race.alive) - begun
            first = [_Trial(image, int(image.race.alive[0]), new=False)] if begun else []
            if not self.sharing.plans_together:
                first = []
            elif batch and len(batch) + len(first) + left > self.batch_size:
                break
            batch += first
            # two at least, of which one may be the first class
            room = max(self.batch_size - len(batch), 1)
            batch += [queue.popleft() for _ in range(min(left, room))]
        return batch

    def _scores(self, race: Race) -> Scores:
        trials = np.full_like(race.errors, np.nan)
        trials[:, self.order] = race.errors
        return Scores(torch.from_numpy(trials).float()[None], torch.from_numpy(race.alive))

    @torch.inference_mode()
    def _errors(self, batch: Sequence[_Trial]) -> list[float]:
        """The errors of trials, float32 in value."""
        # a compiled model takes one shape, but the numbers of trials and images change
        compiled = is_compiled(self.backbone.denoiser)
        smallest = max(self.smallest_batch, self.batch_size if compiled else 1)
        places = padded(len(batch), smallest)
        # the trials of one image are all at its round's timestep
        images = list({id(trial.image): trial.image for trial in batch}.values())
        device = images[0].entrant.latent.device
        number = {id(image): i for i, image in enumerate(images)}
        which = torch.tensor([number[id(batch[p].image)] for p in places], device=device)
        classes = torch.tensor([batch[p].k for p in places], device=device)
        tried = [self.order[image.race.round] for image in images]
        times = torch.tensor([self.times[s] for s in tried], device=device)
        latents = torch.stack([image.entrant.latent for image in images])
        noise = torch.stack([i.entrant.noise[s] for i, s in zip(images, tried, strict=True)])
        keys = torch.stack([image.entrant.key for image in images])
        groups = Groups.of(which, self.smallest_batch)
        shares = not compiled and len(groups.first) < len(which)
        together = Groups.of(which, len(which) if compiled else 1)
        values = denoising_errors(
            self.backbone,
            self.sharing,
            self.loss,
            latents[which],
            noise[which],
            times[which],
            classes,
            groups if shares else None,
            keys[which],
            together,
        )[: len(batch)]
        if not values.isfinite().all():
            raise NotFiniteError
        weights = torch.tensor([self.weights[s] for s in tried], device=device)
        found: list[float] = (values * weights[which[: len(batch)]]).tolist()
        return found

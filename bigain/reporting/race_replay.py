"""Stages, races and variants of them, replayed on the errors of every class and timestep.

A race decides by an image's own errors alone, so these errors tell what any race takes and answers
on the same noise. The tests check that `task.strategy=race` does the same.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bigain.reporting.all_trials import STAGED, Errors
from bigain.tasks.classify import Classify
from bigain.tasks.racing import FIRST, tolerance


class Answers(NamedTuple):
    """What a strategy took and found.

    Attributes:
        evaluations: the number of evaluations of each image, int64 [I].
        predictions: the class that each image is given, int64 [I].
    """

    evaluations: NDArray[np.int64]
    predictions: NDArray[np.int64]


def staged(errors: Errors, protocol: Classify = STAGED) -> Answers:
    """The stages on these errors."""
    trials = errors.trials
    images, classes, _ = trials.shape
    alive = np.broadcast_to(np.arange(classes), (images, classes))
    end = 0
    for stage, keep in zip(protocol.stages(), protocol.keep, strict=True):
        end += len(stage)
        means = np.take_along_axis(trials[:, :, :end].mean(2), alive, 1)
        best = np.argsort(means, axis=1, kind="stable")[:, :keep]
        alive = np.take_along_axis(alive, best, 1)
    return Answers(np.full(images, protocol.evaluations(classes)), alive[:, 0])


def race(
    errors: Errors,
    agreement: float,
    rounds: Sequence[int] | None = None,
    variance: str = "all",
    first: int = FIRST,
    early: float = 0.0,
) -> Answers:
    """The race of each image, all at once, and variants of it.

    Args:
        agreement: the share of images that a race is to answer as all timesteps would.
        rounds: the noises in the order of the rounds; default: the race's own.
        variance: how the variance of a class's difference to the leader is estimated: "all",
            pooled over all classes; "alive", pooled over those still in; "own"; or "half", the
            mean of the latter two.
        first: the number of rounds before a class may drop out.
        early: by how much stricter early rounds are: after n, the tolerance is multiplied by
            sqrt(1 + early / n).
    """
    e = errors.trials[:, :, STAGED.rounds() if rounds is None else list(rounds)]
    images, classes, total = e.shape
    every = np.arange(images)
    alive = np.ones((images, classes), dtype=bool)
    tried = np.zeros((images, classes), dtype=np.int64)
    for n in range(1, total + 1):
        racing = alive.sum(1, keepdims=True) > 1
        tried += alive & racing
        if n < min(first, total):
            continue
        means = np.where(alive, e[:, :, :n].mean(2), np.inf)
        leader = means.argmin(1)
        if n == total:
            return Answers(tried.sum(1), leader)
        left = (1 - n / total) / n
        spread, freedom = _variance(e[:, :, :n], leader, alive, tried, variance)
        z = tolerance(agreement, freedom)
        margin = z * np.sqrt(spread * left * (1 + early / n))
        behind = means - means[every, leader][:, None]
        alive &= ~racing | (behind <= margin)
    raise AssertionError("the last round returns")


def _variance(
    e: NDArray[np.float64],
    leader: NDArray[np.int64],
    alive: NDArray[np.bool_],
    tried: NDArray[np.int64],
    kind: str,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Variance of the differences to the leader, and degrees of freedom, [I, K] or [I, 1]."""
    every = np.arange(len(e))
    differences = e - e[every, leader][:, None]
    seen = np.arange(e.shape[2]) < tried[:, :, None]
    means = np.where(seen, differences, 0).sum(2) / tried
    squares = np.where(seen, (differences - means[:, :, None]) ** 2, 0).sum(2)
    freedom = tried - 1
    freedom[every, leader] = 0
    each = np.maximum(freedom, 1)
    if kind == "own":
        return squares / each, each
    of = alive if kind in {"alive", "half"} else np.ones_like(alive)
    pooled = np.maximum((freedom * of).sum(1, keepdims=True), 1)
    variance: NDArray[np.float64] = (squares * of).sum(1, keepdims=True) / pooled
    return ((squares / each + variance) / 2 if kind == "half" else variance), pooled


def variants() -> Iterator[tuple[str, dict[str, object]]]:
    """What was tried instead, by name: arguments of `race`."""
    drawn = STAGED.drawn()
    yield "the race", {}
    yield "order: that of the stages", {"rounds": range(len(drawn))}
    halves = [drawn.index(p) for p in halving(len(drawn))]
    yield "order: bit-reversed from the middle", {"rounds": halves}
    yield "variance: the class's own", {"variance": "own"}
    yield "variance: pooled over the classes still in", {"variance": "alive"}
    yield "variance: half its own, half pooled over those still in", {"variance": "half"}
    yield "first decision after 3 rounds", {"first": 3}
    yield "first decision after 4 rounds", {"first": 4}
    yield "stricter early, by sqrt(1 + 3/n)", {"early": 3.0}
    yield (
        "bit-reversed, half its own variance and 3 rounds together",
        {"rounds": halves, "variance": "half", "first": 3},
    )


def halving(total: int) -> list[int]:
    """The positions of a grid in bit-reversed order from the middle (van der Corput)."""
    bits = (total - 1).bit_length()
    reverses = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1, 2**bits))
    return list(dict.fromkeys([r * total >> bits for r in reverses] + list(range(total))))


def informative_order(every: Sequence[Errors], rivals: int = 3) -> list[int]:
    """The positions of the grid, each the one that leaves least of the mean's variance unexplained.

    The variance is that of the differences between an image's closest rivals and its answer, each
    scaled to a mean square of 1, averaged over the models in ``every``.
    """
    total = every[0].trials.shape[2]
    products = np.zeros((total, total))
    drawn = STAGED.drawn()
    for errors in every:
        trials = np.empty_like(errors.trials)
        trials[:, :, drawn] = errors.trials
        ranked = np.argsort(trials.mean(2), axis=1, kind="stable")[:, : rivals + 1, None]
        closest = np.take_along_axis(trials, ranked, 1)
        differences = (closest[:, 1:] - closest[:, :1]).reshape(-1, total)
        differences /= np.sqrt((differences**2).mean(1, keepdims=True))
        products += differences.T @ differences / len(differences)

    def explained(places: list[int]) -> float:
        with_mean = products[places].sum(1)
        known = products[np.ix_(places, places)]
        return float(with_mean @ np.linalg.lstsq(known, with_mean, rcond=1e-9)[0])

    found: list[int] = []
    while len(found) < total:
        left = [p for p in range(total) if p not in found]
        found.append(max(left, key=lambda p: explained([*found, p])))
    return found


def needed(errors: Errors, wanted: float, **how: object) -> float:
    """The evaluations per image at the loosest tolerance from which on a share ``wanted`` agrees.

    NaN if even the strictest of those tried, an agreement of 1 - 3e-7, does not reach it.
    """
    least = float("nan")
    for level in np.arange(5, 0.6, -0.1):  # standard errors of a normal distribution
        found = race(errors, float(norm.cdf(level)), **how)  # type: ignore[arg-type]
        if (found.predictions == errors.answers).mean() < wanted:
            break
        least = float(found.evaluations.mean())
    return least


def resampled(errors: Errors, classes: int, images: int, crowded: bool) -> Errors:
    """Errors of a data set of more classes, made of these.

    A rival's differences to the answer, over all timesteps, are kept together. Each image has the
    answer of one of these images and that image's rivals. The classes that there are beyond them
    have the differences of rivals drawn from all images.

    Args:
        crowded: draw from all rivals, so that the close ones become more; else from the half that
            is further behind, so that they stay as many.
    """
    rng = np.random.default_rng(0)
    every = np.arange(len(errors.trials))
    best = errors.trials[every, errors.answers]
    present = np.ones(errors.trials.shape[:2], dtype=bool)
    present[every, errors.answers] = False
    rivals = errors.trials[present].reshape(len(every), -1, errors.trials.shape[2])
    differences = (rivals - best[:, None]).reshape(-1, errors.trials.shape[2])
    if not crowded:
        behind = differences.mean(1)
        differences = differences[behind > np.median(behind)]
    chosen = rng.integers(len(best), size=images)
    more = classes - errors.trials.shape[1]
    drawn = differences[rng.integers(len(differences), size=(images, more))]
    own = best[chosen][:, None]
    return Errors(np.concatenate([own, rivals[chosen], own + drawn], 1), [[0]] * images)

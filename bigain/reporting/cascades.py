"""What a cascade buys back (docs/performance.md): accuracy against all FLOPs of an image.

A compressed model chooses among the classes, and the model itself decides among those that are
left. Runs that hold the errors of every class and timestep, compressed and not, tell what stages,
cascades and races take and answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigain.errors import BiGainError
from bigain.experiments.methods import method
from bigain.metrics.accuracy import hits, paired, top1
from bigain.reporting.all_trials import MODELS, STAGED, Errors, job_of, read
from bigain.reporting.race_replay import race, staged
from bigain.tasks.classify import Classify
from bigain.tasks.racing import Race
from bigain.utils import files
from bigain.utils.tables import DASH, interval, markdown

METHODS = ("tome@0.5", "lgtm@0.5", "iekvd@2")
AGREEMENT = 0.99
ROUNDS = 2  # that the compressed model races, before the model itself begins a race


class Measured(NamedTuple):
    """All errors under one compression, and what one evaluation costs.

    Attributes:
        title: the method's title.
        errors: the errors of every class and timestep.
        gflops: the GFLOPs of one evaluation, matching included.
    """

    title: str
    errors: Errors
    gflops: float


class Spent(NamedTuple):
    """What a strategy took and found.

    Attributes:
        compressed, whole: evaluations of each image with the compressor and without it, int64 [I].
        predictions: the class that each image is given, int64 [I].
    """

    compressed: NDArray[np.int64]
    whole: NDArray[np.int64]
    predictions: NDArray[np.int64]


def cascades(out: Path, overrides: Sequence[str]) -> str:
    """Read the runs in ``out``; write and return ``<out>/cascades.md``.

    Args:
        overrides: the images, such as start=0 and limit=500.

    Raises:
        BiGainError: if a run is missing, or a compressor's FLOPs depend on the data.
    """
    every = {}
    for name, model in MODELS.items():
        found = []
        for reference in ("none", *METHODS):
            chosen = method(reference)
            settings = [f"results={out}", "blocks=all", *chosen.overrides, *overrides]
            flops = job_of(model, settings).flops
            if flops is None:
                raise BiGainError(f"the FLOPs of {chosen.title} depend on the data; leave it out")
            found.append(Measured(chosen.title, read(model, settings), flops.total / 1e9))
        every[name] = (found[0], found[1:])
    text = f"# Cascades\n\nOn the images {' '.join(overrides)}.\n\n{table(every)}"
    files.make_folder(out)
    files.write_text(out / "cascades.md", text)
    return text


def table(every: Mapping[str, tuple[Measured, Sequence[Measured]]]) -> str:
    """Evaluations, GFLOPs and accuracy of each strategy, against stages without compression."""
    header = ["Model", "Method", "Strategy", "Evaluations", "GFLOPs per image", "Top-1 (%)"]
    lines = [[*header, "Against staged, uncompressed (points)"]]
    for model, (whole, others) in every.items():
        labels, difference = whole.errors.labels, DASH
        baseline = hits(staged(whole.errors).predictions.tolist(), labels)
        for title, name, spent, gflops in strategies(whole, others):
            correct = hits(spent.predictions.tolist(), labels)
            if title != whole.title or name != "staged":
                test = paired(correct, baseline)
                difference = interval((test.difference, test.low, test.high), "+.1f")
            lines.append(
                [
                    model,
                    title,
                    name,
                    f"{(spent.compressed + spent.whole).mean():.1f}",
                    f"{gflops:.1f}",
                    f"{100 * top1(correct).value:.1f}",
                    difference,
                ]
            )
    return markdown(lines) + "\n"


def strategies(
    whole: Measured, others: Sequence[Measured]
) -> Iterator[tuple[str, str, Spent, float]]:
    """Method, strategy, what it took and found, and GFLOPs per image on average."""

    def cost(spent: Spent, gflops: float) -> float:
        return float(spent.compressed.mean() * gflops + spent.whole.mean() * whole.gflops)

    for one in (whole, *others):
        for name, answers in (
            ("staged", staged(one.errors)),
            ("race", race(one.errors, AGREEMENT)),
        ):
            none = np.zeros_like(answers.evaluations)
            spent = Spent(answers.evaluations, none, answers.predictions)
            yield one.title, name, spent, cost(spent, one.gflops)
        if one is whole:
            continue
        for name, spent in (
            ("staged, decided uncompressed", cascade(one.errors, whole.errors)),
            ("race, decided uncompressed", race_after_race(one.errors, whole.errors)),
        ):
            yield one.title, name, spent, cost(spent, one.gflops)


def cascade(compressed: Errors, whole: Errors, protocol: Classify = STAGED) -> Spent:
    """The stages of ``task.decide_with=uncompressed`` on these errors."""
    images, classes, _ = compressed.trials.shape
    alive = np.broadcast_to(np.arange(classes), (images, classes))
    taken = {False: 0, True: 0}
    start = end = 0
    for stage, keep in zip(protocol.stages(), protocol.keep, strict=True):
        start, end = end, end + len(stage)
        last = end == protocol.trials
        trials = whole.trials[:, :, start:end] if last else compressed.trials[:, :, :end]
        taken[last] += alive.shape[1] * len(stage)
        means = np.take_along_axis(trials.mean(2), alive, 1)
        best = np.argsort(means, axis=1, kind="stable")[:, :keep]
        alive = np.take_along_axis(alive, best, 1)
    return Spent(np.full(images, taken[False]), np.full(images, taken[True]), alive[:, 0])


def race_after_race(
    compressed: Errors, whole: Errors, agreement: float = AGREEMENT, rounds: int = ROUNDS
) -> Spent:
    """A race by the model itself among the classes that a compressed one's first rounds leave."""
    order = STAGED.rounds()
    images, classes, total = compressed.trials.shape
    spent, found = np.zeros((2, images), dtype=np.int64), np.zeros(images, dtype=np.int64)
    for i in range(images):
        alive = np.arange(classes)
        for which, errors, most in ((0, compressed, rounds), (1, whole, total)):
            own = Race(len(alive), total, agreement)
            while len(own.alive) > 1 and own.round < most:
                spent[which, i] += len(own.alive)
                own.enter(errors.trials[i][alive[own.alive], order[own.round]])
            alive = alive[own.alive]
        found[i] = alive[0]
    return Spent(spent[0], spent[1], found)

"""What a race saves (docs/performance.md, Racing), from the errors of every class and timestep.

A race decides by an image's own errors alone, so runs that hold all of them tell what any race
takes and answers on the same noise; tests see to it that it is what `task.strategy=race` does.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from scipy.stats import norm

from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.metrics.accuracy import hits, paired, top1
from bigain.reporting.overview import DPI
from bigain.reporting.pictures import save_figure
from bigain.reporting.style import (
    BASELINE,
    HEADING,
    LETTERS,
    MAGNIFIED,
    SOFT,
    Style,
    limits,
    plain,
    wrapped,
)
from bigain.store.runs import Run
from bigain.tasks.classify import Classify
from bigain.tasks.classify_columns import PANEL
from bigain.tasks.racing import FIRST, tolerance
from bigain.utils import files
from bigain.utils.tables import DASH, interval, markdown

MODELS = {"DiT": "dit_fashion", "U-Net": "sd_fashion"}
FULL = ["task=classify", "task.samples=[5,20]", "task.keep=[10,1]", "dtype=bfloat16"]
AGREEMENTS = (0.9, 0.95, 0.98, 0.99, 0.999)
WANTED = 0.99  # of the ablation and the simulation
STAGED = Classify()
SCALES = {"Pets": 37, "ImageNet-100": 100, "ImageNet-1K": 1000}
SYNTHETIC = 300  # images of each simulated data set
SIZE = (8.9, 4.0)  # inches of the figure
RACE, STAGES = Style("#0072B2", "D"), Style("#D55E00", "s")
CAPTION = (
    "Numbers are the agreement that a race is asked for; all takes every timestep for every class. "
    "The horizontal axis is logarithmic. A vertical axis that does not begin at 0 shows "
    f"differences at most {MAGNIFIED} times as large as one that does. Bars and bands are 95% "
    "intervals."
)


class Errors(NamedTuple):
    """All errors of I images.

    Attributes:
        trials: float64 [I, K, S] in the order of the stages' noises.
        labels: of each image.
    """

    trials: NDArray[np.float64]
    labels: Sequence[Sequence[int]]

    @property
    def answers(self) -> NDArray[np.int64]:
        """Of all timesteps and classes, int64 [I]."""
        return self.trials.mean(2).argmin(1)


class Answers(NamedTuple):
    """What a strategy took and found.

    Attributes:
        evaluations: int64 [I].
        predictions: int64 [I].
    """

    evaluations: NDArray[np.int64]
    predictions: NDArray[np.int64]


def read(model: str, overrides: Sequence[str]) -> Errors:
    """The errors of a model's run of all timesteps and classes; see `all_trials`."""
    return all_trials(job_of(model, overrides), STAGED.trials)


def all_trials(job: Job, timesteps: int) -> Errors:
    """The errors of a run of all timesteps and classes.

    Raises:
        BiGainError: if the run is not there, or lacks images that the job asks for, or their
            trials.
    """
    frame = Run.open(job.run_path).require(job.ids)
    classes = len(job.dataset.classes)
    if frame["trials"].map(len).min() < classes * timesteps:
        raise BiGainError(
            f"{job.run_path} no longer holds the trials of all these images, as bundles leave out "
            "what no finding reads; compute them anew with another results=..."
        )
    trials = np.stack([np.asarray(t, dtype=float) for t in frame["trials"]])
    return Errors(trials.reshape(len(frame), classes, -1), list(frame["labels"]))


def job_of(model: str, overrides: Sequence[str]) -> Job:
    """The job of all timesteps and classes."""
    return Job(settings_of(composed([f"model={model}", *FULL, *overrides])))


# Strategies


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
        agreement: as a race takes it.
        rounds: the noises in the order of the rounds; default: the race's own.
        variance: of a class's difference to the leader: "all", pooled over all classes; "alive",
            pooled over those still in; "own"; or "half", the mean of the latter two.
        first: rounds before the first class may drop out.
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
    """Of the differences to the leader, with its degrees of freedom, both [I, K] or [I, 1]."""
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


def halving(total: int) -> list[int]:
    """The positions of a grid in bit-reversed order from the middle (van der Corput)."""
    bits = (total - 1).bit_length()
    reverses = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1, 2**bits))
    return list(dict.fromkeys([r * total >> bits for r in reverses] + list(range(total))))


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


def resampled(errors: Errors, classes: int, images: int, crowded: bool, seed: int = 0) -> Errors:
    """Errors of a data set of more classes, made of these.

    A rival's differences to the answer, over all timesteps, are kept together. Each image has the
    answer of one of these images and that image's rivals. The classes that there are beyond them
    have the differences of rivals drawn from all images.

    Args:
        crowded: draw from all rivals, so that the close ones become more; else from the half that
            is further behind, so that they stay as many.
    """
    rng = np.random.default_rng(seed)
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


# Tables


def strategies(errors: Errors) -> dict[str, Answers]:
    """Each strategy on these errors, by name."""
    images, classes, total = errors.trials.shape
    full = Answers(np.full(images, classes * total), errors.answers)
    found = {"all": full, "staged 5/20, keep 5": staged(errors)}
    for agreement in AGREEMENTS:
        found[f"race, agreement {agreement}"] = race(errors, agreement)
    return found


def table(every: Mapping[str, Errors]) -> str:
    """Evaluations, accuracy and agreement of each strategy."""
    header = ["Model", "Strategy", "Evaluations", "Of staged", "Top-1 (%)"]
    lines = [[*header, "Against staged (points)", "Same answer as all (%)"]]
    for model, errors in every.items():
        found = strategies(errors)
        reference = found["staged 5/20, keep 5"]
        baseline = hits(reference.predictions.tolist(), errors.labels)
        for name, answers in found.items():
            correct = hits(answers.predictions.tolist(), errors.labels)
            test = paired(correct, baseline)
            same = top1(answers.predictions == errors.answers)
            difference = (test.difference, test.low, test.high)
            lines.append(
                [
                    model,
                    name,
                    f"{answers.evaluations.mean():.1f}",
                    f"{answers.evaluations.mean() / reference.evaluations.mean():.2f}",
                    f"{100 * top1(correct).value:.1f}",
                    DASH if answers is reference else interval(difference, "+.1f"),
                    interval((100 * same.value, 100 * same.low, 100 * same.high), ".1f"),
                ]
            )
    return markdown(lines) + "\n"


def ablation(every: Mapping[str, Errors]) -> str:
    """The evaluations that each variant needs for the same agreement."""
    lines = [["What decides", *every]]
    for name, how in variants():
        found = [needed(errors, WANTED, **how) for errors in every.values()]
        lines.append([name, *(DASH if np.isnan(f) else f"{f:.1f}" for f in found)])
    return markdown(lines) + "\n"


def scaled(every: Mapping[str, Errors]) -> str:
    """Evaluations for as many classes as the paper's data sets have, simulated."""
    lines = [["Data set", "Model", "Further classes", "Staged", "Race", "Of staged"]]
    lines[0].append("Same answer: staged, race (%)")
    for name, classes in SCALES.items():
        for model, errors in every.items():
            for crowded in (False, True):
                made = resampled(errors, classes, SYNTHETIC, crowded)
                both = (staged(made), race(made, WANTED))
                usual, spent = (found.evaluations.mean() for found in both)
                same = [100 * (found.predictions == made.answers).mean() for found in both]
                lines.append(
                    [
                        f"{name}, {classes:,} classes",
                        model,
                        "as close as the ten" if crowded else "far behind",
                        f"{usual:,.0f}",
                        f"{spent:,.0f}",
                        f"{spent / usual:.2f}",
                        f"{same[0]:.1f}, {same[1]:.1f}",
                    ]
                )
    return markdown(lines) + "\n"


def draw(every: Mapping[str, Errors], path: Path) -> None:
    """Accuracy against evaluations per image, with 95% intervals."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.08))
    columns = figure.subplots(1, len(every), squeeze=False)[0]
    for axes, (model, errors) in zip(columns, every.items(), strict=True):
        points = [_point(answers, errors) for answers in strategies(errors).values()]
        full, stages, *races = points
        plain(axes)
        axes.axhspan(full.low, full.high, color=BASELINE.colour, alpha=0.08, linewidth=0)
        axes.axhline(full.value, color=BASELINE.colour, linewidth=1, linestyle="--")
        axes.plot([r.evaluations for r in races], [r.value for r in races], color=RACE.colour)
        for kind, members in ((BASELINE, [full]), (STAGES, [stages]), (RACE, races)):
            for point in members:
                _mark(axes, point, kind)
        for point, agreement in zip(races, AGREEMENTS, strict=True):
            _below(axes, point, f"{agreement}", RACE)
        _below(axes, stages, "staged", STAGES)
        _below(axes, full, "all", BASELINE)
        axes.set_xscale("log")
        ticks = [25, 50, 100, 200]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(25, 240)
        axes.set_ylim(*limits(min(p.low for p in points), max(p.high for p in points)))
        axes.set_xlabel("Evaluations per image", fontsize=LETTERS + 1)
        axes.set_ylabel(PANEL.label, fontsize=LETTERS + 1)
        axes.set_title(model, fontsize=HEADING, fontweight="bold")
    figure.suptitle("What a race saves: accuracy against evaluations", fontsize=HEADING + 1)
    figure.supxlabel(wrapped(CAPTION, SIZE[0], LETTERS), fontsize=LETTERS, color=SOFT)
    save_figure(figure, path, DPI)


class Point(NamedTuple):
    """Of a strategy: evaluations per image, and accuracy in percent with its interval."""

    evaluations: float
    value: float
    low: float
    high: float


def _point(answers: Answers, errors: Errors) -> Point:
    accuracy = top1(hits(answers.predictions.tolist(), errors.labels))
    percent = (100 * v for v in (accuracy.value, accuracy.low, accuracy.high))
    return Point(float(answers.evaluations.mean()), *percent)


def _mark(axes: Axes, point: Point, style: Style) -> None:
    spread = [[point.value - point.low], [point.high - point.value]]
    axes.errorbar(
        point.evaluations,
        point.value,
        spread,
        color=style.colour,
        marker=style.marker,
        markersize=6,
    )


def _below(axes: Axes, point: Point, text: str, style: Style) -> None:
    """Name a point below its interval."""
    axes.annotate(
        text,
        (point.evaluations, point.low),
        (0, -4),
        textcoords="offset points",
        ha="center",
        va="top",
        rotation=90,
        fontsize=LETTERS,
        color=style.ink,
    )


def racing(out: Path, overrides: Sequence[str]) -> dict[str, str]:
    """Read the runs in ``out``; write ``<out>/racing.md`` and ``racing.png``.

    Args:
        overrides: the images, such as start=0 and limit=1000.

    Returns:
        The tables by name.
    """
    every = {name: read(model, [f"results={out}", *overrides]) for name, model in MODELS.items()}
    counts = ", ".join(
        f"{len(errors.trials)} images of the {name}" for name, errors in every.items()
    )
    made = {
        "strategies": table(every),
        "ablation": ablation(every),
        "simulated": scaled(every),
    }
    text = f"# Racing\n\nOn {counts}: {' '.join(overrides)}.\n"
    for name, lines in made.items():
        text += f"\n## {name.capitalize()}\n\n{lines}"
    files.make_folder(out)
    files.write_text(out / "racing.md", text)
    draw(every, out / "racing.png")
    return made

"""What a race saves (docs/performance.md, Racing), from the errors of every class and timestep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bigain.metrics.accuracy import hits, paired, top1
from bigain.reporting.all_trials import MODELS, Errors, read
from bigain.reporting.overview import DPI
from bigain.reporting.race_replay import Answers, needed, race, resampled, staged, variants
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
from bigain.tasks.classify_columns import PANEL
from bigain.utils import files
from bigain.utils.pictures import save_figure
from bigain.utils.tables import DASH, interval, markdown

AGREEMENTS = (0.9, 0.95, 0.98, 0.99, 0.999)
WANTED = 0.99  # the agreement in the ablation and the simulation
ALL, USUAL = "all", "staged 5/20, keep 5"  # names of strategies beside the races
CLASSES = {"Pets": 37, "ImageNet-100": 100, "ImageNet-1K": 1000}  # simulated
SYNTHETIC = 300  # images of each simulated data set
SIZE = (8.9, 4.0)  # inches of the figure
RACE, STAGES = Style("#0072B2", "D"), Style("#D55E00", "s")
CAPTION = (
    "Numbers are the agreement that a race is asked for; all takes every timestep for every class. "
    "The horizontal axis is logarithmic. A vertical axis that does not begin at 0 shows "
    f"differences at most {MAGNIFIED} times as large as one that does. Bars and bands are 95% "
    "intervals."
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


def table(every: Mapping[str, Errors]) -> str:
    """Evaluations, accuracy and agreement of each strategy."""
    header = ["Model", "Strategy", "Evaluations", "Of staged", "Top-1 (%)"]
    lines = [[*header, "Against staged (points)", "Same answer as all (%)"]]
    for model, errors in every.items():
        found = strategies(errors)
        reference = found[USUAL]
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


def strategies(errors: Errors) -> dict[str, Answers]:
    """Each strategy on these errors, by name."""
    images, classes, total = errors.trials.shape
    full = Answers(np.full(images, classes * total), errors.answers)
    found = {ALL: full, USUAL: staged(errors)}
    for agreement in AGREEMENTS:
        found[f"race, agreement {agreement}"] = race(errors, agreement)
    return found


def ablation(every: Mapping[str, Errors]) -> str:
    """The evaluations that each variant needs for the same agreement."""
    lines = [["What decides", *every]]
    for name, how in variants():
        found = [needed(errors, WANTED, **how) for errors in every.values()]
        lines.append([name, *(DASH if np.isnan(f) else f"{f:.1f}" for f in found)])
    return markdown(lines) + "\n"


def scaled(every: Mapping[str, Errors]) -> str:
    """Evaluations for as many classes as the paper's data sets have, simulated."""
    header = ["Data set", "Model", "Further classes", "Staged", "Race", "Of staged"]
    lines = [[*header, "Same answer: staged, race (%)"]]
    for name, classes in CLASSES.items():
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
    """A strategy's evaluations per image, and its accuracy in percent with the interval."""

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

"""What classification contributes to a table."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bigain.errors import BiGainError
from bigain.metrics.accuracy import hits, paired, top1
from bigain.metrics.ranking import (
    average_precision,
    finalists_first,
    mean,
    mean_difference,
    winner_first,
)
from bigain.tasks.columns import (
    OTHERWISE_LEGEND,
    Column,
    Columns,
    Panel,
    Row,
    check_cost,
    comparable,
    counted,
    ranged,
    spent_column,
    valued,
)

KEYS = (
    "n",
    "acc1",
    "low",
    "high",
    "difference",
    "diff_low",
    "diff_high",
    "wins",
    "losses",
    "p",
    "evaluations",
    "gflops",
    "gflops_matching",
    "seconds",
    "peak_memory_mib",
    "fingerprint",
)
RANKING_KEYS = (
    "map",
    "map_low",
    "map_high",
    "map_difference",
    "map_diff_low",
    "map_diff_high",
    "map_p",
    "map_official",
    "acc1_of_all",
    "map_of_all",
)
LEGEND = (
    "Accuracy is in percent, with 95% Wilson intervals; the difference from the baseline is in "
    "points, with 95% intervals (Newcombe 1998, method 10). Wins are images that only the method "
    "classifies correctly, and losses are images that only the baseline does; p is McNemar's exact "
    "test. Evaluations are the mean per image."
)
SPENT_LEGEND = "Seconds are the median per image."
RANKING_LEGEND = (
    "A prediction is correct if it is one of the image's labels. mAP is the mean over images of "
    "the average precision of the ranking of all classes, in which finalists come first and each "
    "group is ordered by its mean error; its difference is paired, with a t-test. The official "
    "ranking takes the prediction first and then all other classes by their mean error, although "
    "these are means over different numbers of timesteps. The last two columns count images "
    "without labels as wrong and rank as the published code does."
)

PANEL = Panel(
    "acc1",
    "low",
    "high",
    "Top-1 accuracy (%), 95% interval",
    "seconds",
    "conditions",
    "Seconds per image classified (median)",
)


def accuracy_row(
    title: str,
    frame: pd.DataFrame | None = None,
    baseline: pd.DataFrame | None = None,
    cost: Mapping[str, float | None] | None = None,
    fingerprint: str | None = None,
    conditions: frozenset[str] = frozenset(),
    unlabelled: int | None = None,
) -> Row:
    """One row of an accuracy table; what is not known is None.

    Args:
        title: the method's name.
        frame: its images, with the columns image_id, labels, prediction, samples and seconds, and
            errors where images have several labels; None if it has not run.
        baseline: the baseline's images; None if this is the baseline, or that has not run.
        cost: "gflops" of one evaluation, of which "gflops_matching" for matching, and
            "peak_memory_mib".
        fingerprint: of its run.
        conditions: under which its images were computed.
        unlabelled: the number of images without labels that were left out; None if not known.

    Returns:
        "method", the `KEYS` and `RANKING_KEYS`: accuracy ("acc1", "low", "high") in percent,
        differences in points, "evaluations" the mean over images of the summed ``samples``,
        "seconds" their median. Of multi-label data also "map", the mean average precision of the
        classes' ranking with finalists first, in percent, "map_official" of the published code's
        ranking, and "acc1_of_all" and "map_of_all", which count unlabelled images as wrong and rank
        as the published code does.

    Raises:
        BiGainError: if the baseline has other images, or other labels for them.
        ValueError: if the frame is empty or the cost has other keys.
    """
    row: Row = {"method": title, **dict.fromkeys((*KEYS, *RANKING_KEYS))}
    if frame is None:
        return row
    if cost is not None:
        check_cost(cost)
        row.update(cost)
    correct = hits(frame["prediction"], frame["labels"])
    accuracy = top1(correct)
    row |= {
        "n": accuracy.n,
        "acc1": 100 * accuracy.value,
        "low": 100 * accuracy.low,
        "high": 100 * accuracy.high,
        "evaluations": float(frame["samples"].map(sum).mean()),
        "seconds": float(frame["seconds"].median()),
        "fingerprint": fingerprint,
        "conditions": conditions,
    }
    several = several_labels(frame)
    if several:
        row |= _ranking(frame)
        if unlabelled is not None:
            share = len(frame) / (len(frame) + unlabelled)
            row |= {
                "acc1_of_all": share * row["acc1"],
                "map_of_all": share * row["map_official"],
            }
    if baseline is not None:
        baseline = same_images(title, frame, baseline)
        test = paired(correct, hits(baseline["prediction"], baseline["labels"]))
        row |= {
            "difference": test.difference,
            "diff_low": test.low,
            "diff_high": test.high,
            "wins": test.wins,
            "losses": test.losses,
            "p": test.p,
        }
        if several:
            gain = mean_difference(precisions(frame), precisions(baseline))
            row |= {
                "map_difference": 100 * gain.value,
                "map_diff_low": 100 * gain.low,
                "map_diff_high": 100 * gain.high,
                "map_p": gain.p,
            }
    return row


def several_labels(frame: pd.DataFrame) -> bool:
    """Whether some image has more than one label, so that rankings are compared as well."""
    return bool(frame["labels"].map(len).max() > 1)


def precisions(frame: pd.DataFrame) -> np.ndarray:
    """Average precision of each image over its ranking with finalists first, float64 [I]."""
    ranking = finalists_first(np.stack(list(frame["errors"])), np.stack(list(frame["samples"])))
    return average_precision(ranking, list(frame["labels"]))


def _ranking(frame: pd.DataFrame) -> Row:
    ours = mean(precisions(frame))
    ranking = winner_first(np.stack(list(frame["errors"])), frame["prediction"])
    theirs = average_precision(ranking, list(frame["labels"]))
    return {
        "map": 100 * ours.value,
        "map_low": 100 * ours.low,
        "map_high": 100 * ours.high,
        "map_official": 100 * float(theirs.mean()),
    }


def same_images(title: str, frame: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """The baseline in the frame's order."""
    images = frame["image_id"]
    odd = sorted(set(images) ^ set(baseline["image_id"]))
    if odd or len(images) != len(baseline):
        raise BiGainError(
            f"{title} and its baseline must cover the same images: {len(images)} and "
            f"{len(baseline)} rows, {len(odd)} images in one alone, such as {', '.join(odd[:10])}; "
            "run both on the same images"
        )
    aligned = baseline.set_index("image_id").loc[images].reset_index()
    ours, theirs = (f["labels"].map(tuple).to_numpy() for f in (frame, aligned))
    differ = images[ours != theirs]
    if len(differ):
        raise BiGainError(
            f"{title} and its baseline have other labels for {len(differ)} images, such as "
            f"{', '.join(differ[:10])}; prepare the dataset anew and run both again"
        )
    return aligned


def p_value(value: float) -> str:
    """A p-value as tables print it."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _p_column(header: str, key: str) -> Column:
    return Column(header, lambda row: None if row[key] is None else p_value(row[key]), key)


def _wins(row: Row) -> str | None:
    return None if row["wins"] is None else f"{row['wins']}/{row['losses']}"


_COLUMNS = (
    counted("Images", "n"),
    ranged("Accuracy (%)", "acc1", "low", "high", ".1f"),
    ranged("Difference (points)", "difference", "diff_low", "diff_high", "+.1f"),
    Column("Wins/losses", _wins, "wins"),
    _p_column("p", "p"),
)
_RANKING = (
    ranged("mAP (%)", "map", "map_low", "map_high", ".1f"),
    ranged("mAP difference", "map_difference", "map_diff_low", "map_diff_high", "+.1f"),
    _p_column("p (mAP)", "map_p"),
    valued("mAP, official ranking", "map_official"),
    valued("Accuracy of all images", "acc1_of_all"),
    valued("mAP of all images, official ranking", "map_of_all"),
)
_EVALUATIONS = valued("Evaluations", "evaluations")


def accuracy_columns(rows: Sequence[Row], spent: bool = True) -> Columns:
    """The columns of ``rows``; those of the ranking where images have several labels.

    Args:
        spent: print the runs' time and memory, which depend on what else their machines did.
    """
    costs, legend = [_EVALUATIONS], LEGEND
    if spent:
        alike = comparable(rows, "seconds", "conditions")
        costs += [
            spent_column("Seconds", "seconds", alike),
            spent_column("Peak MiB", "peak_memory_mib", alike),
        ]
        legend += f" {SPENT_LEGEND}" + ("" if all(map(alike, rows)) else OTHERWISE_LEGEND)
    if all(row["map"] is None for row in rows):
        return Columns(KEYS, (*_COLUMNS, *costs), legend)
    columns = (*_COLUMNS, *_RANKING, *costs)
    return Columns((*KEYS, *RANKING_KEYS), columns, f"{legend} {RANKING_LEGEND}")

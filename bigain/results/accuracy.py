"""What classification contributes to a table."""

from collections.abc import Mapping

import pandas as pd

from bigain.errors import BiGainError
from bigain.metrics.accuracy import paired, top1
from bigain.results.tables import Column, Kind, Row, check_cost, count, interval, number

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
LEGEND = (
    "Accuracy and difference to the baseline in percent and points with 95% intervals (Wilson; "
    "Newcombe 1998, method 10); wins/losses are images that only the method/only the baseline "
    "gets right; p is the exact McNemar test. Evaluations are the mean and seconds the median of "
    "an image."
)


def accuracy_row(
    title: str,
    frame: pd.DataFrame | None = None,
    baseline: pd.DataFrame | None = None,
    cost: Mapping[str, float | None] | None = None,
    fingerprint: str | None = None,
) -> Row:
    """One row of an accuracy table; what is not known is None.

    Args:
        title: the method's name.
        frame: its images, with the columns image_id, label, prediction, samples and seconds; None
            if it has not run.
        baseline: the baseline's images; None if this is the baseline, or that has not run.
        cost: "gflops" of one evaluation, "gflops_matching" of them for matching, and
            "peak_memory_mib".
        fingerprint: of its run.

    Returns:
        "method" and the `KEYS`: accuracy ("acc1", "low", "high") in percent, differences in points,
        "evaluations" the mean over images of the summed ``samples``, "seconds" their median.

    Raises:
        BiGainError: if the baseline has other images, or other labels for them.
        ValueError: if the frame is empty or the cost has other keys.
    """
    row: Row = {"method": title, **dict.fromkeys(KEYS)}
    if frame is None:
        return row
    if cost is not None:
        check_cost(cost)
        row.update(cost)
    accuracy = top1(frame["prediction"], frame["label"])
    row |= {
        "n": accuracy.n,
        "acc1": 100 * accuracy.value,
        "low": 100 * accuracy.low,
        "high": 100 * accuracy.high,
        "evaluations": float(frame["samples"].map(sum).mean()),
        "seconds": float(frame["seconds"].median()),
        "fingerprint": fingerprint,
    }
    if baseline is not None:
        baseline = _same_images(title, frame, baseline)
        test = paired(_correct(frame), _correct(baseline))
        row |= {
            "difference": test.difference,
            "diff_low": test.low,
            "diff_high": test.high,
            "wins": test.wins,
            "losses": test.losses,
            "p": test.p,
        }
    return row


def _correct(frame: pd.DataFrame) -> pd.Series:
    return frame["prediction"] == frame["label"]


def _same_images(title: str, frame: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
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
    differ = images[aligned["label"].to_numpy() != frame["label"].to_numpy()]
    if len(differ):
        raise BiGainError(
            f"{title} and its baseline have other labels for {len(differ)} images, such as "
            f"{', '.join(differ[:10])}; prepare the dataset anew and run both again"
        )
    return aligned


def _p(row: Row) -> str | None:
    if row["p"] is None:
        return None
    return "<0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"


def _wins(row: Row) -> str | None:
    return None if row["wins"] is None else f"{row['wins']}/{row['losses']}"


COLUMNS = (
    Column("Images", lambda row: count(row["n"])),
    Column("Accuracy (%)", lambda row: interval(row, "acc1", "low", "high", ".1f")),
    Column(
        "Difference (points)",
        lambda row: interval(row, "difference", "diff_low", "diff_high", "+.1f"),
    ),
    Column("Wins/losses", _wins),
    Column("p", _p),
    Column("Evaluations", lambda row: number(row["evaluations"])),
    Column("Seconds", lambda row: number(row["seconds"])),
    Column("Peak MiB", lambda row: number(row["peak_memory_mib"])),
)
ACCURACY = Kind(KEYS, COLUMNS, LEGEND)

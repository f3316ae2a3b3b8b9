"""What generation contributes to a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bigain.errors import BiGainError
from bigain.metrics.accuracy import Z
from bigain.metrics.image_metric import MetricColumn
from bigain.tasks.columns import (
    OTHERWISE_LEGEND,
    Column,
    Columns,
    Metrics,
    Panel,
    Row,
    check_cost,
    comparable,
    counted,
    ranged,
    spent_column,
    valued,
)


def score_keys(metrics: Metrics) -> tuple[str, ...]:
    """The values of the metrics of images that CSV files hold."""
    values = (value for kind in metrics for value in kind.values)
    return tuple(value.key for value in values if value.table)


def keys(metrics: Metrics) -> tuple[str, ...]:
    """The columns of generation in CSV files."""
    return (
        "features",
        "reference",
        "reference_n",
        "generated",
        *score_keys(metrics),
        "fid_difference",
        "fid_diff_low",
        "fid_diff_high",
        "gflops",
        "gflops_matching",
        "generate_evaluations",
        "generate_seconds",
        "generate_peak_memory_mib",
        "generate_fingerprint",
    )


PANEL = Panel(
    "fid",
    "fid_low",
    "fid_high",
    "FID, lower is better, 95% interval",
    "generate_seconds",
    "generate_conditions",
    "Seconds per image generated (median)",
)


def generation_row(
    title: str,
    metrics: Metrics,
    frame: pd.DataFrame | None = None,
    scores: Mapping[str, Any] | None = None,
    baseline: Mapping[str, Any] | None = None,
    cost: Mapping[str, float | None] | None = None,
    fingerprint: str | None = None,
    conditions: frozenset[str] = frozenset(),
) -> Row:
    """One row of a generation table; what is not known is None.

    Args:
        title: the method's name.
        metrics: of images, whose values the row has.
        frame: its images, with the columns evaluations and seconds; None if it has not run.
        scores: of these images; None if they are not scored.
        baseline: the baseline's scores; None if this is the baseline, or that has none.
        cost: as `accuracy_row` takes it.
        fingerprint: of its run.
        conditions: under which its images were computed.

    Returns:
        "method" and the `keys`. The FID difference's interval is paired: both methods' bootstrap
        replicates resample the same seeds.

    Raises:
        BiGainError: if the baseline was scored with other features, reference or images.
    """
    row: Row = {"method": title, **dict.fromkeys(keys(metrics))}
    if frame is None:
        return row
    if cost is not None:
        check_cost(cost)
        row["generate_peak_memory_mib"] = cost["peak_memory_mib"]
        row |= {key: cost[key] for key in ("gflops", "gflops_matching")}
    row |= {
        "generated": len(frame),
        "generate_evaluations": float(frame["evaluations"].mean()),
        "generate_seconds": float(frame["seconds"].median()),
        "generate_fingerprint": fingerprint,
        "generate_conditions": conditions,
    }
    if scores is None:
        return row
    row |= {key: scores.get(key) for key in score_keys(metrics)}
    row |= {
        "features": scores["features"],
        "reference": scores["reference_name"],
        "reference_n": scores["reference_n"],
    }
    if baseline is not None and scores["fid"] is not None and baseline["fid"] is not None:
        difference, low, high = fid_difference(title, scores, baseline)
        row |= {"fid_difference": difference, "fid_diff_low": low, "fid_diff_high": high}
    return row


def generation_columns(rows: Sequence[Row], metrics: Metrics, spent: bool = True) -> Columns:
    """The columns of ``rows``, which say the features they come from.

    Args:
        metrics: of images, in the order of their columns.
        spent: print the runs' time, which depends on what else their machines did.

    Raises:
        BiGainError: if rows were scored with different features or references.
    """
    scored = {
        (row["features"], row["reference"], row["reference_n"])
        for row in rows
        if row["features"] is not None
    }
    if len(scored) > 1:
        raise BiGainError(
            "a table takes scores of one feature network against one reference, but these rows "
            f"have {' and '.join(f'{f} against {r}' for f, r, _ in sorted(scored))}; score them "
            "alike"
        )
    alike = comparable(rows, "generate_seconds", "generate_conditions") if spent else None
    otherwise = "" if alike is None or all(map(alike, rows)) else OTHERWISE_LEGEND
    if not scored:
        return _columns(metrics, "", f"The images have not been scored.{otherwise}", alike)
    ((features, reference, n),) = scored
    return _columns(
        metrics,
        f" ({features})",
        f"FID and all scores beside it use the features '{features}' and compare the generated "
        f"images with the {n:,} images of {reference}. The interval of FID is 1.96 standard "
        "deviations of a bootstrap over the images; that of its difference from the baseline is "
        "paired by seed. FID is biased upwards when there are few images, so compare it only at "
        "equal numbers of images. Precision and recall are those of Kynkäänniemi et al., and "
        "density and coverage those of Naeem et al."
        + (" Seconds (generation) are the median per image." if spent else "")
        + otherwise,
        alike,
    )


def _columns(
    metrics: Metrics, mark: str, legend: str, alike: Callable[[Row], bool] | None
) -> Columns:
    spent = (
        [] if alike is None else [spent_column("Seconds (generation)", "generate_seconds", alike)]
    )
    columns = (
        counted("Generated", "generated"),
        *(_column(column, mark) for kind in metrics for column in kind.columns),
        *spent,
    )
    return Columns(keys(metrics), columns, legend)


def _column(column: MetricColumn, mark: str) -> Column:
    title = f"{column.title}{mark}" if column.features else column.title
    if column.interval is None:
        return valued(title, column.key)
    return ranged(title, column.key, *column.interval, column.format)


def fid_difference(
    title: str, scores: Mapping[str, Any], baseline: Mapping[str, Any]
) -> tuple[float, float, float]:
    """FID less the baseline's, and its 95% interval, paired by the replicates' indices.

    Raises:
        BiGainError: if both were not scored alike.
    """
    return fid_contrast(title, {1: [scores], -1: [baseline]})


def fid_ratio(
    title: str, scores: Mapping[str, Any], baseline: Mapping[str, Any]
) -> tuple[float, float, float]:
    """FID over the baseline's, and its 95% interval, as `fid_difference`."""
    _check_alike(title, scores, baseline)
    logs = np.log(np.divide(scores["fid_replicates"], baseline["fid_replicates"]))
    found, factor = scores["fid"] / baseline["fid"], np.exp(Z * np.std(logs, ddof=1))
    return float(found), float(found / factor), float(found * factor)


def fid_contrast(
    title: str, terms: Mapping[int, Sequence[Mapping[str, Any]]]
) -> tuple[float, float, float]:
    """A sum of FIDs, each with its sign, and its interval, as `fid_difference`.

    Args:
        title: for errors.
        terms: scores by their sign, 1 or -1.
    """
    signed = [(sign, scores) for sign, those in terms.items() for scores in those]
    for _, scores in signed[1:]:
        _check_alike(title, signed[0][1], scores)
    value = sum(sign * scores["fid"] for sign, scores in signed)
    replicates = sum(sign * np.asarray(scores["fid_replicates"]) for sign, scores in signed)
    half = Z * float(np.std(replicates, ddof=1))
    return value, value - half, value + half


def _check_alike(title: str, scores: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    """Raise BiGainError unless both were scored with the same features, reference and count."""
    for key in ("features", "network", "reference", "n"):
        if scores[key] != baseline[key]:
            raise BiGainError(
                f"{title} was scored with {key} {scores[key]}, its baseline with {baseline[key]}; "
                "score both alike"
            )

"""Accuracy tables: numbers from finished images alone, as csv, Markdown and LaTeX."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bigain.errors import BiGainError
from bigain.metrics.accuracy import paired, top1
from bigain.results import atomic

DASH = "–"
KEYS = (
    "method",
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
COST = frozenset({"gflops", "gflops_matching", "peak_memory_mib"})
LEGEND = (
    "Accuracy and difference to the baseline in percent and points with 95% intervals (Wilson; "
    "Newcombe 1998, method 10); wins/losses are images that only the method/only the baseline "
    "gets right; p is the exact McNemar test. GFLOPs are of one evaluation of the denoiser, "
    "matching included; evaluations are the mean and seconds the median of an image."
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a printed table: its header, and the text of a row's cell, None for a dash."""

    header: str
    cell: Callable[[Row], str | None]


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
        The `KEYS`: accuracy ("acc1", "low", "high") in percent, differences in points,
        "evaluations" the mean over images of the summed ``samples``, "seconds" their median.

    Raises:
        BiGainError: if the baseline has other images, or other labels for them.
        ValueError: if the frame is empty or the cost has other keys.
    """
    row: Row = dict.fromkeys(KEYS)
    row["method"] = title
    if frame is None:
        return row
    if cost is not None:
        if cost.keys() != COST:
            raise ValueError(f"a cost has the keys {sorted(COST)}, got {sorted(cost)}")
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


def write(rows: Sequence[Row], stem: Path, title: str, note: str) -> str:
    """Write ``<stem>.csv``, ``<stem>.md`` and ``<stem>.tex``, and return the Markdown.

    The csv holds the `KEYS` at full precision, empty where there is none; the others are rounded,
    with a dash where there is none.

    Args:
        rows: from `accuracy_row`.
        stem: path without a suffix; its folder is made.
        title: one line.
        note: a paragraph below the table; may be empty.

    Raises:
        BiGainError: if a file cannot be written.
    """
    header = [column.header for column in _COLUMNS]
    cells = [[column.cell(row) or DASH for column in _COLUMNS] for row in rows]
    below = [LEGEND, note.strip()] if note.strip() else [LEGEND]
    markdown = _markdown(title, header, cells, below)
    with atomic.explained(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in (
        (".csv", _csv(rows)),
        (".md", markdown),
        (".tex", _latex(stem.name, title, header, cells, below)),
    ):
        atomic.write_text(stem.with_name(stem.name + suffix), text)
    return markdown


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


def _number(value: float | None, digits: int = 3) -> str | None:
    """``digits`` significant ones, and all of those before the point."""
    if value is None:
        return None
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(digits - before, 0)}f}"


def _count(value: int | None) -> str | None:
    return None if value is None else str(value)


def _interval(row: Row, value: str, low: str, high: str, spec: str) -> str | None:
    if row[value] is None:
        return None
    texts = [format(row[key], spec).replace("-", "−") for key in (value, low, high)]
    return "{} [{}, {}]".format(*texts)


def _p(row: Row) -> str | None:
    if row["p"] is None:
        return None
    return "<0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"


def _wins(row: Row) -> str | None:
    return None if row["wins"] is None else f"{row['wins']}/{row['losses']}"


_COLUMNS = (
    Column("Method", lambda row: row["method"]),
    Column("Images", lambda row: _count(row["n"])),
    Column("Accuracy (%)", lambda row: _interval(row, "acc1", "low", "high", ".1f")),
    Column(
        "Difference (points)",
        lambda row: _interval(row, "difference", "diff_low", "diff_high", "+.1f"),
    ),
    Column("Wins/losses", _wins),
    Column("p", _p),
    Column("Evaluations", lambda row: _number(row["evaluations"])),
    Column("GFLOPs", lambda row: _number(row["gflops"])),
    Column("of them matching", lambda row: _number(row["gflops_matching"])),
    Column("Seconds", lambda row: _number(row["seconds"])),
    Column("Peak MiB", lambda row: _number(row["peak_memory_mib"])),
)


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, KEYS, lineterminator="\n")  # None is written empty
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(title: str, header: list[str], cells: list[list[str]], below: Sequence[str]) -> str:
    lines = [[text.replace("|", "\\|") for text in line] for line in (header, *cells)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def join(line: list[str]) -> str:
        padded = [line[0].ljust(widths[0])]
        padded += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    table = "\n".join(map(join, [lines[0], rule, *lines[1:]]))
    return "\n\n".join([f"# {title}", table, *below]) + "\n"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "_": r"\_",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "−": "$-$",
        "–": "--",
        "×": r"$\times$",
        "→": r"$\to$",
    }
)


def _latex(
    name: str, title: str, header: list[str], cells: list[list[str]], below: Sequence[str]
) -> str:
    """A table that needs the package booktabs."""
    lines = [
        " & ".join(text.translate(_LATEX) for text in line) + r" \\" for line in (header, *cells)
    ]
    caption = " ".join([title.rstrip(".") + ".", *below]).translate(_LATEX)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{name}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )

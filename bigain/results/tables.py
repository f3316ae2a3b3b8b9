"""Tables of rows as csv, Markdown and LaTeX; numbers come from finished images alone."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigain.results import atomic

DASH = "–"
COST = frozenset({"gflops", "gflops_matching", "peak_memory_mib"})

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a printed table: its header, and the text of a row's cell, None for a dash."""

    header: str
    cell: Callable[[Row], str | None]


@dataclass(frozen=True)
class Kind:
    """What a task contributes to a table.

    Attributes:
        keys: of its rows, all of which the csv holds.
        columns: that are printed.
        legend: says what they mean.
    """

    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    legend: str


def write(rows: Sequence[Row], kinds: Sequence[Kind], stem: Path, title: str, note: str) -> str:
    """Write ``<stem>.csv``, ``<stem>.md`` and ``<stem>.tex``, and return the Markdown.

    The csv holds every key at full precision, empty where there is none; the others are rounded,
    with a dash where there is none.

    Args:
        rows: dicts of "method" and the kinds' keys.
        kinds: one a task, in the order in which their columns come.
        stem: path without a suffix; its folder is made.
        title: one line.
        note: a paragraph below the table; may be empty.

    Raises:
        BiGainError: if a file cannot be written.
    """
    columns = [METHOD, *(column for kind in kinds for column in kind.columns), *COSTS]
    keys = list(dict.fromkeys(["method", *(key for kind in kinds for key in kind.keys)]))
    header = [column.header for column in columns]
    cells = [[column.cell(row) or DASH for column in columns] for row in rows]
    below = [text for text in (*(kind.legend for kind in kinds), FLOPS, note.strip()) if text]
    markdown = _markdown(title, header, cells, below)
    with atomic.explained(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in (
        (".csv", _csv(rows, keys)),
        (".md", markdown),
        (".tex", _latex(stem.name, title, header, cells, below)),
    ):
        atomic.write_text(stem.with_name(stem.name + suffix), text)
    return markdown


def check_cost(cost: Mapping[str, float | None]) -> None:
    """ValueError unless the keys are `COST`'s."""
    if cost.keys() != COST:
        raise ValueError(f"a cost has the keys {sorted(COST)}, got {sorted(cost)}")


def number(value: float | None, digits: int = 3) -> str | None:
    """``digits`` significant ones, and all of those before the point."""
    if value is None:
        return None
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(digits - before, 0)}f}".replace("-", "−")


def count(value: int | None) -> str | None:
    return None if value is None else str(value)


def interval(row: Row, value: str, low: str, high: str, spec: str) -> str | None:
    """The value and its interval, each in the format ``spec``."""
    if row[value] is None:
        return None
    texts = [format(row[key], spec).replace("-", "−") for key in (value, low, high)]
    return "{} [{}, {}]".format(*texts)


METHOD = Column("Method", lambda row: row["method"])
COSTS = (
    Column("GFLOPs", lambda row: number(row["gflops"])),
    Column("of them matching", lambda row: number(row["gflops_matching"])),
)
FLOPS = "GFLOPs are of one evaluation of the denoiser, matching included."


def _csv(rows: Sequence[Row], keys: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")  # None is written empty
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

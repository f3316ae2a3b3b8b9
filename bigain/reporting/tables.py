"""Tables of rows as csv, Markdown and LaTeX; numbers come from finished images alone."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigain.reporting import markdown
from bigain.utils import files

DASH = "–"
COST = frozenset({"gflops", "gflops_matching", "peak_memory_mib"})

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a printed table: its header, and the text of a row under it, None for a dash."""

    header: str
    text: Callable[[Row], str | None]


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


@dataclass(frozen=True)
class Section:
    """Rows that are compared with each other.

    Attributes:
        title: above them, such as the model and its data; empty for a table of one section.
        rows: dicts of "method" and the kinds' keys.
        kinds: one a task and more, in the order in which their columns come.
    """

    title: str
    rows: Sequence[Row]
    kinds: Sequence[Kind]

    @property
    def columns(self) -> list[Column]:
        time = [TIME] if self.timed else []
        return [METHOD, *(c for kind in self.kinds for c in kind.columns), *COSTS, *time, RUN]

    @property
    def timed(self) -> bool:
        """Whether the forwards of two rows were timed; one alone compares with nothing."""
        return sum(row.get("time") is not None for row in self.rows) > 1

    @property
    def texts(self) -> list[list[str]]:
        """The header, then a line a row."""
        columns = self.columns
        lines = [[column.text(row) or DASH for column in columns] for row in self.rows]
        return [[column.header for column in columns], *lines]


def write(
    sections: Sequence[Section], stem: Path, title: str, note: str, timed_on: str | None = None
) -> str:
    """Write ``<stem>.csv``, ``<stem>.md`` and ``<stem>.tex``, and return the Markdown.

    The csv holds every key at full precision, empty where there is none, and the section in its
    column "group" if there are several; the others are rounded, with a dash where there is none.

    Args:
        stem: path without a suffix; its folder is made.
        title: one line.
        note: a paragraph below the table; may be empty.
        timed_on: what the rows' times were measured on, if they have any.

    Raises:
        BiGainError: if a file cannot be written.
    """
    legends = dict.fromkeys(kind.legend for s in sections for kind in s.kinds)
    time = TIMED.format(timed_on) if any(section.timed for section in sections) else ""
    below = [text for text in (*legends, FLOPS, time, note.strip()) if text]
    text = "\n\n".join([f"# {title}", *map(_markdown, sections), *below]) + "\n"
    with files.explained(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in (
        (".csv", csv_text(sections)),
        (".md", text),
        (".tex", _latex(stem.name, sections, title, below)),
    ):
        files.write_text(stem.with_name(stem.name + suffix), content)
    return text


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
    if row.get(value) is None:
        return None
    texts = [format(row[key], spec).replace("-", "−") for key in (value, low, high)]
    return "{} [{}, {}]".format(*texts)


def _runs(row: Row) -> str | None:
    """The runs' fingerprints, shortened."""
    keys = ("fingerprint", "generate_fingerprint")
    found = [row[key][:8] for key in keys if row.get(key)]
    return " ".join(found) or None


METHOD = Column("Method", lambda row: row["method"])
COSTS = (
    Column("GFLOPs", lambda row: number(row["gflops"])),
    Column("of them matching", lambda row: number(row["gflops_matching"])),
)
TIME = Column("Time", lambda row: interval(row, "time", "time_low", "time_high", ".2f"))
RUN = Column("Run", _runs)
TIMES = ("time", "time_low", "time_high")
TIMED = (
    "Time is that of a forward of the denoiser alone, 1 for the uncompressed, all timed in turn on "
    "{}; brackets hold quartiles (scripts/benchmark.py suites=[tables])."
)
FLOPS = (
    "GFLOPs are of one evaluation of the denoiser, matching included. Run is the first half of the "
    "fingerprint that ends the name of the run's folder."
)


def csv_text(sections: Sequence[Section]) -> str:
    several = len(sections) > 1
    keys = dict.fromkeys(key for s in sections for kind in s.kinds for key in kind.keys)
    text = io.StringIO()
    # None is written empty; a row may hold more than its table shows
    times = TIMES if any(section.timed for section in sections) else ()
    names = [*(["group"] if several else []), "method", *keys, *times]
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for section in sections:
        writer.writerows({"group": section.title, **row} for row in section.rows)
    return text.getvalue()


def _markdown(section: Section) -> str:
    table = markdown.table(section.texts)
    return f"## {section.title}\n\n{table}" if section.title else table


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


def _latex(name: str, sections: Sequence[Section], title: str, below: Sequence[str]) -> str:
    """A table that needs the package booktabs; one tabular a section."""
    caption = " ".join([title.rstrip(".") + ".", *below]).translate(_LATEX)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{name}}}",
    ]
    for section in sections:
        header, *body = (
            " & ".join(text.translate(_LATEX) for text in line) + r" \\" for line in section.texts
        )
        if section.title:
            lines.append(rf"\par\medskip {section.title.translate(_LATEX)}\par")
        lines += [
            rf"\begin{{tabular}}{{l{'r' * (len(section.columns) - 1)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    return "\n".join([*lines, r"\end{table}", ""])

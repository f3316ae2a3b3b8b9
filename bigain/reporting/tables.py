"""Tables of rows as CSV, Markdown and LaTeX; numbers come from finished images alone."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bigain.tasks.columns import Column, Columns, Row, ranged, valued
from bigain.utils import files
from bigain.utils.tables import DASH, latex, latex_text, markdown, printable


@dataclass(frozen=True)
class Section:
    """Rows that are compared with each other.

    Attributes:
        title: what stands above them, such as the model and its data; empty for a table of one
            section.
        rows: dicts of "method" and the parts' keys.
        parts: what each task and the published values contribute, in the order of the columns.
    """

    title: str
    rows: Sequence[Row]
    parts: Sequence[Columns]

    @property
    def columns(self) -> list[Column]:
        time = [TIME] if self.timed else []
        return [METHOD, *(c for part in self.parts for c in part.printed), *COSTS, *time, RUN]

    @property
    def timed(self) -> bool:
        """Whether at least two rows were timed; a single one has nothing to compare with."""
        return sum(row.get("time") is not None for row in self.rows) > 1

    @property
    def texts(self) -> list[list[str]]:
        """The header, then one line per row."""
        columns = self.columns
        lines = [[column.text(row) or DASH for column in columns] for row in self.rows]
        return [[column.header for column in columns], *lines]


def write(
    sections: Sequence[Section], stem: Path, title: str, note: str, timed_on: str | None = None
) -> str:
    """Write ``<stem>.csv``, ``<stem>.md`` and ``<stem>.tex``, and return the Markdown.

    The CSV file holds every value at full precision, with empty fields for those that are not
    known, and the section in its column "group" if there are several. The others are rounded, with
    a dash for what is not known.

    Args:
        stem: path without a suffix; its folder is made.
        title: one line.
        note: a paragraph below the table; may be empty.
        timed_on: what the rows' times were measured on, if they have any.

    Raises:
        BiGainError: if a file cannot be written.
    """
    below = [*legend(sections, timed_on), *([note.strip()] if note.strip() else [])]
    text = "\n\n".join([f"# {printable(title)}", *map(_markdown, sections), *below]) + "\n"
    files.make_folder(stem.parent)
    for suffix, content in (
        (".csv", csv_text(sections)),
        (".md", text),
        (".tex", _latex(stem.name, sections, title, below)),
    ):
        files.write_text(stem.with_name(stem.name + suffix), content)
    return text


def legend(sections: Sequence[Section], timed_on: str | None = None) -> list[str]:
    """What the columns mean, in paragraphs.

    Args:
        timed_on: what the rows' times were measured on, if they have any.
    """
    own = dict.fromkeys(part.legend for section in sections for part in section.parts)
    time = [TIMED.format(timed_on)] if any(section.timed for section in sections) else []
    return [text for text in (*own, FLOPS, *time) if text]


def _runs(row: Row) -> str | None:
    """The runs' fingerprints, shortened."""
    keys = ("fingerprint", "generate_fingerprint")
    found = [row[key][:8] for key in keys if row.get(key)]
    return " ".join(found) or None


METHOD = Column("Method", lambda row: row["method"])
COSTS = (valued("GFLOPs", "gflops"), valued("of which matching", "gflops_matching"))
TIME = ranged("Time", "time", "time_low", "time_high", ".2f")
RUN = Column("Run", _runs)
TIMES = ("time", "time_low", "time_high")
TIMED = (
    "Time is that of a forward pass of the denoiser alone, relative to the uncompressed model; all "
    "were timed in turn on {}. Brackets are quartiles (scripts/benchmark.py suites=[tables])."
)
FLOPS = (
    "GFLOPs are those of one evaluation of the denoiser, matching included. Run is the first half "
    "of the fingerprint with which the name of the run's folder ends."
)


def csv_text(sections: Sequence[Section]) -> str:
    several = len(sections) > 1
    keys = dict.fromkeys(key for s in sections for part in s.parts for key in part.keys)
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
    table = markdown(section.texts)
    return f"## {printable(section.title)}\n\n{table}" if section.title else table


def _latex(name: str, sections: Sequence[Section], title: str, below: Sequence[str]) -> str:
    """A table float that needs the package booktabs; one tabular per section."""
    caption = latex_text(" ".join([title.rstrip(".") + ".", *below]))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{name}}}",
    ]
    for section in sections:
        if section.title:
            lines.append(rf"\par\medskip {latex_text(section.title)}\par")
        lines.append(latex(section.texts))
    return "\n".join([*lines, r"\end{table}", ""])

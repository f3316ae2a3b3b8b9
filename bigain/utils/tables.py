"""Tables of text in Markdown and LaTeX, formatted by pandas."""

from collections.abc import Sequence

import pandas as pd

DASH = "–"  # printed in tables where there is no value


def printable(text: str) -> str:
    """A text in one line, without characters that cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown_text(text: str) -> str:
    """A text that stays in its entry of a Markdown table."""
    return printable(text).replace("\\", "\\\\").replace("|", "\\|")


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also legible as text.

    Args:
        lines: the header first; the first column is aligned left, the others right.
    """
    header, *rows = [[markdown_text(text) for text in line] for line in lines]
    frame = pd.DataFrame(rows, columns=pd.Index(header), dtype=str)
    align = ["left", *["right"] * (len(header) - 1)]
    return str(frame.to_markdown(index=False, disable_numparse=True, colalign=align))


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


def latex_text(text: str) -> str:
    """One line in which every character is escaped that LaTeX would interpret."""
    return printable(text).translate(_LATEX)


def latex(lines: Sequence[Sequence[str]]) -> str:
    """A LaTeX tabular of the same lines, which needs the package booktabs."""
    header, *rows = [[latex_text(text) for text in line] for line in lines]
    frame = pd.DataFrame(rows, columns=pd.Index(header), dtype=str)
    return frame.to_latex(index=False, column_format="l" + "r" * (len(header) - 1)).rstrip("\n")


def interval(found: tuple[float, float, float], spec: str) -> str:
    """A value with the ends of its interval, as tables print it."""
    value, low, high = (formatted(number, spec) for number in found)
    return f"{value} [{low}, {high}]"


def formatted(number: float, spec: str) -> str:
    """A number in a format, with a minus sign instead of a hyphen."""
    return format(number, spec).replace("-", "−")

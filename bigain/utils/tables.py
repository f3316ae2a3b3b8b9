"""Tables of text as Markdown and LaTeX, by pandas."""

from collections.abc import Sequence

import pandas as pd

DASH = "–"  # what a table prints where there is no value


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also legible as text.

    Args:
        lines: the header first; the first column stands to the left, the others to the right.
    """
    header, *rows = [[text.replace("|", "\\|") for text in line] for line in lines]
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
    """Text with every character that LaTeX would interpret escaped."""
    return text.translate(_LATEX)


def latex(lines: Sequence[Sequence[str]]) -> str:
    """A LaTeX tabular of the same lines; it needs the package booktabs."""
    header, *rows = [[latex_text(text) for text in line] for line in lines]
    frame = pd.DataFrame(rows, columns=pd.Index(header), dtype=str)
    return frame.to_latex(index=False, column_format="l" + "r" * (len(header) - 1)).rstrip("\n")

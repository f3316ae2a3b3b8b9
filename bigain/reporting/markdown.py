"""Markdown tables that are also legible as text."""

from collections.abc import Sequence


def table(lines: Sequence[Sequence[str]]) -> str:
    """The header first; the first column to the left, others to the right."""
    cells = [[text.replace("|", "\\|") for text in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def join(line: Sequence[str]) -> str:
        padded = [line[0].ljust(widths[0])]
        padded += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    return "\n".join(map(join, [cells[0], rule, *cells[1:]]))

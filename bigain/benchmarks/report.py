"""What a suite found: tables for people, and every single time for machines."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bigain.metrics.ratio import Ratio
from bigain.utils import files
from bigain.utils.tables import DASH, markdown


@dataclass(frozen=True)
class Bar:
    """A bound that a ratio is held to.

    Attributes:
        wanted: the bound in words, such as "at most 0.5".
        found: the ratio and its spread.
    """

    name: str
    wanted: str
    found: str
    met: bool

    @classmethod
    def least(cls, name: str, found: Ratio, least: float) -> "Bar":
        return cls(name, f"at least {least}", text(found), found.median >= least)

    @classmethod
    def most(cls, name: str, found: Ratio, most: float) -> "Bar":
        return cls(name, f"at most {most}", text(found), found.median <= most)


@dataclass(frozen=True)
class Report:
    """A suite's findings.

    Attributes:
        note: what was timed against what, and how.
        tables: the tables by heading; the first line of each is its header.
        measurements: everything that was timed, with the seconds of each round.
        bars: the bounds that the suite is held to.
        how: how the line about the conditions begins.
    """

    title: str
    note: str
    tables: dict[str, list[list[str]]]
    measurements: list[dict[str, Any]]
    bars: list[Bar] = field(default_factory=list)
    how: str = "Measured on"

    def write(self, folder: Path, name: str, conditions: dict[str, Any]) -> str:
        """Write ``<folder>/<name>.{md,json}`` and return the Markdown."""
        parts = [f"# {self.title}", self.note]
        for heading, lines in self.tables.items():
            parts += [f"## {heading}", markdown(lines)]
        if self.bars:
            parts += ["## Bars", markdown(_lines(self.bars))]
        about = [f"{key}: {value}" for key, value in conditions.items() if value is not None]
        text = "\n\n".join([*parts, f"{self.how} " + "; ".join(about) + "."]) + "\n"
        content = {
            "conditions": conditions,
            "bars": [asdict(bar) for bar in self.bars],
            "measurements": self.measurements,
        }
        files.make_folder(folder)
        files.write_text(folder / f"{name}.md", text)
        files.write_text(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        return text


def summary(folder: Path, devices: Sequence[str], suites: Sequence[str]) -> str:
    """A table of every suite's bars by device, with a dash where a device has no measurement."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for device in devices:
        for suite in suites:
            path = folder / device / f"{suite}.json"
            if path.exists():
                for bar in json.loads(path.read_text())["bars"]:
                    verdict = bar["found"] if bar["met"] else f"**{bar['found']}**"
                    found.setdefault((bar["name"], bar["wanted"]), {})[device] = verdict
    header = ["Ratio", "Wanted", *devices]
    lines = [[*bar, *(by.get(d, DASH) for d in devices)] for bar, by in found.items()]
    return markdown([header, *lines])


def text(ratio: Ratio, digits: int = 2) -> str:
    """The median and the quartiles."""
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*ratio, d=digits)


def mib(peak: float | None) -> str:
    """A memory peak, or a dash where the system does not report it."""
    return DASH if peak is None else f"{peak:.0f}"


def _lines(bars: Sequence[Bar]) -> list[list[str]]:
    rows = [[bar.name, bar.wanted, bar.found, "yes" if bar.met else "**no**"] for bar in bars]
    return [["Ratio", "Wanted", "Found", "Met"], *rows]

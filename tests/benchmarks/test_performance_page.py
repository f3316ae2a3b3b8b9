"""docs/performance.md and the README show what the benchmarks found."""

import json
import re

from bigain.benchmarks import flops
from bigain.benchmarks.report import summary
from bigain.benchmarks.suites import SUITES, measured_hardware
from bigain.benchmarks.tables import WORTH, worth
from bigain.utils.paths import REPOSITORY

BENCHMARKS = REPOSITORY / "results" / "benchmarks"
README = (REPOSITORY / "README.md").read_text()
BARS = (BENCHMARKS / "bars.md").read_text()


def cells(table: str) -> list[list[str]]:
    """A Markdown table's cells, without the line below its header."""
    header, _, *lines = table.strip().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, *lines)]


def shown(what: str) -> list[list[str]]:
    text = (REPOSITORY / "docs" / "performance.md").read_text()
    (found,) = re.findall(rf"<!-- {what} -->\n(.*?)\n<!-- /{what} -->", text, re.S)
    return cells(found)


def test_the_page_shows_every_ratio_asked_for():
    assert shown("bars") == cells(BARS)


def test_the_bars_are_those_of_the_suites():
    assert cells(summary(BENCHMARKS, measured_hardware(BENCHMARKS), SUITES)) == cells(BARS)


def test_the_readme_and_the_page_quote_them():
    """How many methods realise nine tenths of the FLOPs' promise, in either precision."""
    header, *lines = cells(BARS)
    found = {line[0]: dict(zip(header, line, strict=True)) for line in lines}

    def realised(model: str, device: str) -> str:
        text = found[f"saving realised of the FLOPs' promise, {model}"][device]
        (count,) = re.findall(r"^\W*(\d+ of \d+) methods", text)
        return count

    counts = [
        realised("sd2, float32", "cpu-avx2"),
        realised("dit_xl2_512, float32", "cpu-avx2"),
        realised("sd2", "cpu-amx_bf16"),
        realised("dit_xl2_512", "cpu-amx_bf16"),
    ]
    (claim,) = re.findall(r"^- \*\*FLOPs are not time\.(.*?)\n(?=- )", README, re.M | re.S)
    assert re.findall(r"\d+\s+of\s+\d+", claim) == counts
    page = (REPOSITORY / "docs" / "performance.md").read_text()
    summarised, _ = page.split("\n## ", 1)
    assert re.findall(r"\d+\s+of\s+\d+", summarised) == counts


def test_the_page_counts_the_small_models_compressions():
    lines = []
    for kind in measured_hardware(BENCHMARKS):
        path = BENCHMARKS / kind / "tables.json"
        if path.exists():
            for found in json.loads(path.read_text())["measurements"]:
                first, *others = worth(found)
                lines.append([f"{first}, {kind}", *others])
    assert shown("worth") == [WORTH, *lines]


def test_the_page_shows_what_the_published_models_save():
    found = json.loads((BENCHMARKS / "flops.json").read_text())["measurements"]
    assert shown("flops") == flops.lines(found)

"""docs/performance.md and the README show what the benchmarks found."""

import json
import re

from bigain.benchmarks.report import summary
from bigain.benchmarks.suites import SUITES, measured_hardware
from bigain.benchmarks.tables import WORTH, worth
from bigain.utils.paths import REPOSITORY
from bigain.utils.tables import markdown

BENCHMARKS = REPOSITORY / "results" / "benchmarks"
BARS = (BENCHMARKS / "bars.md").read_text()


def shown(path: str, what: str = "bars") -> str:
    text = (REPOSITORY / path).read_text()
    (found,) = re.findall(rf"<!-- {what} -->\n(.*?)\n<!-- /{what} -->", text, re.S)
    return found.strip()


def fields(table: str) -> list[list[str]]:
    """The texts of a Markdown table, whatever the width of its columns."""
    header, _, *rows = table.strip().splitlines()
    return [[text.strip() for text in row.strip("|").split("|")] for row in (header, *rows)]


def test_the_page_shows_every_ratio_asked_for():
    assert shown("docs/performance.md") == BARS.strip()


def test_the_bars_are_those_of_the_suites():
    found = summary(BENCHMARKS, measured_hardware(BENCHMARKS), SUITES)
    assert fields(found) == fields(BARS)


def test_the_readme_quotes_them():
    lines = shown("README.md").splitlines()
    known = [re.sub(r" +", " ", line) for line in BARS.splitlines()]
    assert len(lines) > 4
    for line in lines[2:]:
        assert re.sub(r" +", " ", line) in known


def test_the_page_counts_the_small_models_compressions():
    lines = []
    for kind in measured_hardware(BENCHMARKS):
        path = BENCHMARKS / kind / "tables.json"
        if path.exists():
            for found in json.loads(path.read_text())["measurements"]:
                first, *others = worth(found)
                lines.append([f"{first}, {kind}", *others])
    assert fields(shown("docs/performance.md", "worth")) == fields(markdown([WORTH, *lines]))

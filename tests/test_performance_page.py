"""docs/performance.md and the README show what the benchmarks found."""

import re

from bigain.config import REPOSITORY
from scripts.benchmark import SUITES, measured
from scripts.benchmarking.report import summary

BENCHMARKS = REPOSITORY / "results" / "benchmarks"
BARS = (BENCHMARKS / "bars.md").read_text()


def shown(path: str) -> str:
    text = (REPOSITORY / path).read_text()
    (found,) = re.findall(r"<!-- bars -->\n(.*?)\n<!-- /bars -->", text, re.S)
    return found.strip()


def test_the_page_shows_every_ratio_asked_for():
    assert shown("docs/performance.md") == BARS.strip()


def test_the_bars_are_those_of_the_suites():
    assert summary(BENCHMARKS, measured(BENCHMARKS), SUITES).strip() == BARS.strip()


def test_the_readme_quotes_them():
    lines = shown("README.md").splitlines()
    known = [re.sub(r" +", " ", line) for line in BARS.splitlines()]
    assert len(lines) > 4
    for line in lines[2:]:
        assert re.sub(r" +", " ", line) in known

"""What a race saves, in a table; and the page shows what came out."""

import re

from bigain.reporting import racing
from bigain.reporting.race_replay import race
from bigain.utils.paths import REPOSITORY
from tests.reporting.test_race_replay import errors_of


def test_the_table_counts_what_was_taken_and_agreed():
    errors = errors_of()
    header, _, *lines = racing.table({"toy": errors}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert "Same answer" in header and len(cells) == 2 + len(racing.AGREEMENTS)
    assert cells[0][:4] == ["toy", "all", "200.0", "1.60"] and cells[0][6].startswith("100.0 [")
    assert cells[1][2:4] == ["125.0", "1.00"] and cells[1][5] == "–"
    for line, agreement in zip(cells[2:], racing.AGREEMENTS, strict=True):
        found = race(errors, agreement)
        assert line[2] == f"{found.evaluations.mean():.1f}"
        assert line[6].startswith(f"{100 * (found.predictions == errors.answers).mean():.1f} [")


def test_the_page_shows_the_tables():
    def cells(text: str) -> list[list[str]]:
        rows = [line for line in text.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if "--" not in row]

    page = (REPOSITORY / "docs" / "performance.md").read_text()
    made = (REPOSITORY / "results" / "mini" / "racing.md").read_text()
    for name in ("strategies", "ablation", "simulated"):
        (shown,) = re.findall(
            rf"<!-- racing-{name} -->\n(.*?)\n<!-- /racing-{name} -->", page, re.S
        )
        (written,) = re.findall(rf"## {name.capitalize()}\n(.*?)(?=\n## |\Z)", made, re.S)
        assert cells(shown) == cells(written)

"""The tables of docs/findings.md from rows with known answers, and the page itself."""

import re

import numpy as np
import pandas as pd
import pytest

from bigain.experiments import experiment_files
from bigain.reporting import findings
from bigain.reporting.build import Found
from bigain.reporting.findings import TABLES, Row
from bigain.utils.paths import REPOSITORY

CLASSES, NOISES = 4, 3
PAGE = (REPOSITORY / "docs" / "findings.md").read_text()


def frame(right: list[bool], noise: float = 0.0) -> pd.DataFrame:
    """Images of class 1, some of them classified rightly."""
    generator = np.random.default_rng(1)
    errors = generator.normal(size=(len(right), CLASSES, NOISES))
    errors = errors + noise * np.random.default_rng(2).normal(size=errors.shape)
    late = np.full((len(right), CLASSES, 1), np.nan)  # a stage that not all classes reach
    trials = np.concatenate([errors, late], -1)
    return pd.DataFrame(
        {
            "image_id": [f"{i:03d}" for i in range(len(right))],
            "labels": [[1]] * len(right),
            "prediction": [1 if r else 2 for r in right],
            "errors": list(errors.mean(-1)),
            "samples": [[NOISES] * CLASSES] * len(right),
            "trials": [t.ravel() for t in trials],
        }
    )


def row(title: str, right: list[bool], noise: float = 0.0, fid: float | None = None) -> Row:
    scores = None
    if fid is not None:
        replicates = list(fid + np.linspace(-0.1, 0.1, 9))
        same = {"features": "f", "network": "n", "reference": "r", "n": 8}
        scores = {"fid": fid, "fid_replicates": replicates, **same}
    entries = {"classify": Found(frame=frame(right, noise)), "generate": Found(scores=scores)}
    return Row(title, entries)


ALL, HALF, NONE = [True] * 8, [True, False] * 4, [False] * 8


def lines(name: str, rows: dict[str, Row]) -> list[list[str]]:
    """Of a table, without the model and data that each line begins with."""
    return [line for _, *line in TABLES[name][2]({"Model, data": rows})]


def test_a_pair_is_compared_on_its_images():
    rows = {"lgtm@0.5": row("L-GTM", HALF), "tome_first@0.5": row("first", ALL)}
    (line,) = lines("gating", rows)
    assert line[:4] == ["L-GTM", "first", "50.0", "100.0"]
    assert line[4].startswith("−50.0 [") and line[5] == "0/4" and line[6] == "0.125"
    assert lines("gating", {"lgtm@0.5": rows["lgtm@0.5"]}) == []


def test_fid_is_compared_by_replicates():
    rows = {"lgtm@0.5": row("a", ALL, fid=5.0), "tome@0.5": row("b", ALL, fid=3.0)}
    assert lines("gating-fid", rows) == [["a", "b", "5.00", "3.00", "+2.00 [+2.00, +2.00]"]]


def test_noise_is_over_the_noises_that_all_classes_saw():
    rows = {"none": row("none", ALL), "tome@0.5": row("t", HALF, 0.0)}
    rows["tome_unpaired@0.5"] = row("u", HALF, noise=1.0)
    quiet, loud = lines("noise", rows)
    assert quiet == ["t", "50.0", "0.000 [0.000, 0.000]"]
    assert 0.3 < float(loud[2].split()[0]) < 3


def test_what_is_lost_together():
    names = ("none", "lgtm@0.5", "iekvd@2", "lgtm_iekvd@0.5+2")
    rights = (ALL, HALF, HALF, NONE)
    fids = (1.0, 2.0, 3.0, 5.0)
    rows = {n: row(n, r, fid=f) for n, r, f in zip(names, rights, fids, strict=True)}
    accuracy, fid = lines("together", rows)
    assert accuracy[1:5] == ["100.0", "50.0", "50.0", "0.0"]
    assert accuracy[5].startswith("+0.0 [")
    assert fid[5] == "+1.00 [+1.00, +1.00]"


def test_what_is_kept_is_above_chance():
    rows = {"none": row("none", ALL, fid=2.0), "x": row("x", HALF, fid=6.0)}
    ((title, kept, times),) = lines("breaking", rows)
    assert title == "x" and kept.split()[0] == f"{1 - 0.5 / 0.75:.2f}"
    assert times.split()[0] == "3.00" and times != "3.00 [3.00, 3.00]"


def test_scores_are_tested_twice():
    rows = {"tome_first@0.7": row("first", HALF), "lgtm@0.7": row("Laplacian", NONE)}
    rows["lgtm_l1_norm@0.7"] = row("L1", ALL)
    rows["lgtm_l1_norm@0.5"] = row("L1 at another ratio", ALL)
    own, other = lines("scores", rows)
    assert own[:2] == ["Laplacian", "0.0"] and own[2].startswith("−50.0 [")
    assert own[4:] == ["–", "–"]
    assert other[2].startswith("+50.0 [") and other[4].startswith("+100.0 [")


def test_an_alpha_stands_against_the_paper_s_choice_for_each_task():
    rows = {"iekvd_alpha@0.9": row("0.9", HALF), "iekvd_alpha@0.0": row("0", ALL)}
    rows["iekvd_schedule@rising"] = row("r", ALL, fid=3.0)
    rows["iekvd_alpha@2.0"] = Row("2", {"generate": row("2", ALL, fid=5.0).entries["generate"]})
    least, chosen, most = lines("alpha", rows)
    assert least[0] == "0.0" and least[2].startswith("+50.0 [") and least[3:] == ["–", "–"]
    assert chosen[:3] == ["0.9", "50.0", "–"]
    assert most == ["2.0", "–", "–", "5.00", "+2.00 [+2.00, +2.00]"]


def test_methods_that_leave_less_lose_more(monkeypatch):
    """Six methods, of which each leaves less of every band than the one before."""
    rows = {"none": row("none", ALL)}
    for k in range(6):
        right = [True] * (7 - k) + [False] * (k + 1)
        trace = pd.DataFrame({"fields": [["queries"]], "left": [1 - 0.1 * k]})
        entries = {"classify": Found(frame=frame(right)), "trace": Found(frame=trace)}
        rows[f"m{k}"] = Row(f"m{k}", entries)
    monkeypatch.setattr(findings, "spectra_at", lambda title, trace, t: (trace["left"][0],))
    monkeypatch.setattr(findings, "coherence", lambda left: np.full((1, 1, 1, 6), left))
    queries, every = lines("retention", rows)
    assert queries[:2] == ["queries", "6"] and every[0] == "all"
    assert all(text.startswith("−1.00 [") for text in queries[2:])


def test_methods_rank_alike_or_not():
    rights = {f"m{i}": [True] * (1 + i) + [False] * (7 - i) for i in range(6)}
    a = {name: row(name, right) for name, right in rights.items()}
    b = {f"m{i}": a[f"m{5 - i}"] for i in range(6)} | {"other": row("other", ALL)}
    groups = {"DiT, black": a, "DiT, grey": a, "U-Net, black": a, "U-Net, grey": b}
    alike, not_alike = TABLES["order"][2](groups)
    assert alike[:3] == ["DiT", "black; grey", "6"] and alike[3].startswith("+1.00 [")
    assert not_alike[3].startswith("−1.00 [")


def test_sets_of_one_model_and_data_are_pooled():
    a = {"anchored@0.7": row("ours", ALL), "tome@0.5": row("theirs", HALF)}
    b = {"anchored@0.7": row("ours", HALF), "tome@0.5": row("theirs", HALF)}
    groups = {"DiT, black": a, "DiT, black, second set": b, "DiT, grey": b}
    *each, pooled = TABLES["anchored"][2](groups)
    assert [line[0] for line in each] == list(groups)
    assert pooled[:5] == ["DiT, black, all 16 images", "ours", "theirs", "75.0", "50.0"]
    assert pooled[5].startswith("+25.0 [") and pooled[6] == "4/0"


def test_every_table_reads_experiments_that_are_there():
    known = set(experiment_files.names("mini"))
    for names, header, _ in TABLES.values():
        assert set(names) <= known and len(header) > 1


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_the_tables_of_the_runs(name):
    (shown,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", PAGE, re.S)
    written = (REPOSITORY / "results" / "mini" / "findings.md").read_text()
    (table,) = re.findall(rf"^## {name}\n\n(.*?)\n(?:\n## |\Z)", written, re.S | re.M)
    assert shown.strip() == table.strip()


def test_a_row_of_two_experiments_has_the_entries_of_both():
    rows = {"x": row("x", ALL)}
    findings._merge(rows, {"x": Row("x", {"trace": Found()}), "y": row("y", HALF)})
    assert rows["x"].entries.keys() == {"classify", "generate", "trace"}
    assert rows["x"].frame is not None and "y" in rows


def test_tables_are_written(tmp_path, monkeypatch):
    only = {"none": row("none", ALL), "tome@0.5": row("t", HALF)}
    only["tome@0.7"] = Row("broken", {"classify": Found(problem="no data: make it")})
    monkeypatch.setattr(findings, "_rows", lambda experiment: iter([("model", only)]))
    monkeypatch.setattr(findings, "TABLES", {"noise": TABLES["noise"]})
    found = findings.findings(tmp_path, "mini")
    assert (tmp_path / "findings.md").read_text() == f"## noise\n\n{found.tables['noise']}"
    assert "| model" in found.tables["noise"] and "broken" not in found.tables["noise"]
    assert found.problems == ["no data: make it"]

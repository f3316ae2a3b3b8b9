"""The README, the pages of docs/ and docstrings say what the code and the results say."""

import doctest
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bigain.compression import compress
from bigain.compressors import TokenGrid
from bigain.metrics.accuracy import Z, top1
from bigain.metrics.image_metric import Generated
from bigain.utils.tables import markdown

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "docs" / "results.md"
README = (REPOSITORY / "README.md").read_text()
WORDS = " ".join(README.split())
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("results", "reproducing", "extending", "performance")),
]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.S)
]
# modules whose docstrings have examples, none of which needs a pipeline; tests/compression/
# test_handle.py runs those of the public names that need one
WITH_EXAMPLES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in sorted((REPOSITORY / "bigain").rglob("*.py"))
    if re.search(r"^ +>>> ", text := path.read_text(), re.M)
    and not re.search(r"^ +(>>>|\.\.\.) .*\bpipe\b", text, re.M)
]
# written by runs or put there by scripts, and not kept in the repository
MADE = (
    "data/",
    "outputs/",
    "results/demo.",
    "results/runs",
    "results/paper",
    "results/mini/report.html",
)
TABLE = re.compile(r"(?:^\|.*\|$\n?)+", re.M)
GROUPS = {name: f"{name}, Fashion-MNIST" for name in ("DiT", "U-Net", "SD3")}


def the_block(part: str) -> str:
    """The one block of Python code that holds ``part``."""
    (found,) = [block for block in BLOCKS if part in block]
    return found


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each Markdown table, the header first, without the line of dashes."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return [
        [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for number, line in enumerate(table.splitlines())
            if number != 1
        ]
        for table in TABLE.findall(text)
    ]


def marked(text: str, name: str) -> str:
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text, re.S)
    return found


# Code


def test_the_example_compressor_merges_pairs(monkeypatch):
    module = ModuleType("checkerboard")
    monkeypatch.setitem(sys.modules, "checkerboard", module)
    exec(the_block("class Checkerboard"), module.__dict__)
    x = torch.arange(15.0).view(1, 15, 1)
    queries = module.Checkerboard().plan(x, TokenGrid(3, 5)).queries
    assert queries.apply(x).flatten().tolist() == [0.5, 2.5, 4, 5.5, 7.5, 9, 10.5, 12.5, 14]
    assert queries.undo(queries.apply(x)).flatten().tolist()[:5] == [0.5, 0.5, 2.5, 2.5, 4]


def test_the_example_compressor_runs_in_a_model(unet, monkeypatch):
    module = ModuleType("checkerboard")
    monkeypatch.setitem(sys.modules, "checkerboard", module)
    exec(the_block("class Checkerboard"), module.__dict__)
    plain = unet()
    with compress(unet.model, module.Checkerboard()):
        assert (unet() - plain).abs().max() > 1e-3


def test_the_example_on_a_pipeline(unet):
    class Output:
        images = (torch.zeros(1),)

    class Pipe:
        def __init__(self, model) -> None:
            self.unet = model.model

        def __call__(self, prompt: str) -> Output:
            self.output = unet()
            return Output()

    pipe = Pipe(unet)
    plain = unet()
    exec(the_block("bigain.compress(pipe"), {"pipe": pipe})
    assert (pipe.output - plain).abs().max() > 1e-3
    assert torch.equal(unet(), plain)


def test_the_example_on_tensors():
    names = {"x": torch.randn(1, 4096, 8)}
    exec(the_block("TokenGrid(64, 64)"), names)
    assert names["z"].shape == (1, 2048, 8) and names["y"].shape == (1, 4096, 8)


def test_the_example_metric_measures_features(monkeypatch):
    module = ModuleType("brightness")
    monkeypatch.setitem(sys.modules, "brightness", module)
    exec(the_block("class FeatureNorm"), module.__dict__)
    generated = Generated(n=2, pooled=torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert module.FeatureNorm().compute(generated, None, 0) == {"feature_norm": 3.0}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_give_what_they_say(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


# Numbers


def test_its_results_are_those_of_the_runs():
    """Every number of the README's table, and whether its verdicts say what the intervals say."""
    (shown,) = tables(marked(README, "results"))
    header, *lines = shown
    runs = pd.read_csv(REPOSITORY / "results" / "mini" / "figure2.csv")
    assert len(lines) > 8 and {line[1] for line in lines} == set(GROUPS)
    for line in lines:
        found = dict(zip(header, line, strict=True))
        chosen = (runs["group"] == GROUPS[found["Model"]]) & (runs["method"] == found["Method"])
        (row,) = runs[chosen].to_dict("records")
        assert found == {
            "Method": row["method"],
            "Model": found["Model"],
            "GFLOPs": f"{row['gflops']:.3f}",
            "Time": "–" if np.isnan(row["time"]) else f"{row['time']:.2f}",
            "Accuracy (%)": f"{row['acc1']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
            "FID": f"{row['fid']:.2f} [{row['fid_low']:.2f}, {row['fid_high']:.2f}]",
            "Verdict": found["Verdict"],
        }
        assert found["Verdict"].startswith(verdict(row))
        assert f"{row['n']} classified and {row['generated']:,} generated" in WORDS


def verdict(row: Mapping[str, Any]) -> str:
    """What the verdict on a row begins with, by the intervals of its differences."""
    if row["method"] == "Uncompressed":
        return "the reference"
    accuracy, fid = row["diff_high"] < 0, row["fid_diff_low"] > 0  # whether it is worse
    if accuracy == fid:
        return "both worse" if accuracy else "both kept"
    return "accuracy worse, FID kept" if accuracy else "accuracy kept, FID worse"


def test_what_it_says_of_randomness_is_what_the_runs_say():
    runs = pd.read_csv(REPOSITORY / "results" / "mini" / "destinations.csv")
    accuracy = runs.set_index(["group", "method"])["acc1"]
    lost = [
        accuracy[GROUPS["DiT"], f"ToMe {ratio}"]
        - accuracy[GROUPS["DiT"], f"ToMe, unpaired {ratio}"]
        for ratio in (0.3, 0.5, 0.7)
    ]
    assert f"costs {min(lost):.0f} to {max(lost):.0f} points on the DiT" in WORDS


def test_what_it_says_of_lgtm_is_what_the_runs_say():
    runs = pd.read_csv(REPOSITORY / "results" / "mini" / "table14.csv")
    accuracy = runs.pivot(index="group", columns="method", values="acc1")
    lost = accuracy["ToMe 0.7"] - accuracy["L-GTM 0.7"]
    assert len(lost) == 6  # three sets of images on each model
    said = f"at 0.7 it is {min(lost):.0f} to {max(lost):.0f} points less accurate"
    assert said in WORDS


def filled() -> str:
    """docs/results.md with its marked tables made anew: the same columns, the rows of the runs.

    PYTHONPATH=tests python -c "from test_readme import *; RESULTS.write_text(filled())" writes it.
    """
    text = RESULTS.read_text()
    for name, file in (("demo", "mini/demo.md"), ("figure2", "mini/figure2.md")):
        written = tables((REPOSITORY / "results" / file).read_text())
        shown = marked(text, name)
        assert len(tables(shown)) == len(written)
        text = text.replace(shown, TABLE.sub(partial(anew, iter(written)), shown + "\n")[:-1])
    return text


def anew(written: Iterator[list[list[str]]], old: re.Match[str]) -> str:
    """The next of the tables ``written``, with the columns of the old one."""
    ((columns, *_),) = tables(old[0])
    header, *rows = next(written)
    places = [header.index(column) for column in columns]
    return markdown([[row[place] for place in places] for row in (header, *rows)]) + "\n"


def test_its_tables_are_those_of_the_runs():
    text = RESULTS.read_text()
    assert tables(text) == tables(filled())


def test_all_compressors_are_named():
    configs = {path.stem for path in (REPOSITORY / "configs" / "compressor").glob("*.yaml")}
    listed = {row[0].strip("`") for table in tables(RESULTS.read_text()) for row in table}
    assert configs - {"none"} <= listed


def test_hours_are_those_of_the_experiments():
    """The hours in docs/reproducing.md are those at the head of each experiment's file."""
    text = (REPOSITORY / "docs" / "reproducing.md").read_text()
    (_, *lines) = tables(marked(text, "hours"))[0]
    stated = {name.strip("`"): hours for name, *_, hours in lines}
    heads = {path.stem: path.read_text() for path in (REPOSITORY / "experiments").glob("*.yaml")}
    wanted = {
        name: found[0].replace(" H100", "")
        for name, head in heads.items()
        if (found := re.findall(r"needs .*; (?:about )?((?:\d+ H100 )?(?:hours|minutes))", head))
    }
    assert stated == wanted


def test_intervals_are_those_of_the_published_values():
    """In docs/reproducing.md: Wilson's intervals on Pets' test split, and of differences."""
    text = (REPOSITORY / "docs" / "reproducing.md").read_text()
    (_, *lines) = tables(marked(text, "intervals"))[0]
    published = pd.read_csv(REPOSITORY / "experiments" / "published.csv")
    known = published[published["table"] == "1"].set_index("method")["value"]
    names = {"uncompressed": "none", "L-GTM": "lgtm", "IE-KVD": "iekvd"}
    assert len(lines) == 6
    for row, value, interval, apart in lines:
        p, n = known[names.get(row, row.lower())] / 100, 3669
        found = top1(np.arange(n) < round(p * n))
        assert value == f"{100 * p:.2f}"
        assert interval == f"{100 * found.low:.1f} to {100 * found.high:.1f}"
        assert apart == f"{100 * Z * np.sqrt(2 * p * (1 - p) / n):.1f} points"


# Form


def test_it_is_short():
    assert len(README.encode()) <= 8192


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_narrow(page):
    for header, *_ in tables((REPOSITORY / page).read_text()):
        assert len(header) <= 7, header


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CHANGELOG.md",
        *sorted(f"docs/{p.name}" for p in (REPOSITORY / "docs").glob("*.md")),
    ],
)
def test_links_lead_somewhere(page):
    path = REPOSITORY / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in {slug(heading) for heading in headings}, link


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    text = (REPOSITORY / page).read_text()
    top = {path.name for path in REPOSITORY.iterdir()}
    named = [name.rstrip("/") for name in re.findall(r"`([\w.@*-]+(?:/[\w.@*{},-]+)*/?)`", text)]
    for name in named:
        first, *rest = name.split("/")
        known = first in top and (rest or "." in first)
        if not known or "checkerboard" in name or name.startswith(MADE):
            continue
        for path in alternatives(name):
            assert any(REPOSITORY.glob(path)), path


def alternatives(path: str) -> list[str]:
    """The paths that one with {one,other} stands for."""
    if (found := re.search(r"\{([^}]*)\}", path)) is None:
        return [path]
    before, after = path[: found.start()], path[found.end() :]
    return [p for one in found[1].split(",") for p in alternatives(f"{before}{one}{after}")]


def test_the_tree_is_that_of_the_repository():
    (tree,) = re.findall(r"## Where things are\n\n```\n(.*?)```", README, re.S)
    named = {line.split()[0] for line in tree.splitlines() if not line.startswith(" ")}
    inside = set(re.findall(r"(?<=  )(\w+)/", tree))
    packages = {path.parent.name for path in (REPOSITORY / "bigain").glob("*/__init__.py")}
    assert inside == packages
    assert all((REPOSITORY / name).exists() for name in named)

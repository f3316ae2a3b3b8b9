"""The page of all tables and figures: it is sound, whole, and holds the store's numbers alone."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigain.errors import BiGainError
from bigain.experiments import experiment_files
from bigain.experiments.experiment_files import Experiment, Group, Row
from bigain.reporting import __main__ as command
from bigain.reporting.build import build
from bigain.reporting.page import LARGEST, PICTURE, WANTED, Line, Table, Text, embedded
from bigain.reporting.report import report
from bigain.store.runs import Run
from bigain.tasks.classify_columns import p_value
from bigain.tasks.columns import Column, ranged
from bigain.utils.paths import REPOSITORY
from bigain.utils.tables import DASH

IDS = [f"{i:03d}" for i in range(20)]
VOID = {"meta", "link", "input", "img", "br"}
TITLE = 'Merging <b>"fast"</b> & good'
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass
class Entry:
    """A stand-in for experiment_files.Entry."""

    run_path: Path
    overrides: list[str]
    record: str | None = None
    error: str | None = None
    ids: list[str] = field(default_factory=lambda: IDS)

    @property
    def command(self) -> str:
        return f"python run.py {' '.join(self.overrides)}"

    def scores(self, run):
        return run.read_record(self.record) if self.record else None

    def scored(self, run):
        return self.record is None or self.scores(run) is not None

    def image_ids(self) -> list[str]:
        if self.error:
            raise BiGainError(self.error)
        return self.ids


def make(root: Path, name: str, right: int, ids: list[str] = IDS) -> Run:
    run = Run.create(root, name, {"compressor": name, "seed": 7}, {"blocks": "<all>"})
    about = {"labels": [1], "samples": [4, 6], "seconds": 0.5}
    run.append(
        [{"image_id": i, "prediction": 1 if int(i) < right else 0, **about} for i in sorted(ids)]
    )
    run.record("cost", {"gflops": 2.0, "gflops_matching": 0.5, "peak_memory_mib": None})
    session = {"images": len(ids), "device": "NVIDIA X1", "shard": None, "torch": "2.9"}
    run.record("sessions", {"sessions": [{**session, "command": f"python run.py {name} a=<b>"}]})
    return run


def experiment(rows: list[Row], name: str = "table4") -> Experiment:
    groups = [Group("", "DiT & data", rows)]
    return Experiment(name, "mini", TITLE, "A <note>.", "none", "", ["classify"], [], {}, groups)


def row(name: str, path: Path) -> Row:
    entry = Entry(path, [f"compressor={name}"])
    return Row(name, f"{name} <method>", name, {"classify": entry})  # type: ignore[dict-item]


@pytest.fixture
def made(tmp_path) -> Experiment:
    """A baseline, two methods, one that is not finished and one that has not run."""
    root = tmp_path / "runs"
    rows = [
        row("none", make(root, "none", 15).path),
        row("tome", make(root, "tome", 9).path),
        row("lgtm", make(root, "lgtm", 12).path),
        row("sito", make(root, "sito", 11, IDS[:-3]).path),
        row("abm", root / "absent"),
    ]
    return experiment(rows)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a page of the given experiments and returns its text."""

    def page(*given: Experiment) -> str:
        by_name = {e.name: e for e in given}
        monkeypatch.setattr(experiment_files, "names", lambda scale: list(by_name))
        monkeypatch.setattr(experiment_files, "load", lambda name, scale: by_name[name])
        out = report("mini", tmp_path / "page" / "report.html", folder=tmp_path / "out")
        return out.read_text()

    return page


class Reader(HTMLParser):
    """Checks nesting, and gathers ids, attributes that load something, and the tables' rows."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.rows: list[list[str]] = []
        self.filling = False

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.sources += [found[key] for key in ("src", "href") if key in found]
        if tag == "tr" and found.get("class", "").startswith("row"):
            self.rows.append([])
            self.filling = True
        if tag in ("td", "th") and self.filling:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes another element"
        if tag == "tr":
            self.filling = False

    def handle_data(self, data):
        if self.filling and self.rows[-1]:
            self.rows[-1][-1] += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def test_the_page_is_well_formed_and_asks_for_nothing(made, write, tmp_path):
    (tmp_path / "out").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "out" / "table4.png")
    text = write(made, experiment(made.rows, "figure2"))
    found = read(text)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    assert {"table4", "figure2"} <= set(found.ids)
    assert all(source.startswith(("#", "data:")) for source in found.sources)
    inside = {source[1:] for source in found.sources if source.startswith("#")}
    assert inside <= set(found.ids)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|<script src", text)
    assert sum(source.startswith("data:image/webp;base64,") for source in found.sources) == 1


def test_rows_are_those_of_the_table(made, write, tmp_path):
    build(made, tmp_path / "out")
    text = write(made)
    rows = read(text).rows
    lines = (tmp_path / "out" / "table4.md").read_text().splitlines()
    header, *printed = [
        [part.strip() for part in line.strip("|\n").split(" | ")]
        for line in lines
        if "<method>" in line or line.startswith("| Method")
    ]
    constant = {
        i for i, texts in enumerate(zip(*printed, strict=True)) if len({*texts} - {DASH}) == 1
    }
    order = sorted(range(1, len(header)), key=lambda i: not header[i].startswith(WANTED))
    order = [0, *order]  # the method's name, and what most readers want
    assert {header[i] for i in constant} >= {"Images", "Evaluations", "GFLOPs"}
    assert [[text.removesuffix(" baseline") for text in line] for line in rows] == [
        [line[i] for i in order if i not in constant] for line in printed
    ]
    said = unescape(re.search(r"In every row: (.*?)</p>", text)[1])
    names = [name.replace("of which matching", "GFLOPs of matching") for name in header]
    assert all(f"{names[i]} {printed[0][i]}" in said for i in constant)
    with open(tmp_path / "out" / "table4.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == [line[0] for line in printed]
    assert [line["acc1"] for line in lines] == ["75.0", "45.0", "60.0", "", ""]
    assert rows[1][1].startswith("45.0 [")


def test_text_is_escaped(made, write):
    text = write(made)
    for raw in (TITLE, "A <note>.", "none <method>", "DiT & data"):
        assert raw in unescape(text) and raw not in text


def test_a_row_says_how_it_was_made(made, write):
    text = unescape(write(made))
    run = made.rows[1].entries["classify"].run_path.name
    for said in (
        f"<code>{run}</code>",
        "<pre>python run.py compressor=tome</pre>",
        "device NVIDIA X1",
        "2.00 GFLOPs per evaluation, of which 0.500 matching",
        "started, 17 of 20 images",
        "missing, 0 of 20 images",
    ):
        assert said in text
    assert "None" not in text.split("<main")[1]


def test_runs_are_counted_once(made, write):
    text = write(made, experiment(made.rows, "figure2"))
    assert "<b>3</b> of 5" in text
    assert "1 started" in text and "1 missing" in text
    assert text.count("<small>3/5</small>") == 4  # in the contents and over the section


def test_figures_that_lag_or_lack_are_named(made, write, tmp_path):
    assert "1 figure is not drawn yet" in write(made)
    build(made, tmp_path / "out")
    text = write(made)
    assert "not drawn yet" not in text and "Drawn before" not in text and "hold other" not in text
    picture = tmp_path / "out" / "table4.png"
    os.utime(picture, (1, 1))
    assert "Drawn before its newest run ended" in write(made)
    table = tmp_path / "out" / "table4.csv"
    table.write_text(table.read_text().replace("45.0", "46.0"))
    text = write(made)
    assert "hold other numbers than the runs, and so may its figures" in text
    assert "46.0" not in text


def test_an_unreadable_experiment_does_not_hide_the_others(made, write, tmp_path):
    other = row("todo", make(tmp_path / "other", "todo", 3, ["000", "777"]).path)
    other.entries["classify"].ids = ["000", "777"]
    broken = experiment([made.rows[0], other], "table5")
    text = unescape(write(made, broken))
    assert "Not shown: todo <method> and its baseline must cover the same images" in text
    assert "45.0 <small>[" in text


def test_what_cannot_run_here_says_why(made, write):
    made.rows[4].entries["classify"].error = f"no data in {REPOSITORY}/data"
    text = write(made)
    assert "cannot run: no data in data" in text
    assert "1 cannot run" in text and str(REPOSITORY) not in text


def test_a_page_of_the_usual_size_stays_small(made, write, tmp_path):
    """Six hundred rows take a quarter of the limit, and pictures lose what an eye hardly sees."""
    one = len(write(made))
    more = experiment(made.rows * 20)
    row_bytes = (len(write(more)) - one) / (19 * len(made.rows))
    assert row_bytes < 2000 and 600 * row_bytes < LARGEST / 4
    photograph = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    smooth = Image.fromarray(photograph).resize((1200, 900), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "photograph.png")
    source, size = embedded(tmp_path / "photograph.png")
    whole = (tmp_path / "photograph.png").stat().st_size
    assert size == (1200, 900) and whole > 10 * PICTURE and len(source) < whole / 4


def test_a_page_that_is_too_large_says_so(made, write, monkeypatch, capsys):
    text = write(made)
    assert "MB" not in capsys.readouterr().err
    monkeypatch.setattr("bigain.reporting.report.LARGEST", len(text) // 2)
    write(made)
    said = capsys.readouterr().err
    assert re.search(r"report\.html is \d+\.\d MB; it should stay below \d+\.\d MB", said)


def test_a_column_that_says_the_same_in_every_row_is_said_once():
    headers = [("Images", True), ("Accuracy", True), ("Seconds", True)]
    texts = [("500", "80.0", DASH), ("500", "70.0", "2"), ("500", "60.0", "2")]
    lines = [Line(f"m{i}", "m", False, [Text(t) for t in row], []) for i, row in enumerate(texts)]
    table = Table("", headers, lines)
    assert table.said == "Images 500, Seconds 2" and table.columns == [1]
    assert Table("", headers, lines[:2]).columns == [1, 0, 2]  # two rows are quickly compared


def test_columns_sort_by_the_values_that_they_print():
    rows = [
        {"a": -3.25, "low": -4.0, "high": 1.0, "p": 0.0004, "name": "86024002 3a5bd823"},
        {"a": None, "low": None, "high": None, "p": 0.001, "name": None},
    ]
    interval = ranged("A", "a", "low", "high", "+.1f")
    p = Column("p", lambda row: p_value(row["p"]), "p")
    name = Column("Run", lambda row: row["name"])
    assert [interval.text(row) for row in rows] == ["−3.2 [−4.0, +1.0]", None]
    assert [interval.value(row) for row in rows] == [-3.25, None]
    assert [p.text(row) for row in rows] == ["<0.001", "0.001"]
    bound, number = (p.value(row) for row in rows)
    assert bound is not None and number is not None
    assert bound < number  # "<0.001" sorts below "0.001"
    assert [name.value(row) for row in rows] == [None, None]


def test_command(monkeypatch, capsys):
    monkeypatch.setattr(
        "bigain.reporting.report.report", lambda scale, out: out or Path(f"{scale}.html")
    )
    monkeypatch.setattr(sys, "argv", ["results", "report", "--scale", "paper"])
    assert command.main() == 0
    assert capsys.readouterr().out == "wrote paper.html\n"


def browse(page: Path, script: str, width: int = 1280) -> dict:
    """What ``script``, a function body, returns in a page ``width`` wide, and "errors" there."""
    told = f"""
    <body style="margin:0"><iframe src="{page.name}" style="width:{width}px;height:900px"></iframe>
    <pre id="told"></pre><script>
    const frame = document.querySelector("iframe");
    const errors = [];
    frame.contentWindow.addEventListener("error", (event) => errors.push(event.message));
    frame.addEventListener("load", () => {{
      const view = frame.contentWindow, page = frame.contentDocument;
      let told;
      try {{ told = (() => {{ {script} }})(); }}
      catch (error) {{ errors.push(String(error)); }}
      document.getElementById("told").textContent = JSON.stringify({{ ...told, errors }});
    }});
    </script>"""
    wrapper = page.with_name("wrapper.html")
    wrapper.write_text(told)
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
    done = subprocess.run(
        [str(BROWSER), *flags, f"--user-data-dir={page.parent / 'profile'}"]
        + ["--window-size=1400,1000", "--virtual-time-budget=3000", "--dump-dom", wrapper.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="told">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.skipif(BROWSER is None, reason=f"needs a browser: {', '.join(BROWSERS)}")
def test_sorting_filter_and_fold_outs_in_a_browser(made, write, tmp_path):
    write(made)
    told = browse(
        tmp_path / "page" / "report.html",
        """
        page.querySelector("main > details").open = true;
        const header = page.querySelectorAll(".all thead th")[1];
        const rows = () => [...page.querySelectorAll(".all tbody")]
          .filter((body) => !body.hidden).map((body) => body.dataset.method.split(" ")[0]);
        const orders = [rows()], states = [];
        for (let i = 0; i < 3; i++) {
          header.querySelector("button").click();
          orders.push(rows());
          states.push(header.getAttribute("aria-sort"));
        }
        const button = page.querySelector(".row th button");
        const how = page.getElementById(button.getAttribute("aria-controls"));
        const closed = how.offsetHeight;
        button.click();
        const opened = how.offsetHeight, expanded = button.getAttribute("aria-expanded");
        const filter = page.getElementById("filter");
        const section = page.querySelector("main > details");
        const find = (text) => {
          filter.value = text;
          filter.dispatchEvent(new view.Event("input"));
          return rows();
        };
        section.open = false;
        const filtered = find("TOM, met"), shown = page.getElementById("shown").textContent;
        const unfolded = section.open;
        const hyphens = [find("lgtm"), find("L-GTM"), find("l-gtm, 0.5"), find("gtm")];
        find("");
        const folded = !section.open;
        return { orders, states, closed, opened, expanded, filtered, shown, unfolded, folded,
          hyphens };
        """,
    )
    assert told["errors"] == []
    given = ["none", "tome", "lgtm", "sito", "abm"]
    up, down = ["tome", "lgtm", "none", "sito", "abm"], ["none", "lgtm", "tome", "sito", "abm"]
    assert told["orders"] == [given, up, down, given]
    assert told["states"] == ["ascending", "descending", "none"]
    assert told["closed"] == 0 and told["opened"] > 50 and told["expanded"] == "true"
    assert told["filtered"] == ["tome"] and told["shown"] == "1 of 5 rows"
    assert told["unfolded"] and told["folded"]
    assert told["hyphens"] == [["lgtm"], ["lgtm"], [], []]  # words match from their beginning


@pytest.mark.skipif(BROWSER is None, reason=f"needs a browser: {', '.join(BROWSERS)}")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_but_tables_in_their_boxes(made, write, tmp_path, width):
    build(made, tmp_path / "out")
    write(made)
    told = browse(
        tmp_path / "page" / "report.html",
        """
        page.querySelectorAll(".row th button")[1].click();
        page.querySelectorAll("details").forEach((details) => { details.open = true; });
        const box = page.querySelector(".all").closest(".scroll");
        const [, ...columns] = page.querySelectorAll(".all thead th");
        const right = box.getBoundingClientRect().right;
        const whole = columns.filter((c) => c.getBoundingClientRect().right <= right);
        box.style.maxHeight = "8rem";
        box.scrollLeft = 200;
        box.scrollTop = 60;
        const edge = box.getBoundingClientRect();
        const head = page.querySelector(".all .row th").getBoundingClientRect();
        const top = page.querySelector(".all thead th").getBoundingClientRect();
        return { page: page.documentElement.scrollWidth, box: box.scrollWidth > box.clientWidth,
          left: head.left - edge.left, top: top.top - edge.top, whole: whole.length,
          moved: box.scrollTop };
        """,
        width,
    )
    assert told["errors"] == []
    assert told["page"] <= width
    assert told["box"] or width > 390
    assert 0 <= told["left"] < 3  # the method stays in sight
    assert told["moved"] > 0 and 0 <= told["top"] < 3  # and so do the headings
    assert told["whole"] >= 2

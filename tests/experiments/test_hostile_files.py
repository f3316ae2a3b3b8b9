"""Experiment files, methods, scales and CSV files that are damaged or hostile: one line each."""

import copy
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bigain.datasets.prompts import PUBLISHED, read_prompts
from bigain.errors import BiGainError, one_line
from bigain.experiments import experiment_files
from bigain.experiments.experiment_files import Entry
from bigain.experiments.methods import read
from bigain.experiments.yaml_files import read_mapping
from bigain.reporting import __main__ as reporting
from bigain.reporting import bundling, findings, report, status
from bigain.reporting.build import collect

FOLDER = experiment_files.FOLDER
GOOD = "title: x\nnote: y\nbaseline: none\ntasks: {classify: [limit=1]}\nrows: [none]\n"
SCALED = GOOD.replace("[limit=1]", "[]") + "groups: {mini: [dit_fashion]}\n"
LEVELS = "".join(
    f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(9))}]\n" for i in range(1, 9)
)
BOMB = f"a0: &a0 [x, x, x, x, x, x, x, x, x]\n{LEVELS}"
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "comment": b"# nothing\n",
    "a list": b"- a\n- b\n",
    "a number": b"3\n",
    "bad YAML": b"title: [x\n",
    "a tab": b"title:\t- x\n\tnote: y\n",
    "two documents": GOOD.encode() + b"---\n" + GOOD.encode(),
    "a key twice": GOOD.encode() + b"title: z\n",
    "a key twice, inside": GOOD.replace("tasks: {", "tasks: {classify: [], ").encode(),
    "an alias bomb": BOMB.encode(),
    "a bomb of merges": GOOD.encode() + BOMB.encode() + b"b: {<<: *a8}\n",
    "a merge": GOOD.encode() + b"maps: {<<: {block: 1}}\n",
    "itself": b"title: &a [*a]\n",
    "itself, in a mapping": b"a: &a {b: *a}\n",
    "an unknown alias": b"title: *x\n",
    "deep": b"title: " + b"[" * 5000 + b"]" * 5000,
    "deep, in blocks": b"".join(b" " * i + b"a:\n" for i in range(200)),
    "a list as a key": b"? [a, b]\n: c\n",
    "a mapping as a key": b"{a: b}: c\n",
    "numbers as keys": b"1: 2\n",
    "Python": b"title: !!python/object/apply:os.system [echo harmed]\n",
    "a tag": b"title: !!bool maybe\n",
    "a set": b"title: !!set {a, b}\n",
    "a number of 10,000 digits": b"title: " + b"9" * 10_000,
    "NaN": GOOD.replace("title: x", "title: .nan").encode(),
    "a date": GOOD.replace("[limit=1]", "2020-13-45").encode(),
    "NUL": b"title: \0\n",
    "control characters": b"title: \x07\n",
    "not UTF-8": "title: é".encode("latin-1"),
    "UTF-16": GOOD.encode("utf-16"),
    "large": GOOD.encode() + b"# " + b"x" * 200_000,
    "a long text": GOOD.replace("note: y", f"note: {'y' * 50_000}").encode(),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00.",
    "rows of itself": GOOD.replace("[none]", "bad").encode(),
    "rows of none": GOOD.replace("[none]", "absent").encode(),
    "no rows": GOOD.replace("[none]", "[]").encode(),
    "no tasks": GOOD.replace("{classify: [limit=1]}", "{}").encode(),
    "an unknown task": GOOD.replace("classify", "classfy").encode(),
    "an unknown scale": SCALED.replace("mini", "huge").encode(),
    "an unknown group": SCALED.replace("dit_fashion", "dit").encode(),
    "groups of rows": GOOD.replace("[none]", "[{method: none, groups: [a]}]").encode(),
    "an override that is no text": GOOD.replace("limit=1", "limit: 1").encode(),
    "a title that computes": GOOD.replace(
        "[none]", "[{method: none, title: '{series.__class__}'}]"
    ).encode(),
    "a title of a billion letters": GOOD.replace(
        "[none]", "[{method: none, title: '{series:>1000000000}'}]"
    ).encode(),
}


def is_one_line(error: BaseException | str, name: str) -> bool:
    """Whether an error names the file and would fit a screen."""
    text = str(error)
    return name in text and len(text.splitlines()) == 1 and text.isprintable() and len(text) < 1500


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Experiments of which one is right."""
    for shared in ("scales", "published.csv"):
        (tmp_path / shared).symlink_to(FOLDER / shared)
    (tmp_path / "good.yaml").write_text(SCALED)
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_line_and_the_others_go_on(folder, kind):
    (folder / "bad.yaml").write_bytes(HOSTILE[kind])
    begun = time.monotonic()
    experiments, problems = experiment_files.load_all(experiment_files.names())
    assert time.monotonic() - begun < 5
    assert [experiment.name for experiment in experiments] == ["good"]
    assert len(problems) == 1 and is_one_line(problems[0], "bad.yaml"), problems


def test_what_is_no_file_or_has_no_name_is_one_line(folder):
    (folder / "folder.yaml").mkdir()
    (folder / "absent.yaml").symlink_to(folder / "nothing")
    (folder / "zeros.yaml").symlink_to("/dev/zero")
    odd = ["my table.yaml", "line\nbreak.yaml", "-rf.yaml", "a;b.yaml", "$(x).yaml"]
    for name in odd:
        (folder / name).write_text(SCALED)
    (folder / ".#good.yaml").symlink_to("user@host")  # an editor's lock
    (folder / "sparse.yaml").touch()
    with (folder / "sparse.yaml").open("r+b") as file:
        file.truncate(100 * 2**20)
    for scale in ("mini", None):
        experiments, problems = experiment_files.load_all(experiment_files.names(scale))
        names = [experiment.name for experiment in experiments]
        assert [n for n in names if n != "-rf"] == ["good"]
        assert all(is_one_line(problem, ".yaml") for problem in problems)
        assert len(problems) + len(names) == 10


@pytest.mark.parametrize("name", ["../demo", "/etc/passwd", "", ".", "a/b", "methods", "x\0y"])
def test_a_name_stays_in_the_folder(folder, name):
    (folder.parent / "demo.yaml").write_text(GOOD)
    with pytest.raises(BiGainError, match="there is no experiment") as refused:
        experiment_files.load(name)
    assert str(refused.value).isprintable()


VALUES: list[Any] = [
    None, True, 3, -1.5, float("inf"), "x", "", "a|b\nc", "{", "}", [], [None], [3], [[]], ["="],
    {}, {"a": 1}, {1: 2}, {"a": {"b": []}}, "../x",
]  # fmt: skip


def changed(node: Any) -> Iterator[Any]:
    """A document with one value replaced by each of others, one left out, or one key more."""

    def places(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        if isinstance(node, dict | list):
            for key, child in node.items() if isinstance(node, dict) else enumerate(node):
                yield from places(child, (*path, key))

    for *path, last in filter(None, places(node, ())):
        for value in [*VALUES, KeyError]:
            copied = copy.deepcopy(node)
            inner = copied
            for key in path:
                inner = inner[key]
            if value is KeyError:
                del inner[last]
            else:
                inner[last] = value
            yield copied


def small(name: str) -> Any:
    """A file's content with at most two rows."""
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    found["rows"] = found["rows"][:2]
    return found


@pytest.mark.parametrize("name", ["table6", "figure6"])
def test_any_value_of_another_type_is_read_or_one_line(folder, name):
    refused = 0
    for content in changed(small(name)):
        (folder / "bad.yaml").write_text(yaml.safe_dump(content))
        _, problems = experiment_files.load_all(["bad"], "mini")
        refused += len(problems)
        assert all(is_one_line(problem, "bad") for problem in problems)
    assert refused > 100


def test_any_part_of_a_file_is_read_or_one_line(folder):
    text = (FOLDER / "figure2.yaml").read_bytes()
    for end in range(0, len(text), 5):
        (folder / "bad.yaml").write_bytes(text[:end])
        _, problems = experiment_files.load_all(["good", "bad"], "mini")
        assert all(is_one_line(problem, "bad.yaml") for problem in problems)


def test_methods_of_other_types_are_read_or_one_line(tmp_path):
    every = yaml.safe_load((FOLDER / "methods.yaml").read_text())
    few = {name: every[name] for name in ("none", "tome", "lgtm_iekvd")}
    refused = 0
    for content in changed(few):
        (tmp_path / "methods.yaml").write_text(yaml.safe_dump(content))
        try:
            read(tmp_path / "methods.yaml")
        except BiGainError as error:
            refused += 1
            assert is_one_line(one_line(error), "methods.yaml"), error
    assert refused > 100


def test_a_damaged_scale_names_itself(folder):
    (folder / "scales").unlink()
    (folder / "scales").mkdir()
    content = yaml.safe_load((FOLDER / "scales" / "mini.yaml").read_text())
    content["groups"] = {"dit_fashion": content["groups"]["dit_fashion"]}
    for damaged in changed(content):
        (folder / "scales" / "mini.yaml").write_text(yaml.safe_dump(damaged))
        _, problems = experiment_files.load_all(["good"], "mini")
        assert all(is_one_line(problem, "mini.yaml") for problem in problems)


@pytest.mark.parametrize(
    "override",
    [
        "compressor=nothing", "x y", "a=[[[[", "compressor.ratio=${x", "compressor.ratio=${x}",
        "+a=1", "~model", "model=../../x", "seed=1,2", "=3", "", "task=null", "nothing=1",
        "a=" + "[" * 900, "limit=" + "9" * 5000, "blocks=${oc.env:NOT_THERE}", "é=1", "x\ny=1",
    ],
)  # fmt: skip
def test_an_override_that_is_none_is_one_line(override):
    with pytest.raises(BiGainError) as refused:
        Entry(["task=classify", override]).job  # noqa: B018
    assert is_one_line(one_line(refused.value), "")


def test_a_text_of_our_own_is_read_as_hydra_reads_it(tmp_path):
    """Numbers with exponents are numbers, dates are text."""
    path = tmp_path / "x.yaml"
    path.write_text("a: 1e-3\nb: 2020-01-01\nc: 0.5\nd: on\ne: '1'\nf: 5.\n")
    assert read_mapping(path) == {
        "a": 0.001, "b": "2020-01-01", "c": 0.5, "d": True, "e": "1", "f": 5.0,
    }  # fmt: skip


# --- what goes on


@pytest.fixture
def one_bad(folder) -> Path:
    (folder / "bad.yaml").write_text("title: [x\n")
    return folder


def test_status_has_a_line_for_it(one_bad):
    lines = list(status.status_of([], "mini"))
    assert [line for line in lines if "bad" in line] == [
        line for line in lines if is_one_line(line, "bad.yaml, line 2")
    ]
    assert sum("bad" in line for line in lines) == 1
    assert any(line.startswith("good (mini)") for line in lines)


def test_the_report_has_a_section_for_it(one_bad, capsys):
    page = report.report("mini", one_bad / "page.html", folder=one_bad).read_text()
    assert "bad.yaml, line 2" in page and ">Good<" in page
    assert "left out: " in capsys.readouterr().err


def test_findings_name_it(one_bad):
    (one_bad / "table8.yaml").write_text("title: [x\n")
    made = findings.findings(one_bad, "mini")
    assert sum("table8.yaml, line 2" in problem for problem in made.problems) == 1
    assert set(made.tables) == set(findings.TABLES)


def test_bundles_keep_what_it_may_read(one_bad, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(bundling, "bundle", lambda entries, reads: seen.append((entries, reads)))
    monkeypatch.setattr("sys.argv", ["reporting", "bundle"])
    assert reporting.main() == 0
    (entries, reads), err = seen[0], capsys.readouterr().err
    assert len(entries) == 1 and reads.everything
    assert len(err.splitlines()) == 1 and "bad.yaml, line 2" in err


def test_a_figure_there_is_not_is_refused(folder):
    (folder / "good.yaml").write_text(SCALED + "figures: [tradeof]\n")
    with pytest.raises(BiGainError, match="figure 'tradeof'; did you mean tradeoff"):
        collect(experiment_files.load("good", "mini"))


# --- CSV files

HOSTILE_CSV: dict[str, bytes] = {
    "empty": b"",
    "blank lines": b"\n\n\n",
    "NUL": b"class_name,prompt\napple,a\0b\n",
    "control characters": b"class_name,prompt\napple,\x1b[31mred\n",
    "not UTF-8": "class_name,prompt\n\xe9,a\n".encode("latin-1"),
    "UTF-16": "class_name,prompt\napple,a\n".encode("utf-16"),
    "an open quote": b'class_name,prompt\napple,"a\n',
    "a quote inside": b'class_name,prompt\napple,"a"b\n',
    "a field of a megabyte": b"class_name,prompt\napple," + b"x" * 2**20,
    "many columns": b"c," * 50_000 + b"\n",
    "many columns in a row": b"class_name,prompt\n" + b"c," * 50_000 + b"\n",
    "a pickle": b"\x80\x04\x95\x10\x00.",
    "17 MB": b"class_name,prompt\n" + b"apple,a\n" * 2_200_000,
}


@pytest.mark.parametrize("kind", HOSTILE_CSV)
def test_a_hostile_file_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "prompts.csv"
    path.write_bytes(HOSTILE_CSV[kind])
    with pytest.raises(BiGainError, match=r"prompts\.csv") as refused:
        read_prompts(path)
    assert len(str(refused.value)) < 600 and str(refused.value).isprintable()


def test_what_is_no_file_is_refused_by_name(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zeros.csv").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "zeros.csv", "pipe.csv", "absent.csv", "nul\0.csv"):
        with pytest.raises(BiGainError, match="cannot be read"):
            read_prompts(Path(tmp_path, name))


def test_any_part_of_a_file_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / "prompts.csv"
    text = (PUBLISHED / "pets.csv").read_bytes()
    refused = 0
    for end in range(0, len(text), 3):
        path.write_bytes(text[:end])
        try:
            read_prompts(path)
        except BiGainError as error:
            refused += 1
            assert "prompts.csv" in str(error)
    assert refused > 100

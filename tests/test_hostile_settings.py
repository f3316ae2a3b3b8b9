"""What a stranger's settings, folders and titles may not do."""

import multiprocessing
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigain.errors import BiGainError, one_line, shell
from bigain.experiments.experiment_files import Entry
from bigain.reporting import tables
from bigain.reporting.status import look
from bigain.store.bundles import Bundles
from bigain.store.runs import Run
from bigain.tasks.columns import Column, Columns
from bigain.utils.paths import REPOSITORY, without_home
from bigain.utils.tables import latex, markdown

# --- classes by name


@pytest.mark.parametrize(
    "target",
    ["os.system", "os.execv", "subprocess.Popen", "builtins.eval", "builtins.exec", "shutil.rmtree",
     "bigain.utils.paths.without_home", "builtins.dict", "os", "absent.Name", ".", "a..b", "os.",
     "pathlib.Path.unlink", "hydra.utils.instantiate"],
)  # fmt: skip
@pytest.mark.parametrize("group", ["compressor", "model", "dataset", "task", "features", "logger"])
def test_a_target_of_another_kind_is_refused_and_not_called(group, target, tmp_path, capfd):
    for key, value in (("command", f"touch {tmp_path}/harmed"), ("name", "x"), ("path", tmp_path)):
        changed = [f"{group}._target_='{target}'", f"++{group}.{key}='{value}'"]
        with pytest.raises(BiGainError) as refused:
            Entry(["task=generate", "limit=1", "logger=wandb", *changed]).job  # noqa: B018
        assert one_line(refused.value).startswith(group) and target in str(refused.value)
    assert not any(tmp_path.iterdir()) and capfd.readouterr().out == ""


def test_a_nested_target_of_another_kind_is_refused():
    nested = ["compressor.compressor._target_=os.system", "++compressor.compressor.command=ls"]
    nested.append("~compressor.compressor.ratio")
    with pytest.raises(BiGainError, match=r"_target_=os\.system is no Compressor"):
        Entry(["task=classify", "compressor=lgtm_cached", *nested]).job  # noqa: B018


# --- folders


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may read."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for inner in path.rglob("*"):
        inner.chmod(stat.S_IRWXU)
    shutil.rmtree(path)


class Finished:
    def __init__(self, path: Path, wanted: list[str]) -> None:
        self.run_path, self.wanted = path, wanted

    def image_ids(self) -> list[str]:
        return self.wanted

    def scored(self, run: Run) -> bool:
        return True


@pytest.mark.parametrize(("wanted", "word"), [(["0"], "done"), (["0", "1"], "started")])
def test_a_run_on_a_read_only_folder_shows_what_it_is(open_folder, wanted, word):
    run = Run.create(open_folder, "classify", {"seed": 0}, {})
    with run.lock():
        run.append([{"image_id": "0", "label": 0}])
    for path in (open_folder, run.path):
        path.chmod(0o555)
    told, tell = multiprocessing.get_context("fork").Pipe(duplex=False)
    if not (child := os.fork()):  # another user, for whom modes count
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            tell.send(look(Finished(run.path, wanted)).line)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert told.poll(), "the child failed"
    assert told.recv().startswith(f"{word}, 1 of {len(wanted)} images")


def test_commands_that_are_advised_can_be_typed(tmp_path):
    odd = tmp_path / "my runs; touch $(harmed) 'x'"
    run = Run.create(odd, "classify", {"seed": 0}, {})
    (run.path / "run.json").write_text("{}")
    with pytest.raises(BiGainError) as refused:
        Run.open(run.path)
    advised = re.search(r"`(rm .*?)`", str(refused.value))
    assert advised and shlex.split(advised[1]) == ["rm", str(run.path / "run.json")]


def test_no_advised_command_is_unquoted():
    """Every path in a command in backquotes goes through `shell`."""
    for path in (REPOSITORY / "bigain").rglob("*.py"):
        found = re.findall(r"`(?:rm|mv|ls|df|git|fuser|cp|wandb) [^`]*\{", path.read_text())
        assert not found, f"{path}: {found}"
    assert shell("rm", "a b") == "`rm 'a b'`"


def test_home_stays_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = {"a": ["/home/me/x", "/mnt/home/me/x", "/home/me2/x"], "b": {"c": "/home/me"}, "d": 3}
    assert without_home(given) == {
        "a": ["~/x", "/mnt/home/me/x", "/home/me2/x"], "b": {"c": "/home/me"}, "d": 3,
    }  # fmt: skip
    command = "python run.py dataset.root=/home/me/pets 'results=/home/me/my runs'"
    assert without_home(command) == "python run.py dataset.root=~/pets 'results=~/my runs'"


# --- titles

TITLES = [
    "a|b", "a\nb", "a\r\nb", "a\\|b", "a\\", "|", "a\u2028b", "a\x00b\x1bc", "$x$ & 50% #1_{}~^",
    "<script>", "\\input{/etc/passwd}", "a\n\nb", "\t", "--- | ---",
]  # fmt: skip


@pytest.mark.parametrize("title", TITLES)
def test_a_title_stays_in_its_entry(title):
    lines = [["Method", title], [title, "1"], ["x", title]]
    table = markdown(lines).splitlines()
    assert len(table) == 4
    for line in table:
        plain = line.replace("\\\\", "")
        assert len(re.findall(r"(?<!\\)\|", plain)) == 3, line
    rows = [line for line in latex(lines).splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == 1 and not re.search(r"(?<!\\)[#%_]", row), row
        assert "\\input" not in row


@pytest.mark.parametrize("title", TITLES)
def test_a_title_stays_in_its_line(title, tmp_path):
    column = Column("x", lambda row: row["method"])
    parts = [Columns(("method",), (column,), "legend")]
    section = tables.Section(
        title, [{"method": title, "gflops": 1.0, "gflops_matching": 0.0}], parts
    )
    text = tables.write([section], tmp_path / "t", title, "note")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == 2 if title.strip() else len(headings) <= 2
    tex = (tmp_path / "t.tex").read_text()
    assert tex.count(r"\caption") == 1 and "\n\n" not in tex and "\\input" not in tex


# --- numbers


def test_every_committed_fid_lies_in_its_interval():
    bundles = Bundles(REPOSITORY / "results" / "mini" / "bundles")
    checked = 0
    for name in bundles.names():
        for record in bundles.records(name).values():
            if record.get("fid") is not None and record.get("fid_low") is not None:
                assert record["fid_low"] <= record["fid"] <= record["fid_high"], name
                checked += 1
    assert checked > 50

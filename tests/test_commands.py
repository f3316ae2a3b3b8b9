"""Every command given wrong arguments, or Ctrl-C while it starts: one line, and no traceback."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigain.errors import BiGainError
from bigain.experiments.command_line import check_choices
from bigain.reporting import __main__ as reporting
from bigain.reporting.__main__ import VERBS
from bigain.utils.paths import REPOSITORY

SCRIPTS = sorted(path.name for path in (REPOSITORY / "scripts").glob("*.py"))
COMMANDS = {
    "run.py": ["run.py"],
    "reporting": ["-m", "bigain.reporting"],
    **{name: [f"scripts/{name}"] for name in SCRIPTS},
}
HEAVY = ("bigain.", "hydra", "omegaconf", "torch", "torchvision", "numpy")


def call(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, *arguments], capture_output=True, text=True, cwd=REPOSITORY
    )


def check(done: subprocess.CompletedProcess[str]) -> None:
    """One line that says what is wrong; argparse puts the usage above it."""
    assert done.returncode in (1, 2), (done.args, done.stdout)
    said = done.stderr.splitlines()
    assert "error: " in said[-1] and "Traceback" not in done.stderr, done.stderr
    assert len(said) == 1 or said[0].startswith("usage: "), done.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "reporting"])
def test_ctrl_c_is_one_line_from_the_first_import(name):
    (path,) = COMMANDS[name]
    before, _, _ = (REPOSITORY / path).read_text().partition("import bigain.utils.interrupts")
    lines = [line for line in before.splitlines() if line.startswith(("import ", "from "))]
    assert not any(line.split()[1].startswith(HEAVY) for line in lines)
    assert "import bigain.utils.interrupts" in (REPOSITORY / path).read_text()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("wandb_dashboard.py", ["--absent"]),
        ("run.py", ["a b=3"]),
        ("run.py", ["=3"]),
        ("run.py", ["compressor.ratio=0.5 0.6"]),
        ("run.py", ["task=null"]),
        ("benchmark.py", ["suites=3"]),
        ("benchmark.py", ["repeats=many"]),
        ("make_reference_statistics.py", ["batch_size=many"]),
        ("make_random_pipeline.py", ["seed=x"]),
        ("gpu.py", ["budget=long"]),
        ("train_reference.py", ["images=x"]),
    ],
)
def test_wrong_arguments_are_one_line(name, arguments):
    done = call(COMMANDS[name], *arguments)
    check(done)


@pytest.mark.parametrize("arguments", [["absent"], ["table", "absent/../x"]])
def test_wrong_arguments_of_reporting_are_one_line(arguments, monkeypatch, capsys):
    """In process, where others have imported already what it needs to look for runs."""
    monkeypatch.setattr(sys, "argv", ["reporting", *arguments])
    try:
        code = reporting.main()
    except SystemExit as exit:  # argparse's
        assert isinstance(exit.code, int)
        code = exit.code
    said = capsys.readouterr().err
    check(subprocess.CompletedProcess(arguments, code, stderr=said))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("=", "= names no key; write it as key=value"),
        ("=3", "=3 names no key; write it as key=value"),
        ("task=null", "task=null must name an option of the group task; accepted: classify, "),
        ("task=3", "task=3 must name an option of the group task; accepted: classify, "),
        ("task=classify,3", "task=classify,3 must name an option of the group task"),
        ("task=range(1,3)", "task=range(1,3) must name an option of the group task"),
        ("model=[1,2]", "model=[1,2] must name an option of the group model; accepted: dit_f"),
        ("hydra/launcher=true", "hydra/launcher=true must name an option of the group hydra/l"),
    ],
)
def test_a_group_that_is_given_no_name_is_told(override, message):
    with pytest.raises(BiGainError) as caught:
        check_choices(["-m", "seed=3", override])
    assert str(caught.value).startswith(message)


def test_every_other_override_is_left_to_hydra():
    check_choices(["--help", "a b", "seed=1,2", "task='classify'", "compressor=tome,lgtm"])
    check_choices(["~task", "task={_target_: null}", "task=glob(*)", "+a={}", "blocks=null"])


@pytest.mark.parametrize("sweep", [[], ["-m"]])
@pytest.mark.parametrize("override", ["a b=3", "seed=[3", "seed", "'a'=3", "seed=3 =", 'a="3'])
def test_an_override_that_cannot_be_parsed_is_named(override, sweep, monkeypatch):
    """In process, as nothing is composed after it."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's process keeps its handlers
    monkeypatch.setattr(sys, "argv", ["run.py", *sweep, "compressor=lgtm", override])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(REPOSITORY / "run.py"), run_name="__main__")
    said = str(caught.value)
    assert said.startswith(f"error: {override} cannot be read: ") and "\n" not in said
    assert "write it as key=value" in said


@pytest.mark.parametrize("name", ["run.py", "reporting", "train_reference.py"])
def test_ctrl_c_during_imports_is_one_line(name):
    for seconds in (0.5, 1.0):
        process = subprocess.Popen(
            [sys.executable, *COMMANDS[name], "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        assert len(said.splitlines()) <= 1 and "Traceback" not in said, said


# --- help comes at once: no command imports what takes seconds before it knows what to do

SLOW = {"torch", "torchvision", "diffusers", "transformers", "pandas", "scipy", "wandb"}
FILES = [REPOSITORY / "run.py", *sorted((REPOSITORY / "scripts").glob("*.py"))]

CODE = """
import runpy, sys
sys.argv = [{name!r}, *{arguments!r}]
try:
    runpy.{how}({name!r}, run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print("imported:", *sorted({heavy!r} & set(sys.modules)))
"""


def imported(how: str, name: str, *arguments: str) -> str:
    """The packages that a command imports to answer, of those that take long."""
    code = CODE.format(how=how, name=name, arguments=arguments, heavy=SLOW)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3, "it printed no help"
    return done.stdout.splitlines()[-1].removeprefix("imported:").strip()


@pytest.mark.parametrize("script", FILES, ids=lambda path: path.name)
def test_the_help_of_a_script_imports_nothing_heavy(script: Path):
    assert imported("run_path", str(script), "--help") == ""


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_the_help_of_the_tables_imports_nothing_heavy(verb: str | None):
    given = [] if verb is None else [verb]
    assert imported("run_module", "bigain.reporting", *given, "--help") == ""


def test_there_is_no_other_module_to_run():
    mains = [path.parent.name for path in (REPOSITORY / "bigain").rglob("__main__.py")]
    assert mains == ["reporting"]

"""Every command given wrong arguments, or Ctrl-C while it starts: one line, and no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bigain.utils.paths import REPOSITORY

SCRIPTS = sorted(path.name for path in (REPOSITORY / "scripts").glob("*.py"))
HYDRA = ("benchmark.py", "make_reference_statistics.py", "train_reference.py")
COMMANDS = {
    "run.py": ["run.py"],
    "reporting": ["-m", "bigain.reporting"],
    **{name: [f"scripts/{name}"] for name in SCRIPTS},
}
VERBS = ("table", "status", "bundle", "findings", "report", "overview")


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


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in (*HYDRA, "run.py")])
def test_an_unknown_argument_is_one_line(name):
    check(call(COMMANDS[name], "--absent=1"))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("prepare_pets.py", ["--root="]),
        ("prepare_fashion_textured.py", ["--amplitude=nan"]),
        ("prepare_fashion_textured.py", ["--count=1000000000000"]),
        ("prepare_imagenet.py", ["--root=/absent/\udce9"]),
        ("prepare_imagenet.py", ["--adm=/absent", "--weights=/absent"]),
        ("reporting", ["table", "absent/../x"]),
        ("reporting", ["table", "demo", "compressor.absent=1"]),
        ("reporting", ["status", "ünïcode"]),
        ("run.py", ["a b=3"]),
        ("run.py", ["=3"]),
        ("run.py", ["compressor.ratio=0.5 0.6"]),
        ("run.py", ["task=null"]),
        ("benchmark.py", ["suites=3"]),
        ("benchmark.py", ["suites=[absent]"]),
        ("benchmark.py", ["repeats=many"]),
        ("make_reference_statistics.py", ["batch_size=many"]),
        ("make_reference_statistics.py", ["device=meta"]),
        ("make_reference_statistics.py", ["features=null"]),
        ("make_reference_statistics.py", ["folder=/absent", "name=a/b"]),
        ("train_reference.py", ["seed=x"]),
        ("train_reference.py", ["images=x"]),
        ("train_reference.py", ["reference=absent"]),
        ("train_reference.py", ["data=/absent"]),
    ],
)
def test_wrong_arguments_are_one_line(name, arguments):
    done = call(COMMANDS[name], *arguments)
    check(done)


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_during_imports_is_one_line(name):
    """At two moments: as soon as the command's first import is done, and in the midst of others."""
    for seconds in (0.3, 1.0):
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

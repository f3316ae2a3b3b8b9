"""Every command given wrong arguments, or Ctrl-C while it starts: one line, and no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

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
        ("reporting", ["absent"]),
        ("reporting", ["table", "absent/../x"]),
        ("run.py", ["a b=3"]),
        ("run.py", ["=3"]),
        ("run.py", ["compressor.ratio=0.5 0.6"]),
        ("run.py", ["task=null"]),
        ("benchmark.py", ["suites=3"]),
        ("benchmark.py", ["repeats=many"]),
        ("make_reference_statistics.py", ["batch_size=many"]),
        ("train_reference.py", ["images=x"]),
    ],
)
def test_wrong_arguments_are_one_line(name, arguments):
    done = call(COMMANDS[name], *arguments)
    check(done)


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

"""Help comes at once: no command imports what takes seconds before it knows what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from bigain.reporting.__main__ import VERBS
from bigain.utils.paths import REPOSITORY

HEAVY = {"torch", "torchvision", "diffusers", "transformers", "pandas", "scipy", "wandb"}
SCRIPTS = [REPOSITORY / "run.py", *sorted((REPOSITORY / "scripts").glob("*.py"))]

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
    code = CODE.format(how=how, name=name, arguments=arguments, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3, "it printed no help"
    return done.stdout.splitlines()[-1].removeprefix("imported:").strip()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_help_of_a_script_imports_nothing_heavy(script: Path):
    assert imported("run_path", str(script), "--help") == ""


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_the_help_of_the_tables_imports_nothing_heavy(verb: str | None):
    given = [] if verb is None else [verb]
    assert imported("run_module", "bigain.reporting", *given, "--help") == ""


def test_there_is_no_other_module_to_run():
    mains = [path.parent.name for path in (REPOSITORY / "bigain").rglob("__main__.py")]
    assert mains == ["reporting"]

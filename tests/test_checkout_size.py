"""The checkout stays small enough to clone in a moment and to look through."""

import subprocess
from pathlib import Path

import pytest

from bigain.utils.paths import REPOSITORY

MIB = 1 << 20


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [REPOSITORY / name for name in found.split("\0") if name]


def mebibytes(files: list[Path]) -> float:
    return sum(path.stat().st_size for path in files if path.is_file()) / MIB


def test_the_checkout_is_small(tracked):
    assert len(tracked) <= 750  # a tuning task, a third reference model and two tables come to 735
    assert mebibytes(tracked) <= 52  # 46 before the third reference model


def test_results_are_small(tracked):
    results = [path for path in tracked if path.is_relative_to(REPOSITORY / "results")]
    assert mebibytes(results) <= 10


def test_committed_runs_are_a_few_bundles(tracked):
    bundles = [path for path in tracked if path.parent.name == "bundles"]
    assert 1 <= len(bundles) <= 10
    assert mebibytes(bundles) <= 6
    assert not [path for path in tracked if "runs" in path.relative_to(REPOSITORY).parts]

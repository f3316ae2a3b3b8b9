"""Tests that need a GPU, run as pytest runs them."""

import subprocess
import sys

import torch
from omegaconf import DictConfig

from bigain.benchmarks.report import Report
from bigain.errors import BiGainError
from bigain.utils.paths import REPOSITORY

NOTE = "Tests of this repository on the device; a failing one is an error."


def run(cfg: DictConfig, device: torch.device) -> Report:
    """Run pytest with ``cfg.gpu_tests.arguments``.

    Raises:
        BiGainError: if a test fails, none is found, or they take longer than
            ``cfg.gpu_tests.timeout`` seconds.
    """
    own = cfg.gpu_tests
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *own.arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=REPOSITORY, timeout=own.timeout
        )
    except subprocess.TimeoutExpired:
        raise BiGainError(f"the tests took longer than {own.timeout:.0f} s") from None
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or " passed" not in lines[-1]:  # all may have been skipped
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        said = [*failed, *lines[-1:], *done.stderr.splitlines()[-1:]]
        raise BiGainError("; ".join(said) or f"pytest ended with {done.returncode}")
    return Report("Tests", NOTE, {"Outcome": [["pytest says"], [lines[-1].strip("= ")]]}, [])

"""The location of this repository, and paths that users give."""

from argparse import ArgumentTypeError
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def given_path(text: str) -> Path:
    """A path of the command line; ``~`` stands for the home directory, as in a shell.

    Raises:
        ArgumentTypeError: if it is empty.
    """
    if not text:
        raise ArgumentTypeError("a path is empty, as an unset shell variable leaves it")
    return Path(text).expanduser()

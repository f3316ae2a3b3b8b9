"""The location of this repository, paths that users give, and paths that other machines share."""

import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*")  # what may become part of a path


def without_home(node: Any) -> Any:
    """Plain values or a command whose paths in the home directory begin with ``~/``."""
    if isinstance(node, dict):
        return {key: without_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_home(value) for value in node]
    if not isinstance(node, str):
        return node
    return re.sub(rf"(?<![\w./~-]){re.escape(str(Path.home()))}/", "~/", node)


def without_repository(text: str) -> str:
    """A text whose paths in this repository are relative to it."""
    return text.replace(f"{REPOSITORY}/", "")


def given_path(text: str) -> Path:
    """A path of the command line; ``~`` stands for the home directory, as in a shell.

    Raises:
        ArgumentTypeError: if it is empty.
    """
    if not text:
        raise ArgumentTypeError("a path is empty, as an unset shell variable leaves it")
    return Path(text).expanduser()

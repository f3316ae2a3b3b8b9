"""Importing this first makes Ctrl-C one line, also while a command still imports the rest.

A command that keeps something says so itself: see `bigain.experiments.command_line`.
"""

import sys
from types import TracebackType

_usual = sys.excepthook


def _one_line(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        _usual(kind, error, traceback)


sys.excepthook = _one_line

"""Import this module first: Ctrl-C then prints one line, even while a command imports the rest.

A command that keeps finished work says so itself: see `bigain.experiments.command_line`.
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

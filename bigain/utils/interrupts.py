"""Import this module first: Ctrl-C then prints one line, even while a command imports the rest.

So does a command that lacks the packages of the extra ``experiments``. A command that keeps
finished work says so itself: see `bigain.experiments.command_line`.
"""

import sys
from types import TracebackType

from bigain.errors import NotInstalledError

_usual = sys.excepthook


def _one_line(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    elif issubclass(kind, NotInstalledError):
        print(f"error: {error}", file=sys.stderr)
    else:
        _usual(kind, error, traceback)


sys.excepthook = _one_line

import bigain.utils.experiments_extra  # noqa: E402, F401 (last, for its error is printed as above)

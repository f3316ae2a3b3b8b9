"""Services that show finished runs; the store in results/ stays the truth.

Nothing here can fail a run: what goes wrong is one line on stderr.
"""

import sys
from typing import TYPE_CHECKING, Protocol

from bigain.errors import one_line
from bigain.store.runs import Run

if TYPE_CHECKING:
    from bigain.experiments.job import Job


class Logger(Protocol):
    """What ``logger=`` names; the loggers themselves are in `bigain.loggers`."""

    def problem(self) -> str | None:
        """Why nothing can be logged and what mends it, in one line; None if nothing is wrong.

        It neither prompts nor uses the network.
        """

    def finished(self, job: "Job", run: Run) -> str:
        """Log the job's images, all of which the run holds; returns where they can be seen."""


def usable(logger: Logger | None) -> Logger | None:
    """The logger, asked before anything is computed whether it can log.

    Returns:
        None without a logger, and if it cannot log, which a line on stderr then says.
    """
    if logger is None or (problem := logger.problem()) is None:
        return logger
    print(f"{_name(logger)}: nothing is logged: {problem}", file=sys.stderr)
    return None


def log(logger: Logger | None, job: "Job", run: Run) -> None:
    """Log a finished run, with its scores, and say where, or in a line on stderr why not.

    Args:
        logger: what `usable` returned; None logs nothing.
    """
    if logger is None:
        return
    try:
        print(f"logged: {logger.finished(job, run)}")
    except Exception as error:  # whatever a service raises, the run is finished
        why = one_line(error) or type(error).__name__
        print(
            f"{_name(logger)}: {run.path.name} is not logged: {why}; the run itself is complete, "
            "and the same command logs it",
            file=sys.stderr,
        )


def _name(logger: Logger) -> str:
    return f"logger={type(logger).__name__.lower()}"

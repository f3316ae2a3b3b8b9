"""Progress of a run and the time it still needs, on stderr."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

FIRST, EVERY = 10.0, 30.0  # seconds before the first line and between lines, without a terminal


class Progress:
    """A bar that counts evaluations, because a single image may take minutes.

    Without a terminal, it prints a line from time to time, so that log files stay readable.

    Args:
        title: what stands in front of the bar.
        images: how many were asked for.
        done: how many of them are finished already.
        each: evaluations per image.
    """

    def __init__(
        self,
        title: str,
        images: int,
        done: int,
        each: int,
        *,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._images, self._done = title, images, done
        self._total, self._evaluations = images * each, done * each
        self._file, self._clock = file or sys.stderr, clock
        self._before, self._began = self._evaluations, clock()
        self._next = self._began + FIRST
        self._bar = tqdm(
            total=self._total,
            initial=self._evaluations,
            unit="eval",
            desc=title,
            file=self._file,
            postfix=f"{done}/{images} images",
            disable=not self._file.isatty(),
        )

    def evaluated(self, count: int) -> None:
        """Count evaluations."""
        self._evaluations += count
        self._bar.update(count)
        if self._bar.disable and (now := self._clock()) >= self._next:
            self._next = now + EVERY
            print(self._line(now), file=self._file, flush=True)

    def finished(self, images: int, note: str = "", each: float | None = None) -> None:
        """Count finished images.

        Args:
            note: text to show after the count of images.
            each: evaluations to expect for each of those left, if these were only guessed before.
        """
        self._done += images
        if each is not None:
            self._total = self._evaluations + round((self._images - self._done) * each)
            self._bar.total = self._total
        self._bar.set_postfix_str(f"{self._done}/{self._images} images{note}", refresh=False)

    def _line(self, now: float) -> str:
        computed = self._evaluations - self._before
        left = (self._total - self._evaluations) * (now - self._began) / max(computed, 1)
        return (
            f"{self._title}: {self._evaluations:,} of {self._total:,} evaluations, "
            f"{self._done} of {self._images} images, {tqdm.format_interval(left)} left"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

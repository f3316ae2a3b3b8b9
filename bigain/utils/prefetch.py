"""Prepare the next item while the current one is in use."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def prefetch(prepare: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Yield ``prepare(item)`` in order, preparing the next item in a thread meanwhile.

    An error in ``prepare`` is raised when its item's turn comes.
    """
    with ThreadPoolExecutor(1) as pool:
        coming: Future[Out] | None = None
        for item in items:
            now, coming = coming, pool.submit(prepare, item)
            if now is not None:
                yield now.result()
        if coming is not None:
            yield coming.result()

"""The next item prepared while this one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ahead(prepare: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """``prepare`` of each item in order, the next one in a thread while this one is used.

    An error of ``prepare`` is raised when its item's turn comes.
    """
    with ThreadPoolExecutor(1) as pool:
        coming: Future[Out] | None = None
        for item in items:
            now, coming = coming, pool.submit(prepare, item)
            if now is not None:
                yield now.result()
        if coming is not None:
            yield coming.result()

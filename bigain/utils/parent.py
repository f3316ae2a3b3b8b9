"""A process that ends with the one that started it, however that ends."""

import os
import threading
import time
from functools import cache

SECONDS = 0.5


@cache
def end_with_parent() -> None:
    """From now on, end this process at once when its parent has ended.

    A killed parent cannot end its workers, and they would keep their locks.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS)
    os._exit(1)  # the store takes any kill

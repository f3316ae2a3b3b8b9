"""Locks of a run's folder, which the system frees when a process ends, however it ends."""

import inspect
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bigain.errors import BiGainError, shell
from bigain.store.shards import Shard

# Newer versions replace the system's locks by files, which a killed process would leave behind.
_SYSTEM: dict[str, Any] = (
    {"fallback_to_soft": False} if "fallback_to_soft" in str(inspect.signature(FileLock)) else {}
)


class LockedError(BiGainError):
    """Another process works on what was asked for."""


class Locks:
    """What protects the run in ``folder`` from other processes; each lock is a file there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def shard(self, shard: Shard, sweep: str) -> Iterator[None]:
        """Hold a shard; shards of other counts overlap it.

        Args:
            sweep: its own processes are waited for; "" waits for nobody.

        Raises:
            LockedError: at once, if another process holds the shard or one that overlaps.
        """
        with ExitStack() as held:
            while not self._enter(held, shard, sweep):
                time.sleep(0.2)
            yield

    def _enter(self, held: ExitStack, shard: Shard, sweep: str) -> bool:
        """Lock a shard; False if a process of the same sweep is in the way."""
        with self._entry():
            others = [o for o in self._held() if o == shard or o.count != shard.count]
            for other in others:
                if not sweep or self._sweep(other).read_text() != sweep:
                    join = "" if other == shard else f", or use shards={other.count}"
                    raise _locked(self._path(other), f" ({other})", join)
            if not others:
                held.enter_context(_lock(self._path(shard)))
                self._sweep(shard).write_text(sweep)
            return not others

    def held(self) -> list[Shard]:
        """The shards that processes hold at this moment.

        To look takes a lock, so on a folder that this process may not write to there are none.
        """
        if not any(self.folder.glob(".lock-*-of-*")) or not os.access(self.folder, os.W_OK):
            return []
        with self._entry():
            return self._held()

    def finish(self) -> AbstractContextManager[None]:
        """Hold what is done once all images are there.

        Raises:
            LockedError: at once, if another process holds it.
        """
        return _lock(self.folder / ".lock-finish")

    def records(self) -> AbstractContextManager[None]:
        """Take a turn at changing a record."""
        return _lock(self.folder / ".lock-records", wait=True)

    def _entry(self) -> AbstractContextManager[None]:
        """Processes take and look at the locks of shards one at a time, for a moment each."""
        return _lock(self.folder / ".lock-entry", wait=True)

    def _held(self) -> list[Shard]:
        held = []
        for path in self.folder.glob(".lock-*-of-*"):
            index, count = path.name.removeprefix(".lock-").split("-of-")
            try:
                with _lock(path):
                    continue
            except LockedError:
                held.append(Shard(int(count), int(index)))
        return sorted(held)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f".lock-{shard.index}-of-{shard.count}"

    def _sweep(self, shard: Shard) -> Path:
        """Names the sweep of the shard's holder; not its lock, which filelock may empty."""
        return self.folder / f".sweep-{shard.index}-of-{shard.count}"


@contextmanager
def _lock(path: Path, wait: bool = False) -> Iterator[None]:
    lock = FileLock(path, timeout=-1 if wait else 0, **_SYSTEM)
    try:
        lock.acquire(poll_interval=0.01)
    except Timeout:
        raise _locked(path) from None
    except (OSError, NotImplementedError) as error:
        raise BiGainError(
            f"{path} cannot be locked ({getattr(error, 'strerror', None) or error}); set results= "
            "to a folder that can be written, on a file system that knows flock"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _locked(path: Path, what: str = "", more: str = "") -> LockedError:
    return LockedError(
        f"{path.parent} is being worked on by another process{what}: wait for it{more}, or see "
        f"which with {shell('fuser', '-v', path)} and end it"
    )

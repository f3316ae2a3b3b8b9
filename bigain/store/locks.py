"""Locks of a run's folder, which the system frees when a process ends, however it ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from bigain.errors import BiGainError
from bigain.store.shards import Shard
from bigain.utils import files

_SHARDS = ".lock-*-of-*"


class LockedError(BiGainError):
    """Another process works on what was asked for."""


class Locks:
    """What holds a run, in ``folder``, against other processes; each lock is a file there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def shard(self, shard: Shard, sweep: str) -> Iterator[None]:
        """Hold a shard; those of other counts overlap it.

        Args:
            sweep: a process of the same one is waited for; "" waits for none.

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
            free = True
            for other in self._held():
                if other != shard and other.count == shard.count:
                    continue
                path = self._path(other)
                if not sweep or path.read_text() != sweep:
                    join = "" if other.count == shard.count else f" or use shards={other.count},"
                    raise LockedError(
                        f"{self.folder} is being worked on by another process ({other}): wait for "
                        f"it,{join} or see which with `fuser -v {path}` and end it"
                    )
                free = False
            if free:
                held.enter_context(_flock(self._path(shard)))
                self._path(shard).write_text(sweep)
            return free

    def held(self) -> list[Shard]:
        """The shards that processes hold at this moment."""
        if not any(self.folder.glob(_SHARDS)):
            return []
        with self._entry():
            return self._held()

    def finish(self) -> AbstractContextManager[None]:
        """Hold what is done once all images are there.

        Raises:
            LockedError: at once, if another process holds it.
        """
        return _flock(self.folder / ".lock-finish")

    def records(self) -> AbstractContextManager[None]:
        """Take a turn at changing a record."""
        return _flock(self.folder / ".lock-records", wait=True)

    def _entry(self) -> AbstractContextManager[None]:
        """Locks of shards are taken and looked at by one process at a time, for a moment."""
        return _flock(self.folder / ".lock-entry", wait=True)

    def _held(self) -> list[Shard]:
        held = []
        for path in self.folder.glob(_SHARDS):
            index, count = path.name.removeprefix(".lock-").split("-of-")
            try:
                with _flock(path):
                    continue
            except LockedError:
                held.append(Shard(int(count), int(index)))
        return sorted(held)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f".lock-{shard.index}-of-{shard.count}"


@contextmanager
def _flock(path: Path, wait: bool = False) -> Iterator[None]:
    with files.explained(path):
        file = path.open("a+b")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise LockedError(
                f"{path.parent} is being worked on by another process: wait for it, or see which "
                f"with `fuser -v {path}` and end it"
            ) from None
        except OSError as error:
            raise BiGainError(
                f"{path} cannot be locked ({error.strerror}); set results= to a folder on a file "
                "system that knows flock"
            ) from error
        try:
            yield
        finally:  # closing alone would leave it to forked children, such as loader workers
            fcntl.flock(file, fcntl.LOCK_UN)

"""Which files a piece of work looks at, to keep its result until one of them changes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISDIR
from typing import Any

# size, times and inode of a file or a listed folder, nothing of others; None if it is not there
Stamp = list[int] | None
_LISTINGS = ("os.listdir", "os.scandir")
_active: dict[str, Stamp] | None = None
_hooked = False
_stat = os.stat


def stamp(path: str, listed: bool = False) -> Stamp:
    """What changes when a file does; for a folder that was not listed, only that it is there."""
    try:
        found = _stat(path)
    except OSError:
        return None
    if S_ISDIR(found.st_mode) and not listed:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


@contextmanager
def recorded(seen: dict[str, Stamp]) -> Iterator[None]:
    """Add to ``seen`` what this process opens, lists or looks for, as it is at that moment.

    A path that ends in a slash is a folder that was listed. Reading by other means than Python's,
    such as memory maps of a library, is not seen. Not for several threads.
    """
    global _active, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    _active = seen
    os.stat = _recording_stat  # type: ignore[assignment]
    try:
        yield
    finally:
        os.stat = _stat
        _active = None


def _recording_stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
    _note(path, False)
    return _stat(path, *arguments, **options)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _active is None:
        return
    if event == "open":
        _note(arguments[0], False)
    elif event in _LISTINGS:
        _note(arguments[0] or ".", True)


def _note(path: Any, listed: bool) -> None:
    if _active is None or not isinstance(path, str | bytes | os.PathLike):
        return  # a descriptor
    name = os.path.abspath(os.fsdecode(path)) + ("/" if listed else "")
    if name not in _active:
        _active[name] = stamp(name, listed)


def unchanged(seen: dict[str, Stamp]) -> bool:
    """Whether all is as it was recorded."""
    return all(stamp(name, name.endswith("/")) == found for name, found in seen.items())

"""Record which files a computation looks at, so that its result is valid until one changes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISDIR
from typing import Any

# size, times and inode of a file or a listed folder; empty for other folders; None if missing
Stamp = list[int] | None
_LISTINGS = ("os.listdir", "os.scandir")
_active: dict[str, Stamp] | None = None
_hooked = False
_stat = os.stat


@contextmanager
def recorded(seen: dict[str, Stamp]) -> Iterator[None]:
    """Add to ``seen`` the stamp of each path that this process opens, lists or looks for.

    A path that ends in a slash is a folder that was listed. `os.stat` is replaced meanwhile: Python
    has no audit event for it, and a file that is merely looked for matters, too. Files that a
    library opens outside Python are not seen, and only one thread may record at a time.
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


def unchanged(seen: dict[str, Stamp]) -> bool:
    """Whether every path still has the stamp that was recorded."""
    return all(stamp(name, name.endswith("/")) == found for name, found in seen.items())


def stamp(path: str, listed: bool = False) -> Stamp:
    """What changes whenever a file does; for a folder that was not listed, only that it exists."""
    try:
        found = _stat(path)
    except OSError:
        return None
    if S_ISDIR(found.st_mode) and not listed:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


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

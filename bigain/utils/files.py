"""Files that are complete or absent, whatever ends the process that writes them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from bigain.errors import BiGainError

_SUFFIX = ".tmp"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into a BiGainError."""
    try:
        yield
    except OSError as error:
        raise BiGainError(
            f"cannot write {path}: {error.strerror or error}; finished images are safe: make room "
            f"or mend the path (`df -h {path.parent}`) and run the same command, which resumes"
        ) from error


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name ``path`` only once it is whole and on disk.

    Until then it is a dot file beside ``path``, which goes away if the body raises.

    Raises:
        BiGainError: if the system refuses: no space, no permission, no such folder.
    """
    with explained(path):
        temporary, file = _create(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)  # still open, so still locked against `sweep`
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, all or nothing."""
    with atomic(path) as file:
        file.write(text.encode())


def sweep(folder: Path) -> None:
    """Remove what killed writers left in ``folder``; what live ones are writing stays."""
    for temporary in folder.glob(f".*{_SUFFIX}"):
        try:
            with temporary.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink(missing_ok=True)
        except BlockingIOError:  # its writer lives
            continue
        except FileNotFoundError:  # finished since the listing
            continue


def _create(path: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file beside ``path``, locked for as long as it is open."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid4().hex}{_SUFFIX}")
        file = temporary.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # swept between opening and locking: take another


def _sync(folder: Path) -> None:
    """Put the folder's list of names on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

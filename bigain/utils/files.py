"""Files that are either complete or absent, however the process that writes them ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from bigain.errors import BiGainError, shell

_SUFFIX = ".tmp"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError from writing ``path`` into a BiGainError that says what to do."""
    try:
        yield
    except OSError as error:
        raise BiGainError(
            f"cannot write {path}: {error.strerror or error}; finished images are safe: make room "
            f"or mend the path ({shell('df', '-h', path.parent)}) and run the same command, which "
            "resumes"
        ) from error


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets the name ``path`` only when it is complete and on disk.

    Until then it is a dot file next to ``path``, which is removed if the body raises.

    Raises:
        BiGainError: if the file cannot be written, for lack of space, permission or a folder.
    """
    with explained(path):
        temporary, file = _create(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)  # still open, so still locked against `remove_stray`
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, either completely or not at all."""
    with atomic(path) as file:
        file.write(text.encode())


def make_folder(folder: Path) -> None:
    """Make a folder to write to, if it is new, and remove what killed writers left in it.

    Raises:
        BiGainError: if it cannot be written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stray(folder)


def is_stray(path: Path) -> bool:
    """Whether a file's name is that of a temporary file of `atomic`."""
    return path.name.startswith(".") and path.suffix == _SUFFIX


def remove_stray(folder: Path) -> None:
    """Remove the temporary files of killed writers from ``folder``, and keep those in use."""
    for temporary in filter(is_stray, folder.iterdir()):
        try:
            with temporary.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink(missing_ok=True)
        except BlockingIOError:  # its writer is alive
            continue
        except FileNotFoundError:  # it was finished after the listing
            continue


def _create(path: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file next to ``path``, locked for as long as it is open."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid4().hex}{_SUFFIX}")
        file = temporary.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # `remove_stray` came between opening and locking it: make another


def _sync(folder: Path) -> None:
    """Flush the folder's directory entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

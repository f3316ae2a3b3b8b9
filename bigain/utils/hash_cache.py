"""SHA-256 of files, kept between processes and looked up by size, times and inode.

The cache is ``hashes.jsonl`` in the user's cache folder (`bigain.utils.user_cache`): one line per
hash, appended whole, so that writers do not disturb each other. Lines that cannot be read are
skipped, and the file may be removed at any time.
"""

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bigain.utils import user_cache

HEX = re.compile("[0-9a-f]{64}")
SETTLED = 2 * 10**9  # ns; a file changed more recently may change again within the same time stamp

_known: dict[tuple[Any, ...], str] = {}
_read: set[Path] = set()


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content.

    It is computed once for each combination of absolute path, size, modification time, change time
    and inode. Large files in the hub's cache are named by their hash and not read at all.
    """
    if file.is_symlink():
        blob = file.readlink()
        if blob.parent.name == "blobs" and HEX.fullmatch(blob.name):
            return blob.name
    path = file.resolve()
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    kept = _kept()
    if key not in _known:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        _known[key] = found
        settled = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED
        if kept is not None and settled:
            _append(kept, [*key, found])
    return _known[key]


def _kept() -> Path | None:
    """The cache's file, after reading its lines into `_known`; None without a cache."""
    folder = user_cache.folder()
    if folder is None:
        return None
    path = folder / "hashes.jsonl"
    if path not in _read:
        _read.add(path)
        with suppress(OSError):
            for line in path.read_bytes().splitlines():
                with suppress(ValueError, TypeError):
                    *key, found = json.loads(line)
                    if isinstance(found, str) and HEX.fullmatch(found):
                        _known[tuple(key)] = found
    return path


def _append(path: Path, entry: list[Any]) -> None:
    """Add a line in one write; without permission or room on the disk, do nothing."""
    line = f"\n{json.dumps(entry)}\n".encode()  # the first break ends half a line
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

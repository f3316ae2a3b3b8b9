"""float32 tensors that take long to compute, kept from process to process.

Each is a file in ``tensors`` in the user's cache folder (`bigain.utils.user_cache`), named by the
hash of its key: a SHA-256 of the name and the numbers, then the numbers. Files that are damaged are
computed again, and all of them may be removed at any time.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bigain.errors import BiGainError
from bigain.utils import user_cache
from bigain.utils.files import atomic, is_stray, make_folder

MOST = 2 * 2**30  # bytes of all files; the oldest are removed beyond it
_CHECKSUM = 32  # bytes of a SHA-256


def read(key: str, shape: Sequence[int]) -> Tensor | None:
    """The tensor kept under ``key``, on the CPU; None if there is none of this shape."""
    folder = _folder()
    if folder is None:
        return None
    path = folder / _name(key)
    with suppress(OSError):
        content = path.read_bytes()
        checksum, numbers = content[:_CHECKSUM], content[_CHECKSUM:]
        if len(numbers) == 4 * math.prod(shape) and checksum == _checksum(path.name, numbers):
            return torch.from_numpy(np.frombuffer(numbers, "<f4").astype(np.float32)).view(*shape)
    return None


def write(tensors: Mapping[str, Tensor]) -> None:
    """Keep float32 tensors under their keys; without the permission or the room, do nothing."""
    folder = _folder()
    if folder is None or not tensors:
        return
    with suppress(BiGainError, OSError):
        make_folder(folder)
        for key, tensor in tensors.items():
            path = folder / _name(key)
            numbers = tensor.cpu().numpy().astype("<f4").tobytes()
            with atomic(path) as file:
                file.write(_checksum(path.name, numbers) + numbers)
        _remove_oldest(folder)


def _remove_oldest(folder: Path) -> None:
    files = [(path.stat(), path) for path in folder.iterdir() if not is_stray(path)]
    excess = sum(stat.st_size for stat, _ in files) - MOST
    for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= stat.st_size


def _folder() -> Path | None:
    folder = user_cache.folder()
    return None if folder is None else folder / "tensors"


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(name: str, numbers: bytes) -> bytes:
    return hashlib.sha256(name.encode() + numbers).digest()

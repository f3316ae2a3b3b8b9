"""The device to compute on."""

import ctypes
import sys

import torch

from bigain.errors import BiGainError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's <malloc.h>


def device_of(name: str) -> torch.device:
    """The device a configuration names; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BiGainError(f"device={name} cannot be used ({reason}); use auto or cpu") from error
    return device


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free on a CPU for the next ones, for the rest of the process.

    By default it hands large blocks back to the system at once, and every new tensor then waits for
    fresh pages. Without glibc nothing changes.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)

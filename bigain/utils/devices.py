"""The device to compute on."""

import ctypes
import sys

import torch

from bigain.errors import BiGainError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # from glibc's <malloc.h>


def device_of(name: str) -> torch.device:
    """The device that a configuration names; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which the meta device, say, does not compute
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BiGainError(f"device={name} cannot be used ({reason}); use auto or cpu") from error
    return device


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed CPU tensors for new ones, for the rest of the process.

    By default it returns large blocks to the system at once, so every new tensor waits for fresh
    pages. Without glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)

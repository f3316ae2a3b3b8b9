"""The peak memory of a piece of work."""

import ctypes
import gc
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """The memory in MiB that work since construction has added at its peak.

    On a GPU this is the most memory that tensors have allocated beyond what was allocated at the
    start. On a CPU it is the growth of the process's resident memory, which is only known on
    Linux.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start: float | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._start = torch.cuda.memory_allocated(device) / 2**20
            return
        try:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # memory freed earlier must not hide what this adds
            _CLEAR.write_text("5")
            self._start = _status("VmRSS")
        except (OSError, AttributeError):  # no glibc, no /proc, or no permission to reset it
            self._start = None

    def mib(self) -> float | None:
        """The peak so far, or None if the system does not report it."""
        if self._start is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self._start
        return _status("VmHWM") - self._start


def _status(field: str) -> float:
    line = next(s for s in _STATUS.read_text().splitlines() if s.startswith(field))
    return int(line.split()[1]) / 1024

"""Which number formats the machine multiplies fast, found out without torch."""

import os
import platform
from functools import cache
from pathlib import Path

_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx2")  # that CPUs may have, the fastest first

# what `hardware` may return, the fastest first
HARDWARE = ("cuda", *(f"cpu-{name}" for name in _INSTRUCTIONS), "cpu")


def hardware(device_type: str) -> str:
    """The kind of hardware by which results are kept apart; see `HARDWARE`.

    Args:
        device_type: the type of a torch.device, such as "cpu" or "cuda".

    Returns:
        The type, followed for a CPU by its fastest instructions, such as "cpu-avx2".
    """
    fastest = _fastest() if device_type == "cpu" else None
    return device_type if fastest is None else f"{device_type}-{fastest}"


def multiplies(dtype: str, device_type: str) -> bool:
    """Whether the device multiplies numbers of this dtype natively, not by way of float32.

    Args:
        dtype: its name, such as "bfloat16".
        device_type: the type of a torch.device; a GPU multiplies every dtype.
    """
    if dtype == "float32" or device_type != "cpu":
        return True
    return dtype == "bfloat16" and hardware("cpu").endswith("bf16")


def processor() -> str:
    """The CPU's name, number of cores and fastest instructions, as far as Linux reports them."""
    name = _cpuinfo().get("model name", platform.machine())
    return ", ".join(filter(None, [name, f"{os.cpu_count()} cores", _fastest()]))


def _fastest() -> str | None:
    flags = _cpuinfo().get("flags", "").split()
    return next((name for name in _INSTRUCTIONS if name in flags), None)


@cache
def _cpuinfo() -> dict[str, str]:
    """The description of the first core on Linux; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}

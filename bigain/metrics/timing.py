"""Time and memory of a forward, without and with a compressor."""

import platform
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bigain.attach import compress
from bigain.blocks import random_inputs
from bigain.compressors import Compressor
from bigain.errors import BiGainError
from bigain.metrics.memory import PeakMemory

# All but the unfused: a saving against attention by hand would flatter a compressor (trap 7).
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]


def measure(
    skeleton: Any,
    compressor: Compressor | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 1,
    warmup: int = 3,
    repeats: int = 20,
    seed: int = 0,
    **where: Any,
) -> dict[str, Any]:
    """Time a forward of random weights without and with a compressor, in turn.

    Args:
        skeleton: a U-Net or DiT, of which only the config is used.
        compressor: on it; None times the uncompressed model alone.
        where: ``blocks`` and ``sites`` of :func:`bigain.compress`.

    Returns:
        By side ("uncompressed", "compressed"): every time in seconds, their median, and the peak
        memory in MiB (`PeakMemory`); the saving of time in percent; what they were measured on.

    Raises:
        BiGainError: if the batch does not fit the memory, or the device has no fused attention.
    """
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 mean float32
    gpu = device.type == "cuda"
    try:
        with torch.random.fork_rng([device] if gpu else []):
            torch.manual_seed(seed)
            with torch.device(device):
                model = type(skeleton).from_config(skeleton.config)
            # diffusers' own `to` warns of layers to keep in float32, which these models lack
            model = torch.nn.Module.to(model, dtype=dtype).eval().requires_grad_(False)
            inputs = random_inputs(model, batch_size, device, dtype)
        sides: dict[str, Callable[[], AbstractContextManager]] = {"uncompressed": nullcontext}
        if compressor is not None:
            sides["compressed"] = lambda: compress(model, compressor, seed=seed, **where)
        with torch.no_grad(), sdpa_kernel(FUSED):
            peaks = {name: _peak(model, inputs, side, warmup) for name, side in sides.items()}
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(repeats):  # in turn, so that a slow spell strikes both
                for name, side in sides.items():
                    with side():
                        seconds[name].append(_seconds(model, inputs, device))
    except RuntimeError as error:  # torch.OutOfMemoryError among them
        reason = str(error).splitlines()[0]
        if "No available kernel" in reason:
            raise BiGainError(
                f"{device} has no fused attention for this model in {dtype}; set another dtype"
            ) from error
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in reason:
            raise BiGainError(
                f"batch_size={batch_size} does not fit the memory of {device}; lower batch_size"
            ) from error
        raise
    found: dict[str, Any] = {
        name: {
            "median_seconds": median(seconds[name]),
            "seconds": seconds[name],
            "peak_memory_mib": peaks[name],
        }
        for name in sides
    }
    if compressor is not None:
        medians = [median(seconds[name]) for name in sides]
        found["time_saved_percent"] = 100 * (1 - medians[1] / medians[0])
    return {
        **found,
        "device": torch.cuda.get_device_name(device) if gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "warmup": warmup,
        "seed": seed,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _peak(
    model: Any,
    inputs: dict[str, torch.Tensor],
    side: Callable[[], AbstractContextManager],
    warmup: int,
) -> float | None:
    """Peak memory of a forward, after the warm-up."""
    with side():
        for _ in range(warmup):
            model(**inputs)
        memory = PeakMemory(model.device)
        model(**inputs)
        return memory.mib()


def _seconds(model: Any, inputs: dict[str, torch.Tensor], device: torch.device) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    model(**inputs)
    return now() - start

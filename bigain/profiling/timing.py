"""Time and memory, always measured for two or more things in turn in one process."""

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import diffusers
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bigain.compression import architecture_of, attached
from bigain.compressors import Compressor
from bigain.errors import BiGainError
from bigain.profiling.alike import alike
from bigain.profiling.memory import PeakMemory
from bigain.utils.hardware import processor

# All but the unfused one, beside which a compressor would seem to save more time
# (docs/fidelity.md, trap 7).
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]

# A context that yields the work to time; entering and leaving it are not timed.
Side: TypeAlias = Callable[[], AbstractContextManager[Callable[[], object]]]


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
    """Time a forward with random weights, without and with a compressor in turn.

    Args:
        skeleton: a denoiser, of which only the config is used.
        compressor: the compressor to put on it; None times only the uncompressed model.
        where: ``blocks`` and ``sites`` of :func:`bigain.compress`.

    Returns:
        For either side ("uncompressed", "compressed"), all times in seconds, their median and the
        peak memory in MiB (`PeakMemory`); the time saved in percent; and the `conditions`.

    Raises:
        BiGainError: if the batch does not fit the memory, or the device has no fused attention.
    """
    with fused_attention(device, dtype), torch.no_grad():
        model, inputs = random_forward(skeleton, batch_size, device, dtype, seed)
        sides = {"uncompressed": forward_side(model, inputs, None)}
        if compressor is not None:
            sides["compressed"] = forward_side(model, inputs, compressor, seed=seed, **where)
        in_turn(sides, device, warmup=warmup, repeats=0)
        peaks = {name: peak(side, device) for name, side in sides.items()}
        seconds = in_turn(sides, device, warmup=0, repeats=repeats)
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
        **conditions(device),
        "dtype": str(dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "warmup": warmup,
        "seed": seed,
    }


def forward_side(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    compressor: Compressor | None,
    *,
    seed: int = 0,
    **where: Any,
) -> Side:
    """A forward with a compressor, which is attached and removed outside the timed work.

    With `bigain.Anchored`, the mean of the sampling steps from one anchor to the next.
    """
    steps = Steps.falling(model, inputs, (compressor and compressor.anchor_every) or 1)

    @contextmanager
    def side() -> Iterator[Callable[[], object]]:
        with attached(model, compressor, seed=seed, **where):
            yield steps

    return side


@dataclass(frozen=True)
class Steps:
    """Forwards at falling timesteps, which `in_turn` times as their mean.

    Attributes:
        inputs: the arguments of each.
    """

    model: Callable[..., object]
    inputs: Sequence[Mapping[str, torch.Tensor]]

    def __call__(self) -> None:
        for inputs in self.inputs:
            self.model(**inputs)

    @classmethod
    def falling(
        cls, model: Callable[..., object], inputs: Mapping[str, torch.Tensor], count: int
    ) -> "Steps":
        """So many forwards, from the timestep of ``inputs`` down to half of it at most."""
        t = inputs["timestep"]
        times = [(t * (1 - i / (2 * count))).to(t.dtype) for i in range(count)]
        return cls(model, [{**inputs, "timestep": time} for time in times])


def in_turn(
    sides: Mapping[str, Side],
    device: torch.device,
    *,
    warmup: int,
    repeats: int,
) -> dict[str, list[float]]:
    """Time every side once per round, so that a slow spell affects all sides alike.

    Returns:
        The seconds of the ``repeats`` rounds, by side.
    """
    for side in sides.values():
        for _ in range(warmup):
            with side() as work:
                work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            with side() as work:
                seconds[name].append(_seconds(work, device))
    return seconds


def alone(work: Callable[[], object]) -> Side:
    """A side that consists of nothing but its work."""
    return lambda: nullcontext(work)


def peak(side: Side, device: torch.device) -> float | None:
    """The MiB that one round of a side adds at its peak (`PeakMemory`); warm up before calling."""
    with side() as work:
        memory = PeakMemory(device)
        work()
        return memory.mib()


def now(device: torch.device) -> float:
    """The time in seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = now(device)
    work()
    return (now(device) - start) / (len(work.inputs) if isinstance(work, Steps) else 1)


def random_forward(
    skeleton: Any, batch_size: int, device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model with the skeleton's config and random weights, and random arguments of a forward."""
    with seeded(device, seed):
        model = random_denoiser(skeleton, device, dtype)
        return model, architecture_of(model).random_inputs(batch_size)


def random_denoiser(skeleton: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model with the skeleton's config and random weights from the global generator."""
    with torch.device(device):
        model = alike(skeleton)
    # diffusers' own `to` warns about layers to keep in float32, which these models do not have
    return torch.nn.Module.to(model, dtype=dtype).eval().requires_grad_(False)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators inside the block, and restore them afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def fused_attention(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Allow only fused attention kernels, and forbid TF32 in convolutions.

    Raises:
        BiGainError: if the device has no fused kernel for the work inside, or too little memory.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with sdpa_kernel(FUSED):
            yield
    except RuntimeError as error:  # torch.OutOfMemoryError among them
        reason = str(error).splitlines()[0]
        if "No available kernel" in reason:
            raise BiGainError(
                f"{device} has no fused attention for this model in {dtype}; set another dtype"
            ) from error
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in reason:
            raise BiGainError(
                f"this batch_size does not fit the memory of {device}; lower batch_size"
            ) from error
        raise
    finally:
        torch.backends.cudnn.allow_tf32 = before


def conditions(device: torch.device) -> dict[str, Any]:
    """The hardware, software and command with which times are measured."""
    gpu = device.type == "cuda"
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "command": " ".join(["python", _script(), *sys.argv[1:]]),
    }


def device_name(device: torch.device) -> str:
    """A device in words, such as "NVIDIA H100 80GB HBM3"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def _script() -> str:
    """The script that is running, as a path from the folder in which it was called."""
    path = Path(sys.argv[0])
    return path.as_posix() if not path.is_absolute() else path.name

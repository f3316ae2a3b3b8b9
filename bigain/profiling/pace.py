"""How long one evaluation takes on a device: a quick estimate, kept in the user's cache.

`bigain.profiling.timing` measures with care; this is for saying beforehand how long a sweep takes.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bigain.compression import architecture_of
from bigain.errors import BiGainError
from bigain.profiling.alike import alike
from bigain.profiling.timing import device_name, fused_attention, seeded
from bigain.utils import files, user_cache


class TooSlowError(Exception):
    """A measurement did not end in its time."""


@dataclass(frozen=True)
class Pace:
    """What an evaluation was found to take.

    Attributes:
        seconds: per evaluation, in batches of ``batch_size``.
        device: the device in words.
        budget: seconds that the measurement was given.
        measured: the day, as 2026-01-31.
    """

    seconds: float
    device: str
    batch_size: int
    budget: float
    measured: str


def remembered(
    skeleton: Any, device: torch.device, dtype: torch.dtype, batch_size: int
) -> Pace | None:
    """The last measurement of such a model on such a device; None if there is none."""
    with suppress(KeyError, TypeError, ValueError):
        return Pace(**_kept()[_key(skeleton, device, dtype, batch_size)])
    return None


def measure_pace(
    skeleton: Any,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    budget: float,
    clock: Callable[[], float] = time.monotonic,
) -> Pace | None:
    """Time forwards of a denoiser with random weights and inputs, and remember what was found.

    Args:
        skeleton: a denoiser, of which only the config is used.
        batch_size: that of the runs. A device on which two such batches would take too long is
            measured with smaller ones.
        budget: seconds that all of it may take.

    Returns:
        The pace; None if the device cannot do one evaluation in this time.

    Raises:
        BiGainError: if the batch does not fit the memory, or the device has no fused attention.
    """
    deadline = clock() + budget
    model: Any = None

    def in_time(*_: Any) -> None:
        if clock() > deadline:
            raise TooSlowError

    def timed(batch: int) -> float:
        inputs = architecture_of(model).random_inputs(batch)
        start = clock()
        model(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    try:
        with fused_attention(device, dtype), torch.inference_mode(), seeded(device, 0):
            model = _random(skeleton, device, dtype, in_time)
            for module in model.modules():
                module.register_forward_pre_hook(in_time)
            first = timed(1)
            # a GPU's first forward chooses its kernels
            seconds = timed(1) if device.type == "cuda" else first
            batch = max(1, min(batch_size, int((deadline - clock()) / (2 * seconds))))
            if batch > 1:
                timed(batch)
                seconds = timed(batch) / batch
    except TooSlowError:
        return None
    finally:
        model = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
    day = datetime.now(UTC).date().isoformat()
    found = Pace(seconds, device_name(device), batch, budget, day)
    _keep(_key(skeleton, device, dtype, batch_size), found)
    return found


def _random(
    skeleton: Any, device: torch.device, dtype: torch.dtype, in_time: Callable[[], None]
) -> Any:
    """A model of the skeleton's config, whose weights are drawn as fast as the device can."""
    with torch.device("meta"):
        model = alike(skeleton)
    model = torch.nn.Module.to(model, dtype=dtype).to_empty(device=device).eval()
    for parameter in model.parameters():
        in_time()
        parameter.normal_(0, 0.02)
    for buffer in model.buffers():
        buffer.zero_()
    return model


def _key(skeleton: Any, device: torch.device, dtype: torch.dtype, batch_size: int) -> str:
    config = json.dumps(dict(skeleton.config), sort_keys=True, default=str)
    threads = "" if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    about = [config, device_name(device), threads, str(dtype), batch_size]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _file() -> Path | None:
    folder = user_cache.folder()
    return None if folder is None else folder / "paces.json"


def _kept() -> dict[str, Any]:
    """All that was measured; empty if nothing was, or the file is damaged."""
    path = _file()
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(key: str, found: Pace) -> None:
    """Add a measurement; without the permission or the room, do nothing."""
    path = _file()
    if path is None:
        return
    with suppress(OSError, BiGainError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps({**_kept(), key: asdict(found)}, indent=1) + "\n")

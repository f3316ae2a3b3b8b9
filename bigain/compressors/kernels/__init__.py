"""Triton kernels for what compressors do to every token: score, match, assign and average.

Eager code on an NVIDIA GPU uses them with BIGAIN_KERNELS=1 in the environment, and never with
BIGAIN_KERNELS=0. Everything else uses the torch code next to their calls, which defines what they
must compute. Tests run them in Triton's interpreter on a CPU and compile them for two generations
of GPUs. Without the variable, `PROVEN` decides.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.compiler import is_compiling

try:
    from bigain.compressors.kernels.operators import (
        Assignment,
        assign,
        laplacian_l1,
        nearest,
        slot_means,
        smoothest,
    )
except ImportError:  # triton has no build for this platform
    INSTALLED = False
else:
    INSTALLED = True

__all__ = [
    "Assignment",
    "assign",
    "laplacian_l1",
    "nearest",
    "slot_means",
    "smoothest",
    "usable",
    "used",
]

PROVEN = False  # no GPU has run their tests yet; docs/gpu.md says when this becomes True
ASKED = os.environ.get("BIGAIN_KERNELS", "1" if PROVEN else "0") == "1"
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def usable(x: Tensor) -> bool:
    """Whether the kernels can be used on ``x``; otherwise an operator runs its torch code.

    They support neither float64 nor gradients, and torch.compile fuses the torch code by itself.
    """
    return (
        INSTALLED
        and ASKED
        and not is_compiling()
        and x.is_cuda
        and x.dtype in TYPES
        and not (torch.is_grad_enabled() and x.requires_grad)
        and torch.version.hip is None
        and torch.cuda.get_device_properties(x.device).major >= 8
    )


@contextmanager
def used(wanted: bool) -> Iterator[None]:
    """Inside, code uses the kernels if ``wanted``, whatever the environment says."""
    global ASKED
    before, ASKED = ASKED, wanted
    try:
        yield
    finally:
        ASKED = before

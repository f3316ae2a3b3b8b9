"""Triton kernels for what compressors do to every token: match, score and average.

With BIGAIN_KERNELS=1 in the environment, eager code on an NVIDIA GPU uses them. Everything else
uses the torch code next to their calls, which defines what they must compute. Tests run them in
Triton's interpreter on a CPU and compile them for two generations of GPUs. They are off by default
because no GPU has run them yet.
"""

import os

import torch
from torch import Tensor
from torch.compiler import is_compiling

try:
    from bigain.compressors.kernels.operators import laplacian_l1, nearest, slot_means
except ImportError:  # triton has no build for this platform
    INSTALLED = False
else:
    INSTALLED = True

__all__ = ["laplacian_l1", "nearest", "slot_means", "usable"]

ASKED = os.environ.get("BIGAIN_KERNELS") == "1"
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

"""A denoiser compiled in place by torch.compile."""

import torch
from torch import nn

# of torch.compile; with the last two, CUDA graphs replay a forward on a GPU
MODES = ("default", "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune")


def compile_denoiser(model: nn.Module, mode: str) -> None:
    """Compile ``model`` for one shape at a time, compressor hooks and all.

    The first forward of each shape waits for the compiler; later ones are faster.

    Args:
        model: whose hooks may come and go; it is then compiled again.
        mode: of `MODES`.
    """
    options = dict(torch._inductor.list_mode_options(mode) or {})
    if next(model.parameters()).device.type == "cpu":
        options["freezing"] = True  # weights packed for the CPU's matrix products
    model.compile(dynamic=False, options=options)

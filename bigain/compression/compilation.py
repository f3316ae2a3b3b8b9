"""A denoiser compiled in place by torch.compile."""

import torch
from torch import nn

# of torch.compile; with the last two, CUDA graphs replay a forward on a GPU
MODES = ("default", "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune")
SHAPES = 64  # of one function's arguments; torch's own limit is 8, and then it runs uncompiled


def compile_denoiser(model: nn.Module, mode: str) -> None:
    """Compile ``model`` for one shape at a time, compressor hooks and all.

    The first forward of each shape waits for the compiler; later ones are faster. What was compiled
    for earlier runs of the process is forgotten, for it counts towards the limit and holds memory.
    More than `SHAPES` are torch's error FailOnRecompileLimitHit, not a slow run.

    Args:
        model: whose hooks may come and go; it is then compiled again.
        mode: of `MODES`.
    """
    torch.compiler.reset()
    torch._dynamo.config.cache_size_limit = SHAPES
    torch._dynamo.config.fail_on_cache_limit_hit = True
    model.compile(dynamic=False, mode=mode)


def is_compiled(model: nn.Module) -> bool:
    """Whether `nn.Module.compile` was called on it."""
    return model._compiled_call_impl is not None

"""Compile a denoiser in place with torch.compile."""

import torch
from torch import nn

# modes of torch.compile; the last two replay a forward on a GPU with CUDA graphs
MODES = ("default", "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune")
SHAPES = 64  # per function; torch's own limit is 8, after which it runs the code uncompiled


def compile_denoiser(model: nn.Module, mode: str) -> None:
    """Compile ``model``, including a compressor's hooks, separately for each input shape.

    The first forward with each shape waits for the compiler, and later ones are faster. Code that
    the process compiled for earlier runs is discarded, because it counts towards the limit and
    takes memory. With more than `SHAPES` shapes, torch raises FailOnRecompileLimitHit instead of
    silently running slowly.

    Args:
        model: the denoiser; it is compiled again whenever hooks are added or removed.
        mode: one of `MODES`.
    """
    torch.compiler.reset()
    torch._dynamo.config.cache_size_limit = SHAPES
    torch._dynamo.config.fail_on_cache_limit_hit = True
    model.compile(dynamic=False, mode=mode)


def is_compiled(model: nn.Module) -> bool:
    """Whether `nn.Module.compile` was called on the model."""
    return model._compiled_call_impl is not None

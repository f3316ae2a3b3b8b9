"""Compressing a diffusers model: hooks that apply a compressor's plans inside it.

`compress` puts a compressor on a model, and `bigain.compression.architectures` holds everything
that differs between families of denoisers.
"""

from bigain.compression.architectures import (
    DECIDE_ON,
    SITES,
    Architecture,
    Block,
    architecture_of,
    find_denoiser,
    select_blocks,
)
from bigain.compression.handle import Attachment, attached, compress, remove

__all__ = [
    "DECIDE_ON",
    "SITES",
    "Architecture",
    "Attachment",
    "Block",
    "architecture_of",
    "attached",
    "compress",
    "find_denoiser",
    "remove",
    "select_blocks",
]

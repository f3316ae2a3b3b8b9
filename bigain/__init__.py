"""BiGain: unified token compression for joint generation and classification (arXiv 2603.12240)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigain.compression import compress, remove
    from bigain.compressors import (
        ABM,
        IEKVD,
        LGTM,
        Anchored,
        Cached,
        Compose,
        Compressor,
        FrequencyFilter,
        KVMerge,
        KVSelect,
        LinearAlpha,
        Plan,
        SiTo,
        ToDo,
        TokenGrid,
        TokenMap,
        ToMe,
    )
    from bigain.profiling.flops import flops_saved

__all__ = [
    "ABM",
    "IEKVD",
    "LGTM",
    "Anchored",
    "Cached",
    "Compose",
    "Compressor",
    "FrequencyFilter",
    "KVMerge",
    "KVSelect",
    "LinearAlpha",
    "Plan",
    "SiTo",
    "ToDo",
    "ToMe",
    "TokenGrid",
    "TokenMap",
    "compress",
    "flops_saved",
    "remove",
]

# where names come from that are not in bigain.compressors
_ELSEWHERE = {
    "compress": "bigain.compression",
    "flops_saved": "bigain.profiling.flops",
    "remove": "bigain.compression",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: torch and diffusers take seconds."""
    if name in __all__:
        return getattr(import_module(_ELSEWHERE.get(name, "bigain.compressors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

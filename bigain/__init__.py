"""BiGain: unified token compression for joint generation and classification (arXiv 2603.12240)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigain.compression import compress

__all__ = ["compress"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: torch and diffusers take seconds."""
    if name in __all__:
        from bigain import compression

        return getattr(compression, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

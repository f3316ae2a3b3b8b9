"""BiGain: unified token compression for joint generation and classification (arXiv 2603.12240)."""

from bigain.compression import compress

__all__ = ["compress"]

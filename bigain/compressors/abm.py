"""ABM, adaptive block merging (arXiv 2603.12240, Table 7): L-GTM without matching."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bigain.compressors.base import Compressor, Plan, check_ratio, plain_numbers
from bigain.compressors.constant import positions
from bigain.compressors.matching import cell_tokens
from bigain.compressors.spectrum import score
from bigain.compressors.tokens import TokenGrid, TokenMap
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice, check_number


@dataclass(frozen=True)
class ABM(Compressor):
    """Average whole cells, the smoothest first.

    Args:
        ratio: share of the tokens to merge away. The int(ratio*N) // (stride**2 - 1) cells with
            the lowest scores merge, as in the official code. Give either this or ``threshold``.
        threshold: merge every cell whose score is at most this value (the paper's wording).
            Samples then keep different numbers of tokens, and attention masks the empty slots.
        stride: side of a cell in tokens.
        aggregate: a cell's score is the "max" of its tokens' (the paper) or their "sum" (one of the
            official scripts).

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.ABM(ratio=0.5)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    ratio: float | None = None
    threshold: float | None = None
    stride: int = 2
    aggregate: str = "max"

    def __post_init__(self) -> None:
        plain_numbers(self)
        if (self.ratio is None) == (self.threshold is None):
            raise ValueError(
                f"ABM: give either ratio or threshold, got ratio={self.ratio} and "
                f"threshold={self.threshold}"
            )
        if self.threshold is not None:
            check_number("ABM", "threshold", self.threshold)
        check_choice("ABM", "aggregate", self.aggregate, ("max", "sum"))
        check_ratio("ABM", 0.0 if self.ratio is None else self.ratio, self.stride)

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"queries"})

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        grid.check(x)
        cells = cell_tokens(grid, self.stride, x.device)
        each = score("laplacian_l1", x, grid)[:, cells]
        roughness = each.amax(-1) if self.aggregate == "max" else each.sum(-1)
        size = None
        if self.threshold is not None:
            smooth = roughness <= self.threshold
        else:
            merged = int((self.ratio or 0.0) * grid.tokens) // (self.stride**2 - 1)
            if not merged:
                return Plan(queries=TokenMap.identity(x))
            if merged > len(cells):
                most = len(cells) * (self.stride**2 - 1) / grid.tokens
                raise ValueError(
                    f"ABM: ratio {self.ratio} needs {merged} whole cells, but a {grid.height}x"
                    f"{grid.width} token grid has {len(cells)} of {self.stride}x{self.stride}; "
                    f"the highest possible ratio is {most:.4g}"
                )
            size = grid.tokens - merged * (self.stride**2 - 1)
            picked = roughness.topk(merged, dim=1, largest=False, sorted=False).indices
            smooth = torch.zeros_like(roughness, dtype=torch.bool).scatter_(1, picked, True)
        # the destination of every token in a smooth cell is the cell's first token
        in_cells = torch.where(smooth.unsqueeze(-1), cells[:, :1], cells)
        destinations = positions(grid.tokens, x.device).repeat(len(x), 1)
        destinations[:, cells.flatten()] = in_cells.flatten(1)
        return Plan(queries=TokenMap.from_destinations(destinations, size))

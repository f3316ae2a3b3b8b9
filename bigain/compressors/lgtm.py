"""L-GTM, Laplacian-gated token merging (BiGain_TM; arXiv 2603.12240, Section 3)."""

from dataclasses import dataclass

from torch import Tensor

from bigain.compressors.base import (
    Compressor,
    Plan,
    check_choice,
    check_ratio,
    plain_numbers,
    strength,
)
from bigain.compressors.matching import cell_tokens, merge_into
from bigain.compressors.spectrum import SCORES, score, score_name
from bigain.compressors.tokens import MERGES, TokenGrid
from bigain.utils.randomness import KeyedStream


@dataclass(frozen=True)
class LGTM(Compressor):
    """ToMe with the token of lowest Laplacian score in each cell as its destination.

    The method is deterministic.

    Args:
        ratio: share of the tokens to merge away, at most 1 - 1/stride**2; 0.5 as in the paper.
        stride: side of a cell in tokens; each cell has one destination.
        cells: "paper" takes the minimum over the cell itself. "official" reproduces the published
            code, which takes it over stride**2 consecutive tokens of the flattened grid and uses
            that position within the cell (docs/fidelity.md, trap 1).
        destinations: the "lowest" score (the paper) or, as the opposite, the "highest".
        score: a name of :data:`bigain.compressors.spectrum.SCORES` (paper, Table 8).
        merge: "mean", "mlerp" or "keep", as in :class:`bigain.ToMe`.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.LGTM(0.5)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    ratio: float = strength(0.5)
    stride: int = 2
    cells: str = "paper"
    destinations: str = "lowest"
    score: str = score_name()
    merge: str = "mean"

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_ratio("LGTM", self.ratio, self.stride)
        check_choice("LGTM", "cells", self.cells, ("paper", "official"))
        check_choice("LGTM", "destinations", self.destinations, ("lowest", "highest"))
        check_choice("LGTM", "score", self.score, tuple(SCORES))
        check_choice("LGTM", "merge", self.merge, MERGES)

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"queries"})

    def plan(
        self, x: Tensor, grid: TokenGrid, t: Tensor | None = None, rng: KeyedStream | None = None
    ) -> Plan:
        grid.check(x)
        scores = score(self.score, x, grid)
        if self.cells == "paper":
            scores = scores[:, cell_tokens(grid, self.stride, x.device)]
        elif grid.height % self.stride or grid.width % self.stride:
            raise ValueError(
                f"LGTM: cells='official' needs sides divisible by stride {self.stride}, "
                f"got {grid.height}x{grid.width}; use cells='paper'"
            )
        else:
            scores = scores.unflatten(1, (-1, self.stride**2))
        chosen = scores.argmin(-1) if self.destinations == "lowest" else scores.argmax(-1)
        merged = int(self.ratio * grid.tokens)
        return Plan(queries=merge_into(x, chosen, grid, self.stride, merged, self.merge))

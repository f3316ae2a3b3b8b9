"""L-GTM, Laplacian-gated token merging (BiGain_TM; arXiv 2603.12240, Section 3)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bigain.compressors import places
from bigain.compressors.base import Compressor, Plan, check_ratio, plain_numbers, strength
from bigain.compressors.matching import cell_tokens, merge_into, split_cells
from bigain.compressors.protect import Protect
from bigain.compressors.spectrum import SCORES, score, score_name
from bigain.compressors.tokens import MERGES, TokenGrid
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice, check_whole


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
        destinations: the "lowest" score (the paper); as the opposite, the "highest"; or "cycle",
            the lowest in the first block, the second lowest in the next, and so on around.
        score: a name of :data:`bigain.compressors.spectrum.SCORES` (paper, Table 8).
        merge: "mean", "mlerp" or "keep", as in :class:`bigain.ToMe`.
        proportional, windows: as in :class:`bigain.ToMe`.
        protect: tokens that do not merge, chosen by the same score; a :class:`Protect`, or a
            mapping of its arguments such as {"share": 0.1}.

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
    proportional: bool = False
    windows: int = 1
    protect: Protect | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_ratio("LGTM", self.ratio, self.stride)
        check_choice("LGTM", "cells", self.cells, ("paper", "official"))
        check_choice("LGTM", "destinations", self.destinations, ("lowest", "highest", "cycle"))
        check_choice("LGTM", "score", self.score, tuple(SCORES))
        check_choice("LGTM", "merge", self.merge, MERGES)
        check_whole("LGTM", "windows", self.windows, 1)
        if isinstance(self.protect, Mapping):
            if "share" not in self.protect or self.protect.keys() - {"share", "tokens"}:
                raise ValueError(
                    f"LGTM: protect takes share and tokens, got {dict(self.protect)!r}"
                )
            object.__setattr__(self, "protect", Protect(**self.protect))
        whole = self.windows == 1 and self.cells == "paper" and self.destinations != "cycle"
        if self.protect is not None and not whole:
            raise ValueError(
                "LGTM: protect works with windows=1, cells=paper and destinations of the lowest or "
                "highest score alone, because destinations must not be protected; change these, or "
                "remove protect"
            )

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"queries"})

    def scheduled(self, timesteps: int) -> "LGTM":
        if not isinstance(self.protect, Protect):
            return self
        return replace(self, protect=replace(self.protect, timesteps=timesteps))

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        grid.check(x)
        merged = int(self.ratio * grid.tokens)
        barred = None
        if self.cells == "paper" and self.protect is None:
            parted = places.split_by_score(
                self.score, x, grid, self.stride, self.destinations, block
            )
        else:
            scores = score(self.score, x, grid)
            if isinstance(self.protect, Protect):
                self._check_room(self.protect, merged, grid)
                barred = self.protect.mask(scores, t)
                worst = torch.inf if self.destinations == "lowest" else -torch.inf
                scores = scores.masked_fill(barred, worst)  # a cell's destination, if it can
            chosen = places.by_score(self._by_cell(scores, grid), self.destinations, block)
            parted = split_cells(chosen, grid, self.stride)
        queries = merge_into(
            x,
            parted,
            grid,
            self.stride,
            merged,
            merge=self.merge,
            proportional=self.proportional,
            windows=self.windows,
            barred=barred,
        )
        return Plan(queries=queries)

    def _by_cell(self, scores: Tensor, grid: TokenGrid) -> Tensor:
        """Scores [B, N] as `cells` says, [B, cells, stride**2]."""
        if self.cells == "paper":
            return scores[:, cell_tokens(grid, self.stride, scores.device)]
        if grid.height % self.stride or grid.width % self.stride:
            raise ValueError(
                f"LGTM: cells='official' needs sides divisible by stride {self.stride}, "
                f"got {grid.height}x{grid.width}; use cells='paper'"
            )
        return scores.unflatten(1, (-1, self.stride**2))

    def _check_room(self, protect: Protect, merged: int, grid: TokenGrid) -> None:
        """Refuse to protect so many tokens that not enough sources are left."""
        cells = (grid.height // self.stride) * (grid.width // self.stride)
        room = grid.tokens - cells - protect.count(grid.tokens)
        if merged > room:
            raise ValueError(
                f"LGTM: {merged} of {grid.tokens} tokens are to be merged away, and with "
                f"{protect.count(grid.tokens)} protected and {cells} destinations only "
                f"{max(room, 0)} are left; lower ratio or protect.share"
            )

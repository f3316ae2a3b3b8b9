"""SiTo, similarity-based token pruning (Zhang et al., AAAI 2025)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bigain.compressors.base import Compressor, Plan, check_ratio, keyed, plain_numbers, strength
from bigain.compressors.constant import positions
from bigain.compressors.matching import cell_tokens, lengths, nearest_destination, split_cells
from bigain.compressors.tokens import TokenGrid, TokenMap, marked, precise
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_number


@dataclass(frozen=True)
class SiTo(Compressor):
    """Drop the int(ratio*N) tokens most similar to a destination.

    The output of a dropped token is copied from the kept token, source or destination, to which it
    is most similar. The destination of a cell is its token with the highest
    ``sim_beta * (summed cosine similarity to all tokens) + noise_alpha * N(0, 1)``.

    Args:
        ratio: share of the tokens to drop, at most 1 - 1/stride**2.
        stride: side of a cell in tokens; each cell has one destination.
        sim_beta: weight of the similarity.
        noise_alpha: weight of the noise; 0 makes the method deterministic.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.SiTo(0.5)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    ratio: float = strength(0.5)
    stride: int = 2
    sim_beta: float = 1.0
    noise_alpha: float = 0.1

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_ratio("SiTo", self.ratio, self.stride)
        check_number("SiTo", "sim_beta", self.sim_beta)
        check_number("SiTo", "noise_alpha", self.noise_alpha)

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
        dropped = int(self.ratio * grid.tokens)
        if not dropped:
            return Plan(queries=TokenMap.identity(x))
        z = precise(x) / lengths(x).unsqueeze(-1)
        # the sum of the similarities to all tokens equals the product with their sum
        score = self.sim_beta * (z @ z.sum(1).unsqueeze(-1)).squeeze(-1)
        if self.noise_alpha:
            score = score + self.noise_alpha * keyed(rng, x).normal(grid.tokens).to(score.dtype)
        chosen = score[:, cell_tokens(grid, self.stride, x.device)].argmax(-1)
        candidates, sources = split_cells(chosen, grid, self.stride)
        best, _ = nearest_destination(x, sources, candidates)
        gone = sources.gather(1, best.topk(dropped, dim=1, sorted=False).indices)
        stays = torch.ones_like(score, dtype=torch.bool).scatter_(1, gone, False)
        kept = marked(stays, grid.tokens - dropped)
        destinations = positions(grid.tokens, x.device).repeat(len(x), 1)
        destinations.scatter_(1, gone, nearest_destination(x, gone, kept)[1])
        size = grid.tokens - dropped
        return Plan(queries=TokenMap.from_destinations(destinations, size, merge="keep"))

"""How many tokens attention has with a compressor, found out on the meta device."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bigain.compressors import Compressor, Plan, TokenGrid


class TokenCounts(NamedTuple):
    """The number of tokens on a grid, and of queries and of keys in self-attention."""

    tokens: int
    queries: int
    keys: int

    def __str__(self) -> str:
        if self.keys == self.queries:
            return f"{self.tokens} tokens -> {self.queries}"
        return f"{self.tokens} tokens -> {self.queries} queries, {self.keys} keys and values"


def token_counts(compressor: Compressor, grid: TokenGrid, block: nn.Module) -> TokenCounts | None:
    """The tokens of one block; None if they depend on the data, or the compressor fails.

    A forward, whose grid may be another one, will say why the compressor fails.
    """
    try:
        channels = next(p.shape[-1] for p in block.parameters() if p.ndim > 1)
        x = torch.empty(1, grid.tokens, channels, device="meta")
        plan = _plan(compressor, x, grid)
        queries = plan.queries.apply(x) if plan.queries else x
        keys = plan.keys_values(x) if plan.keys_values else queries
    except Exception:  # compressors are the user's, too
        return None
    return TokenCounts(grid.tokens, queries.shape[1], keys.shape[1])


def does_nothing(compressor: Compressor, grid: TokenGrid, counts: TokenCounts) -> bool:
    """Whether the compressor leaves the tokens as they are, as LGTM(0.0) and ToDo(1) do.

    Args:
        counts: what `token_counts` says of this grid.
    """
    if counts.queries < counts.tokens or counts.keys < counts.tokens:
        return False
    x = torch.arange(8.0 * grid.tokens).sin().view(1, -1, 8)
    plan = _plan(compressor, x, grid)
    same = plan.queries is None or torch.equal(plan.queries.undo(plan.queries.apply(x)), x)
    return same and (plan.keys_values is None or torch.equal(plan.keys_values(x), x))


def _plan(compressor: Compressor, x: Tensor, grid: TokenGrid) -> Plan:
    """The compressor's plan for one sample [1, N, C]."""
    with torch.no_grad():
        return compressor.plan(x, grid, torch.full((1,), 500, device=x.device))

"""What a compressor does to each block's tokens, seen while a model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bigain.compression import Attachment, Block
from bigain.compression.signature import Signature
from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.compressors.tokens import TokenMap, take
from bigain.metrics.spectrum import band_product
from bigain.tasks.trace_rows import ALONE, GONE, KEPT


@dataclass(frozen=True)
class Look:
    """What a compressor did to one block's tokens.

    `bigain.tasks.trace_rows` says what the values mean.

    Attributes:
        grid: on which the N tokens lie.
        slots, roles: int64 [B, N].
        pruned: whether slots hold tokens as they are.
        before: float64 [B, bands + 2].
        after, product: float64 [B, F, bands + 2].
    """

    grid: TokenGrid
    slots: Tensor
    roles: Tensor
    pruned: bool
    before: Tensor
    after: Tensor
    product: Tensor


@contextmanager
def watching(attachment: Attachment, bands: int, height: int, width: int) -> Iterator[list[Look]]:
    """A list that each forward inside the ``with`` block fills, one look per compressed block.

    Args:
        height, width: of the latent, in its pixels.
    """
    seen: list[Look] = []
    plans: dict[TokenGrid, Plan] = {}
    planner = attachment.planner

    def remembered(compressor: Compressor, x: Tensor, grid: TokenGrid, *rest: Any) -> Plan:
        plans[grid] = planner(compressor, x, grid, *rest)
        return plans[grid]

    def look(
        block: Block, signature: Signature, _: Any, args: tuple, kwargs: dict, __: Any
    ) -> None:
        x = signature.read("hidden_states", args, kwargs)
        grid = attachment.architecture.grid(block.place, height, width)
        # made in this block, or in an earlier one and reused
        seen.append(_observed(attachment.compressor, plans[grid], x, grid, bands))

    attachment.planner = remembered
    # after the block, whose attention's input may decide
    hooks = [
        block.module.register_forward_hook(
            partial(look, block, Signature(block.module)), with_kwargs=True
        )
        for block in attachment.blocks
    ]
    try:
        yield seen
    finally:
        attachment.planner = planner
        for hook in hooks:
            hook.remove()


def fields_of(compressor: Compressor) -> list[str]:
    """The fields of its plans that the compressor fills, in the order F of `Look`."""
    return sorted(compressor.shortens)


def _observed(compressor: Compressor, plan: Plan, x: Tensor, grid: TokenGrid, bands: int) -> Look:
    """What the plan does to a block's tokens x [B, N, C].

    Where both fields are shortened, slots and roles are of the queries.

    What is left of x is the map's undo of its apply; of keys and values, each token's coarse one
    (nearest-exact). It is measured on the block's input, before the norm, whatever decides, and
    without the rounding of half precision.
    """
    x = x.double()
    left: dict[str, Tensor] = {}
    if plan.keys_values and not isinstance(plan.keys_values, TokenMap):
        slots, roles, pruned = _coarse(plan.keys_values, x, grid)
        left["keys_values"] = take(plan.keys_values(x), slots)
    for field in ("keys_values", "queries"):  # slots and roles of the latter replace the former's
        found = getattr(plan, field)
        if not isinstance(found, TokenMap):
            continue
        left[field] = found.undo(found.apply(x))
        leads = None
        if found.kept is not None:
            leads = _marked(found.kept, found.counts > 0, grid.tokens)
        elif found.destinations is not None:
            leads = found.destinations == torch.arange(grid.tokens, device=x.device)
        slots, pruned = found.slots, found.kept is not None
        roles = _roles(found, leads)
    fields = [left[field] for field in fields_of(compressor)]
    return Look(
        grid,
        slots.cpu(),
        roles.cpu(),
        pruned,
        band_product(x, x, grid, bands).cpu(),
        torch.stack([band_product(y, y, grid, bands) for y in fields], 1).cpu(),
        torch.stack([band_product(x, y, grid, bands) for y in fields], 1).cpu(),
    )


def _coarse(keys_values: Any, x: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor, bool]:
    """Slots and roles of downsampling, and whether it takes tokens as they are."""
    index = torch.arange(grid.tokens, device=x.device)
    # two numbers that tell a token from any mix of others
    probe = torch.stack([index, (index + 1.0).sqrt()], -1).double().expand(len(x), -1, -1)
    found = keys_values(probe)
    size = found.shape[1]
    height, width = coarse_sides(grid, size)
    rows = (2 * torch.arange(grid.height, device=x.device) + 1) * height // (2 * grid.height)
    columns = (2 * torch.arange(grid.width, device=x.device) + 1) * width // (2 * grid.width)
    slots = (rows.unsqueeze(1) * width + columns).flatten().expand(len(x), -1)
    kept = found[..., 0].round().long().clamp(0, grid.tokens - 1)
    pruned = bool((take(probe, kept) == found).all())
    leads = _marked(kept, torch.ones_like(kept, dtype=torch.bool), grid.tokens) if pruned else None
    return slots, _roles(TokenMap(slots, size), leads), pruned


def coarse_sides(grid: TokenGrid, size: int) -> tuple[int, int]:
    """Sides of the grid of ``size`` tokens that a whole factor makes of ``grid``.

    Raises:
        ValueError: if no factor does.
    """
    for factor in range(1, min(grid.height, grid.width) + 1):
        if (grid.height // factor) * (grid.width // factor) == size:
            return grid.height // factor, grid.width // factor
    raise ValueError(
        f"{size} keys and values are no {grid.height}x{grid.width} token grid downsampled by a "
        "whole factor; task=trace knows no other kind"
    )


def _marked(tokens: Tensor, where: Tensor, count: int) -> Tensor:
    """Which of ``count`` tokens are named, bool [B, count].

    Args:
        tokens: the names, int64 [B, M].
        where: those of them that count, bool [B, M].
    """
    target = torch.where(where, tokens, count)
    marks = torch.zeros(len(tokens), count + 1, dtype=torch.bool, device=tokens.device)
    return marks.scatter_(1, target, True)[:, :count]


def _roles(found: TokenMap, leads: Tensor | None) -> Tensor:
    """Roles int64 [B, N]; without a token of their own (``leads``), slots have members alone."""
    roles = torch.where(found.counts.gather(1, found.slots) > 1, GONE, ALONE)
    return roles if leads is None else roles.masked_fill(leads & (roles == GONE), KEPT)

"""Token grids, and the map that every method for shortening the sequence uses."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from bigain.compressors import kernels
from bigain.compressors.constant import offsets, positions


@dataclass(frozen=True)
class TokenGrid:
    """Tokens laid out row by row on a grid of ``height`` x ``width``."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a token grid needs positive sides, got {self.height}x{self.width}")

    @property
    def tokens(self) -> int:
        return self.height * self.width

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is [B, height*width, C]."""
        if x.ndim != 3 or x.shape[1] != self.tokens:
            raise ValueError(
                f"expected [batch, {self.tokens}, channels] for a {self.height}x{self.width} "
                f"grid, got {list(x.shape)}"
            )


# What a slot that several tokens share holds: their mean; their mean, made as long as the longest
# of those that were merged into its destination (MLERP, Kim et al. 2023, arXiv 2312.01026); or the
# destination alone.
MERGES = ("mean", "mlerp", "keep")


class DataDependentSizeError(RuntimeError):
    """The size of a map depends on data, and there is none on the meta device."""


class TokenMap:
    """An assignment of N tokens to M slots.

    A slot holds either the mean of its tokens (merging; `MERGES` says what else it may be) or the
    token that it keeps (pruning, when ``kept`` is given). ``undo`` copies every slot back to its
    tokens.

    Attributes:
        slots: int64 [B, N], the slot of each token.
        size: M, the number of slots.
        kept: int64 [B, M], the token that each slot keeps, or None for the mean.
        destinations: int64 [B, N], the destination of each token, or None if the map was not built
            by `from_destinations`.
        middles: int64 [B, M], the token in the middle of each slot's, or None if it is not known.
        ragged: whether samples may fill different numbers of slots. Attention must then mask the
            empty slots, which come last.
        mlerp: whether means are made longer, as `MERGES` says; it takes ``destinations``.
        proportional: whether self-attention adds the logarithm of a slot's number of tokens to its
            logits, so that a slot counts as often as its tokens would (proportional attention,
            Bolya et al. 2023, arXiv 2210.09461).
    """

    def __init__(
        self, slots: Tensor, size: int, kept: Tensor | None = None, ragged: bool = False
    ) -> None:
        self.slots = slots
        self.size = size
        self.kept = kept
        self.ragged = ragged
        self.mlerp = False
        self.proportional = False
        self.destinations: Tensor | None = None
        self.middles: Tensor | None = None
        self._counts: Tensor | None = None
        self._order: Tensor | None = None
        self._members: tuple[Tensor, Tensor] | None = None
        self._rows: Tensor | None = None  # of the flattened slots, one for each token

    @classmethod
    def from_destinations(
        cls,
        destinations: Tensor,
        size: int | None = None,
        merge: str = "mean",
        proportional: bool = False,
    ) -> "TokenMap":
        """Build a map from the destination of each token.

        Args:
            destinations: int64 [B, N]. A token that is its own destination opens a slot, and every
                other token's destination must be one of these. Slots are numbered in token order.
            size: the number of slots, if every sample has the same number. None counts them, for
                which a GPU has to be waited for.
            merge: one of `MERGES`.
            proportional: as the attribute.
        """
        tokens = positions(destinations.shape[1], destinations.device)
        opens = destinations == tokens
        rank = opens.cumsum(1) - 1
        ragged = size is None
        if size is None:
            if destinations.is_meta:
                raise DataDependentSizeError("the number of slots depends on the data")
            size = int(rank[:, -1].max()) + 1
        kept = marked(opens, size) if merge == "keep" else None
        found = cls(rank.gather(1, destinations), size, kept, ragged)
        found.destinations = destinations
        found.mlerp = merge == "mlerp"
        found.proportional = proportional
        return found

    @classmethod
    def assigned(
        cls, made: "kernels.Assignment", merge: str = "mean", proportional: bool = False
    ) -> "TokenMap":
        """The map of `from_destinations`, from what a kernel has computed for it."""
        size = made.counts.shape[1]
        tokens = positions(made.slots.shape[1], made.slots.device)
        kept = marked(made.destinations == tokens, size) if merge == "keep" else None
        found = cls(made.slots, size, kept)
        found.destinations, found.mlerp = made.destinations, merge == "mlerp"
        found.proportional = proportional
        found._counts, found._rows = made.counts, made.rows
        found._members = made.members, made.starts
        return found

    @classmethod
    def identity(cls, x: Tensor) -> "TokenMap":
        """The map that leaves ``x`` [B, N, C] as it is."""
        tokens = positions(x.shape[1], x.device).expand(x.shape[:2])
        return cls(tokens, x.shape[1], kept=tokens)

    def at(self, samples: Tensor) -> "TokenMap":
        """The map for these samples, int64 [S], in this order; samples may repeat."""
        kept = None if self.kept is None else self.kept[samples]
        found = TokenMap(self.slots[samples], self.size, kept, self.ragged)
        found.destinations = None if self.destinations is None else self.destinations[samples]
        found.middles = None if self.middles is None else self.middles[samples]
        found.mlerp = self.mlerp
        found.proportional = self.proportional
        if kept is None:  # sorted once, however many samples share the map
            found._order, found._counts = self._in_order()[samples], self.counts[samples]
        return found

    @property
    def counts(self) -> Tensor:
        """The number of tokens in each slot, int64 [B, M]."""
        if self._counts is None:
            counts = torch.zeros(
                len(self.slots), self.size, dtype=torch.int64, device=self.slots.device
            )
            self._counts = counts.scatter_add_(1, self.slots, torch.ones_like(self.slots))
        return self._counts

    @property
    def tokens(self) -> Tensor:
        """The token at whose position each slot lies, int64 [B, M].

        It is the token that the slot keeps, its destination or its middle.

        Raises:
            ValueError: if the map names none of them.
        """
        if self.kept is not None:
            return self.kept
        if self.middles is not None:
            return self.middles
        if self.destinations is None:
            raise ValueError(
                "this map says neither which token a slot keeps nor which is its destination, so "
                "the slot has no position; build it with TokenMap.from_destinations"
            )
        return self.slots.new_zeros(len(self.slots), self.size).scatter_(
            1, self.slots, self.destinations
        )

    def apply(self, y: Tensor) -> Tensor:
        """Shorten ``y`` [B, N, C] to [B, M, C]; empty slots are zero."""
        if self.kept is not None:
            return take(y, self.kept)
        return self._lengthened(y, self._means(y)) if self.mlerp else self._means(y)

    def __call__(self, y: Tensor) -> Tensor:
        """`apply`, so that a map can stand where a function of tokens is wanted."""
        return self.apply(y)

    def _means(self, y: Tensor) -> Tensor:
        members, starts = self._bags()
        if kernels.usable(y):
            return kernels.slot_means(y, members, starts, self.counts)
        if is_compiling():  # torch.compile takes no function with a forward-mode derivative
            return _slot_means(y, members, starts, self.counts)
        means: Tensor = _SlotMeans.apply(y, members, starts, self.counts, self.slots)
        return means

    def _lengthened(self, y: Tensor, means: Tensor) -> Tensor:
        """The means [B, M, C], each as long as the longest token that was merged into it."""
        assert self.destinations is not None  # of every map that merges by MLERP
        length = precise(y).norm(dim=-1)
        merged = self.destinations != positions(y.shape[1], y.device)
        longest = torch.zeros(means.shape[:2], dtype=length.dtype, device=y.device)
        longest.scatter_reduce_(1, self.slots, length * merged, "amax")
        own = precise(means).norm(dim=-1)
        # a slot of one token stays as it is
        factor = torch.where((longest > 0) & (own > 0), longest / own, 1)
        return means * factor.unsqueeze(-1).to(means.dtype)

    def _bags(self) -> tuple[Tensor, Tensor]:
        """Indices into the flattened tokens in the order of their slots, and each slot's start."""
        if self._members is None:
            first = offsets(len(self.slots), self.slots.shape[1], self.slots.device)
            counts = self.counts.flatten()
            starts = counts.cumsum(0) - counts
            self._members = (self._in_order() + first).flatten(), starts
        return self._members

    def _in_order(self) -> Tensor:
        """Each sample's tokens in the order of their slots, int64 [B, N]."""
        if self._order is None and self._members is not None:
            first = offsets(len(self.slots), self.slots.shape[1], self.slots.device)
            self._order = self._members[0].view_as(self.slots) - first
        elif self._order is None:
            self._order = self.slots.argsort(dim=1, stable=True)
        return self._order

    def undo(self, z: Tensor) -> Tensor:
        """Copy ``z`` [B, M, C] back to its tokens, [B, N, C]."""
        if self._rows is None:
            return take(z, self.slots)
        return z.flatten(0, 1).index_select(0, self._rows).view(*self.slots.shape, -1)


def _slot_means(y: Tensor, members: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """The mean of each slot's tokens, [B, N, C] to [B, M, C]; zero for an empty slot."""
    mean = F.embedding_bag(members, y.flatten(0, 1), starts, mode="mean")
    return mean.view(*counts.shape, y.shape[-1])


class _SlotMeans(torch.autograd.Function):
    """`_slot_means` with derivatives of every order, forwards and backwards.

    torch's embedding_bag has only the first one backwards.
    """

    @staticmethod
    def forward(
        y: Tensor, members: Tensor, starts: Tensor, counts: Tensor, slots: Tensor
    ) -> Tensor:
        return _slot_means(y, members, starts, counts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, _, counts, slots = ctx.saved_tensors
        (grad,) = grads
        return take(grad / counts.clamp(min=1).unsqueeze(-1), slots), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        means: Tensor = _SlotMeans.apply(tangents[0], *ctx.saved_tensors)
        return means


def take(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of ``x`` [B, N, C] at ``index`` int64 [B, K], as [B, K, C]."""
    # whole tokens at once: on a CPU this is tens of times faster than torch.gather
    first = offsets(len(x), x.shape[1], x.device)
    rows = x.flatten(0, 1).index_select(0, (index + first).flatten())
    return rows.view(*index.shape, x.shape[-1])


def marked(mask: Tensor, size: int) -> Tensor:
    """The positions where ``mask`` bool [B, N] is set, ascending, padded with 0: int64 [B, size].

    Args:
        size: at least the number of positions set in any sample.
    """
    rank = mask.cumsum(1) - 1
    tokens = positions(mask.shape[1], mask.device).expand_as(rank)
    found = tokens.new_zeros(len(mask), size + 1)  # unset positions write to the extra column
    return found.scatter_(1, torch.where(mask, rank, size), tokens)[:, :size]


def precise(x: Tensor) -> Tensor:
    """``x`` in at least float32; in half precision many scores and similarities would tie."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

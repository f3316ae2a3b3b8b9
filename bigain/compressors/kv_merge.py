"""Key/value merging: ToMe's matching on keys and values alone. Not in the paper."""

from dataclasses import dataclass

from torch import Tensor

from bigain.compressors import places
from bigain.compressors.base import Compressor, Plan, check_ratio, plain_numbers, strength
from bigain.compressors.matching import cell_tokens, merge_into, split_cells
from bigain.compressors.spectrum import SCORES, score_name
from bigain.compressors.tokens import MERGES, TokenGrid
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice

DESTINATIONS = ("random", "first", "cycle", "lowest", "highest")


@dataclass(frozen=True)
class KVMerge(Compressor):
    """Merge the tokens from which keys and values are made, and leave queries alone.

    The tokens are matched and merged as in :class:`bigain.ToMe`, so that keys and values keep more
    where the image is rough, while every token keeps its own query and output.

    Args:
        ratio: share of the tokens to merge away, at most 1 - 1/stride**2.
        stride: side of a cell in tokens; each cell has one destination.
        destinations: "random", "first" or "cycle", as in :class:`bigain.ToMe`, or the token with
            the "lowest" or "highest" score, as in :class:`bigain.LGTM`.
        score: a name of :data:`bigain.compressors.spectrum.SCORES`; the first three destinations do
            not read it.
        merge: "mean", "mlerp" or "keep", as in :class:`bigain.ToMe`.
        proportional: let a key count in self-attention as often as there are tokens in its slot, by
            adding the logarithm of that number to the logits.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.KVMerge(0.5)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    ratio: float = strength(0.5)
    stride: int = 2
    destinations: str = "cycle"
    score: str = score_name()
    merge: str = "mean"
    proportional: bool = False

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_ratio("KVMerge", self.ratio, self.stride)
        check_choice("KVMerge", "destinations", self.destinations, DESTINATIONS)
        check_choice("KVMerge", "score", self.score, tuple(SCORES))
        check_choice("KVMerge", "merge", self.merge, MERGES)

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"keys_values"})

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        grid.check(x)
        if self.destinations in ("lowest", "highest"):
            parted = places.split_by_score(
                self.score, x, grid, self.stride, self.destinations, block
            )
        else:
            cells = len(cell_tokens(grid, self.stride, x.device))
            chosen = places.without_scores(self.destinations, x, self.stride, cells, rng, block)
            parted = split_cells(chosen, grid, self.stride)
        merged = int(self.ratio * grid.tokens)
        found = merge_into(
            x,
            parted,
            grid,
            self.stride,
            merged,
            merge=self.merge,
            proportional=self.proportional,
        )
        return Plan(keys_values=found)

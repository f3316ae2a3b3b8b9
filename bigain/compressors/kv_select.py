"""Key/value selection, the control of the paper's Table 12 (arXiv 2603.12240)."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bigain.compressors.base import Compressor, Plan, plain_numbers, strength
from bigain.compressors.matching import cell_tokens
from bigain.compressors.spectrum import SCORES, score, score_name
from bigain.compressors.tokens import TokenGrid, take
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice, check_number, check_whole


@dataclass(frozen=True)
class KVSelect(Compressor):
    """Take keys and values from tokens that a score selects, and leave queries alone.

    Args:
        factor: side of a cell in tokens, each of which keeps one token. It is not read if ``ratio``
            is given.
        ratio: if given, the int(ratio*N) tokens that are dropped are chosen over the whole grid,
            whatever cell they lie in.
        keep: the tokens with the "highest" or with the "lowest" score. A high Laplacian score means
            a rough neighbourhood.
        score: a name of :data:`bigain.compressors.spectrum.SCORES`.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.KVSelect(2, keep="highest")):
        ...     image = pipe("a photo of a cat").images[0]
    """

    factor: int = strength(2)
    ratio: float | None = None
    keep: str = "lowest"
    score: str = score_name()

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_whole("KVSelect", "factor", self.factor, 1)
        if self.ratio is not None:
            check_number("KVSelect", "ratio", self.ratio)
            if not 0 <= self.ratio < 1:
                raise ValueError(f"KVSelect: ratio must lie in [0, 1), got {self.ratio!r}")
        check_choice("KVSelect", "keep", self.keep, ("highest", "lowest"))
        check_choice("KVSelect", "score", self.score, tuple(SCORES))

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
        scores = score(self.score, x, grid)
        if self.keep == "lowest":
            scores = -scores
        if self.ratio is None:
            cells = cell_tokens(grid, self.factor, x.device)
            best = scores[:, cells].argmax(-1, keepdim=True)
            kept = cells.expand(len(x), -1, -1).gather(2, best).squeeze(-1)
        else:
            count = grid.tokens - int(self.ratio * grid.tokens)
            kept = scores.topk(count, dim=1).indices.sort(dim=1).values
        return Plan(keys_values=partial(take, index=kept), key_tokens=kept)

"""Compressors built from other compressors."""

from dataclasses import dataclass

from torch import Tensor

from bigain.compressors.base import Compressor, Plan, Wrapper
from bigain.compressors.tokens import TokenGrid
from bigain.utils.randomness import KeyedStream


@dataclass(frozen=True, init=False)
class Compose(Compressor):
    """Shorten queries with one compressor and keys and values with another (paper, Table 17).

    Queries are merged, while keys and values are downsampled from the full grid.

    Raises:
        ValueError: if two of the compressors fill the same field of the plan.

    Example:
        >>> import bigain
        >>> both = bigain.Compose(bigain.LGTM(0.5), bigain.IEKVD(2))
        >>> with bigain.compress(pipe, both):
        ...     image = pipe("a photo of a cat").images[0]
    """

    parts: tuple[Compressor, ...]

    def __init__(self, *parts: Compressor) -> None:
        if len(parts) < 2:
            raise ValueError(f"Compose needs at least two compressors, got {len(parts)}")
        fields = [field for part in parts for field in part.shortens]
        if len(set(fields)) < len(fields):
            raise ValueError(
                "Compose combines one compressor of queries (ToMe, SiTo, LGTM, ABM) with one of "
                f"keys and values (ToDo, IEKVD); got {', '.join(map(repr, parts))}"
            )
        object.__setattr__(self, "parts", parts)

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset(field for part in self.parts for field in part.shortens)

    @property
    def reuse(self) -> bool:
        return any(part.reuse for part in self.parts)

    @property
    def paired(self) -> bool:
        return all(part.paired for part in self.parts)

    @property
    def content_dependent(self) -> bool:
        return any(part.content_dependent for part in self.parts)

    def suited(self, purpose: str, family: str) -> "Compose":
        return Compose(*(part.suited(purpose, family) for part in self.parts))

    def scheduled(self, timesteps: int) -> "Compose":
        return Compose(*(part.scheduled(timesteps) for part in self.parts))

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        plans = [part.plan(x, grid, t, rng, block) for part in self.parts]
        merged = [p for p in plans if p.queries is not None]
        downsampled = [p for p in plans if p.keys_values is not None]
        if downsampled and any(p.queries and p.queries.proportional for p in plans):
            raise ValueError(
                "Compose: proportional=True weighs keys by the tokens that were merged into them, "
                "and here keys come from the downsampled grid; remove it"
            )
        return Plan(
            queries=merged[0].queries if merged else None,
            keys_values=downsampled[0].keys_values if downsampled else None,
            key_tokens=downsampled[0].key_tokens if downsampled else None,
        )


@dataclass(frozen=True)
class Cached(Wrapper):
    """Reuse the first block's map for the later blocks with the same grid, within one forward.

    A map is never reused across timesteps, because the classifier scores each (class, t, noise)
    separately.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.Cached(bigain.LGTM(0.5))):
        ...     image = pipe("a photo of a cat").images[0]
    """

    def __post_init__(self) -> None:
        if self.compressor.shortens != {"queries"}:
            raise ValueError(
                f"Cached takes a merging or pruning compressor, got {self.compressor!r}"
            )

    @property
    def reuse(self) -> bool:
        return True

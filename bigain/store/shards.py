"""How the images of a run are dealt out to several processes."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Shard:
    """One of ``count`` shares of a run's images; by default all of them.

    Raises:
        ValueError: if ``index`` is not one of 0..count - 1.
    """

    count: int = 1
    index: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"a shard is one of 0..{self.count - 1}, got {self.index}")

    @property
    def whole(self) -> bool:
        return self.count == 1

    def of(self, ids: Sequence[str], start: int = 0) -> list[str]:
        """Its images: every ``count``-th, so that all shards look alike.

        Args:
            start: the place of the first of ``ids`` among all images. Images are dealt out by their
                places among all, so that shards of one count never overlap, whatever part of the
                images each was asked for.
        """
        return list(ids[(self.index - start) % self.count :: self.count])

    def __str__(self) -> str:
        return "the whole run" if self.whole else f"shard {self.index} of {self.count}"


WHOLE = Shard()

"""What transformers without downsampling have in common: blocks that all see the same tokens."""

from collections.abc import Collection, Iterator

from torch import nn

from bigain.compression.architectures.base import Architecture, Block

# The ten of DiT-XL/2's 28 blocks that the paper's scripts compress.
XL2_DEPTH = 28
XL2_BLOCKS = frozenset({1, 2, 3, 4, 5, 7, 8, 9, 10, 11})


class Transformer(Architecture):
    """Places are block indices. A subclass says what goes into the model.

    Compressors decide by default on what attention is given, after modulation, as the published
    code does on the DiT: these are the tokens whose similarity matters to it. No published method
    chooses among blocks of joint attention, so their default is the paper's for the DiT, at the
    same relative depth.
    """

    component = "transformer"
    places = "block indices"
    decide_on = "attention_input"

    def blocks(self) -> list[Block]:
        return [Block(i, block) for i, block in enumerate(self.model.transformer_blocks)]

    def default_places(self) -> set[int]:
        """The ten of DiT-XL/2's 28 blocks that the paper compresses, at the same relative depth."""
        depth = len(self.blocks())
        return {i for i in range(depth) if round(i * XL2_DEPTH / depth) in XL2_BLOCKS}

    def tokens_along(self, place: int, side: int) -> int:
        """Whole patches only; the model ignores the pixels beyond, or refuses them itself."""
        return int(side // self.model.config.patch_size)

    def areas(self) -> Iterator[tuple[int, nn.Module]]:
        yield from ((block.place, block.module) for block in self.blocks())

    def groups(self, compressed: Collection[int]) -> list[tuple[str, set[int]]]:
        """The compressed blocks and the others; all have the same number of tokens."""
        every, chosen = {block.place for block in self.blocks()}, set(compressed)
        others = every - chosen
        size = f"({self.tokens(0)} tokens)"
        rest = f"{len(others)} other blocks {size}" if chosen else f"{len(others)} blocks {size}"
        return [(f"{len(chosen)} compressed blocks {size}", chosen), (rest, others)]

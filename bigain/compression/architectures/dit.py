"""diffusers' DiTTransformer2DModel (Peebles and Xie 2023, arXiv 2212.09748)."""

from collections.abc import Collection, Iterator

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from bigain.compression.architectures.base import Architecture, Block

# The ten of DiT-XL/2's 28 blocks that the paper's scripts compress.
XL2_DEPTH = 28
XL2_BLOCKS = frozenset({1, 2, 3, 4, 5, 7, 8, 9, 10, 11})


class DiT(Architecture):
    """Places are block indices, and every block sees the class."""

    denoiser = DiTTransformer2DModel
    component = "transformer"
    arguments = ("hidden_states", "timestep", "class_labels")
    places = "block indices"

    def blocks(self) -> list[Block]:
        return [Block(i, block) for i, block in enumerate(self.model.transformer_blocks)]

    def default_places(self) -> set[int]:
        """The ten of 28 blocks that the paper compresses, scaled to the model's depth."""
        depth = len(self.model.transformer_blocks)
        return {i for i in range(depth) if round(i * XL2_DEPTH / depth) in XL2_BLOCKS}

    def tokens_along(self, place: int, side: int) -> int:
        """Whole patches only; the model ignores the pixels beyond."""
        return int(side // self.model.config.patch_size)

    def first_block(self) -> Block:
        """Block 0, whose input is the patches; its norm is the first to see the class."""
        return self.blocks()[0]

    def random_condition(self, count: int) -> Tensor:
        classes = torch.arange(count, device=self.model.device)
        return classes % self.model.config.num_embeds_ada_norm

    def null_condition(self) -> Tensor:
        # the index after the last class, which training uses for images whose class is dropped
        return torch.tensor([self.model.config.num_embeds_ada_norm], device=self.model.device)

    def areas(self) -> Iterator[tuple[int, nn.Module]]:
        yield from ((block.place, block.module) for block in self.blocks())

    def groups(self, compressed: Collection[int]) -> list[tuple[str, set[int]]]:
        """The compressed blocks and the others; all have the same number of tokens."""
        every, chosen = {block.place for block in self.blocks()}, set(compressed)
        others = every - chosen
        size = f"({self.tokens(0)} tokens)"
        rest = f"{len(others)} other blocks {size}" if chosen else f"{len(others)} blocks {size}"
        return [(f"{len(chosen)} compressed blocks {size}", chosen), (rest, others)]

    def size_remark(self) -> str:
        # published sizes count the embedding of timestep and class once
        others = self.model.transformer_blocks[1:]
        copies = sum(p.numel() for block in others for p in block.norm1.emb.parameters())
        return f"{copies:,} of them in diffusers' copies of one embedding in every block"

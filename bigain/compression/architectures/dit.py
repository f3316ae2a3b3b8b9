"""diffusers' DiTTransformer2DModel (Peebles and Xie 2023, arXiv 2212.09748)."""

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from bigain.compression.architectures.base import Block
from bigain.compression.architectures.transformer import Transformer


class DiT(Transformer):
    """Every block sees the class."""

    denoiser = DiTTransformer2DModel
    arguments = ("hidden_states", "timestep", "class_labels")

    def first_block(self) -> Block:
        """Block 0, whose input is the patches; its norm is the first to see the class."""
        return self.blocks()[0]

    def random_condition(self, count: int) -> Tensor:
        classes = torch.arange(count, device=self.model.device)
        return classes % self.model.config.num_embeds_ada_norm

    def null_condition(self) -> Tensor:
        # the index after the last class, which training uses for images whose class is dropped
        return torch.tensor([self.model.config.num_embeds_ada_norm], device=self.model.device)

    def size_remark(self) -> str:
        # published sizes count the embedding of timestep and class once
        others = self.model.transformer_blocks[1:]
        copies = sum(p.numel() for block in others for p in block.norm1.emb.parameters())
        return f"{copies:,} of them in diffusers' copies of one embedding in every block"

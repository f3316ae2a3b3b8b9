"""diffusers' PixArtTransformer2DModel: PixArt-alpha and -Sigma (arXiv 2310.00426, 2403.04692)."""

from typing import Any

from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from bigain.compression.architectures.base import Block
from bigain.compression.architectures.transformer import Transformer

TEXT = 300  # length of a text in tokens, as PixArt-Sigma's pipeline pads it; alpha's has 120


class PixArt(Transformer):
    """A DiT-XL/2 to which every block adds cross-attention to a text.

    The default blocks are DiT-XL/2's own, whose width and depth PixArt has.
    """

    denoiser = PixArtTransformer2DModel
    arguments = ("hidden_states", "timestep", "encoder_hidden_states")

    def first_block(self) -> Block:
        """Block 0, whose self-attention comes before the first cross-attention."""
        return self.blocks()[0]

    def before_condition(self) -> list[nn.Module]:
        """Patches and the first self-attention: modulation knows the timestep, but no text."""
        first = self.model.transformer_blocks[0]
        return [self.model.pos_embed, first.norm1, first.attn1]

    def random_condition(self, count: int) -> Tensor:
        config = self.model.config
        return self._random(count, TEXT, config.caption_channels or config.cross_attention_dim)

    def random_extras(self, count: int) -> dict[str, Any]:
        """The image's size and aspect ratio, if the model takes them."""
        if not self.model.use_additional_conditions:
            return {}
        added = {"resolution": self._random(count, 2), "aspect_ratio": self._random(count, 1)}
        return {"added_cond_kwargs": added}

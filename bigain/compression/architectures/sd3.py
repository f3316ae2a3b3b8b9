"""diffusers' SD3Transformer2DModel: Stable Diffusion 3 and 3.5 (Esser et al. 2024, 2403.03206)."""

from collections.abc import Collection
from typing import Any

from diffusers import SD3Transformer2DModel
from torch import Tensor

from bigain.compression.architectures.base import Block, Part
from bigain.compression.architectures.transformer import Transformer

TEXT = 77 + 256  # length of a text in tokens: CLIP's, and then T5's


class JointBlock(Block):
    """diffusers' JointTransformerBlock: the tokens of image and text attend to each other.

    Only the image's are shortened. Those of the text join them inside attention, which takes no
    mask. The blocks of SD3.5-medium with a second attention among the image's tokens alone
    shorten both by the same plan.
    """

    def parts(self, site: str) -> tuple[Part, ...]:
        block = self.module
        if site == "mlp":
            return (Part(block.ff, block.ff.net[1]),)
        if site == "cross_attention":
            return ()
        both = (block.attn, block.attn2)
        return tuple(
            Part(one, one.to_out[1], joint=True, mask_axes=None) for one in both if one is not None
        )


class SD3(Transformer):
    """A transformer of joint attention, whose text enters through the timestep as well.

    In SD3.5-large, with its 38 blocks, blocks 1 to 7 and 9 to 15 are compressed by default.
    """

    denoiser = SD3Transformer2DModel
    arguments = ("hidden_states", "timestep", "encoder_hidden_states")

    def blocks(self) -> list[Block]:
        return [JointBlock(i, block) for i, block in enumerate(self.model.transformer_blocks)]

    def skipped(self, args: tuple, kwargs: dict[str, Any]) -> Collection[int]:
        """The blocks that skip-layer guidance leaves out."""
        return self._signature.read("skip_layers", args, kwargs) or ()

    def random_condition(self, count: int) -> Tensor:
        return self._random(count, TEXT, self.model.config.joint_attention_dim)

    def random_extras(self, count: int) -> dict[str, Any]:
        """The pooled text."""
        return {"pooled_projections": self._random(count, self.model.config.pooled_projection_dim)}

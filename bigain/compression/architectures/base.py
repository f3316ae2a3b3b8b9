"""The interface to a family of denoisers: all that the rest of BiGain knows about it."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bigain.compression.signature import Signature
from bigain.compressors import TokenGrid

# The sites of diffusers' BasicTransformerBlock, and their attribute names.
_ATTRIBUTES = {"self_attention": "attn1", "cross_attention": "attn2", "mlp": "ff"}
# The sites of a transformer block whose image tokens a plan may shorten.
SITES = tuple(_ATTRIBUTES)
# Which tokens a compressor looks at: the block's input, before its norm, or the input of its
# self-attention, after norm and, in a transformer, modulation by timestep and condition.
DECIDE_ON = ("block_input", "attention_input")


@dataclass(frozen=True)
class Part:
    """A module of a site, which takes the image tokens as ``hidden_states`` [B, N, C].

    It returns as many tokens, or a tuple whose first tensor holds them.

    Attributes:
        module: the attention or the feed-forward network.
        inside: a module that runs whenever ``module`` computes its output, and that adapters such
            as LoRA do not replace.
        text_first: whether ``hidden_states`` and the output are the T tokens of a text and then the
            image's, [B, T + N, C].
        joint: whether the attention makes keys and values of its ``hidden_states`` alone, to which
            it adds those of the text, instead of making them of ``encoder_hidden_states``.
        mask_axes: how many axes the ``attention_mask`` over keys must have, which are the text's
            and then the image's: 3 for [B, 1, keys], 4 for [B, 1, 1, keys], or None if the
            attention takes no mask.
        rotary: the attributes of the norms after which the attention rotates queries and keys by
            their position (``image_rotary_emb``): of the queries, of the keys, and of both of the
            text if it has norms of its own. It is empty if positions are no concern of attention.
    """

    module: Any
    inside: nn.Module
    text_first: bool = False
    joint: bool = False
    mask_axes: int | None = 3
    rotary: tuple[str, ...] = ()

    def split(self, tokens: Tensor, count: int) -> tuple[Tensor | None, Tensor]:
        """The text's tokens, if they come first, and the last ``count``, which are the image's."""
        if not self.text_first:
            return None, tokens
        return tokens[:, :-count], tokens[:, -count:]

    def join(self, text: Tensor | None, image: Tensor) -> Tensor:
        """What `split` has split."""
        return image if text is None else torch.cat([text, image], dim=1)


@dataclass(frozen=True)
class Block:
    """A transformer block and where it is: diffusers' BasicTransformerBlock, or a subclass's own.

    Attributes:
        place: for a U-Net, the downsampling factor of the latent, which several blocks share; for a
            transformer, the index of the block (`Architecture.places`).
        module: the block, which takes the image tokens as ``hidden_states``.
    """

    place: int
    module: Any

    def parts(self, site: str) -> tuple[Part, ...]:
        """The modules at one of `SITES`; none if this block has no such site."""
        module = getattr(self.module, _ATTRIBUTES[site])
        if module is None:
            return ()
        return (Part(module, module.net[1] if site == "mlp" else module.to_out[1]),)

    def site(self, name: str) -> nn.Module | None:
        """The first module at one of `SITES`, or None if this block has no such site."""
        parts = self.parts(name)
        return parts[0].module if parts else None

    @property
    def text_only(self) -> bool:
        """Whether what should be self-attention attends to the text alone."""
        return bool(getattr(self.module, "only_cross_attention", False))


class Call(NamedTuple):
    """The arguments that a denoiser was called with.

    Attributes:
        latent: [B, c, h, w], or as the family packs it.
        timestep: a number or a tensor, either one for all samples or [B], from 0 to the length of
            the noise schedule.
        condition: the class or text to denoise towards, [B, ...].
    """

    latent: Tensor
    timestep: Tensor | float
    condition: Tensor


class Architecture(ABC):
    """One denoiser, seen through the adapter of its family.

    A new family needs a subclass in a file of its own, and a line in `ADAPTERS`.

    Attributes:
        denoiser: the diffusers class that the adapter serves.
        component: the attribute that holds the denoiser in a pipeline.
        arguments: the names of the forward's arguments for latent, timestep and condition.
        places: what the places of blocks are called in messages, in the plural.
        decide_on: which tokens compressors look at unless told otherwise; see `DECIDE_ON`.
        model: the denoiser.
    """

    denoiser: ClassVar[type[nn.Module]]
    component: ClassVar[str]
    arguments: ClassVar[tuple[str, str, str]]
    places: ClassVar[str]
    decide_on: ClassVar[str] = "block_input"

    def __init__(self, model: Any) -> None:
        self.model = model
        self._signature = Signature(model)

    # Where the tokens are

    @abstractmethod
    def blocks(self) -> list[Block]:
        """Every transformer block in forward order."""

    @abstractmethod
    def default_places(self) -> set[int]:
        """The places that are compressed if none are named."""

    @abstractmethod
    def tokens_along(self, place: int, side: int) -> int:
        """The number of tokens at ``place`` along an axis of ``side`` latent pixels.

        It rounds as the model itself does where ``side`` does not divide.
        """

    def grid(self, place: int, height: int, width: int) -> TokenGrid:
        """The token grid of a block at ``place`` for a latent of ``height`` x ``width`` pixels.

        Raises:
            ValueError: if not one token fits into the latent.
        """
        return TokenGrid(self.tokens_along(place, height), self.tokens_along(place, width))

    def tokens(self, place: int) -> int:
        """The number of tokens at ``place`` for a latent of the model's own size."""
        _, height, width = self.latent_shape
        return self.grid(place, height, width).tokens

    # Calls

    def read(self, args: tuple, kwargs: dict[str, Any]) -> Call:
        """The latent, timestep and condition of a call of the model's forward.

        Raises:
            TypeError: if the call lacks an argument that the forward requires.
        """
        latent, timestep, condition = self.arguments
        return Call(
            self._signature.read(latent, args, kwargs),
            self._signature.read(timestep, args, kwargs),
            self._signature.read(condition, args, kwargs),
        )

    def size(self, args: tuple, kwargs: dict[str, Any]) -> tuple[int, int]:
        """The height and width, in its pixels, of the latent of a call of the model's forward.

        Raises:
            TypeError: if the call lacks an argument that says it.
            ValueError: if the latent is no whole rectangle.
        """
        height, width = self.read(args, kwargs).latent.shape[-2:]
        return height, width

    def skipped(self, args: tuple, kwargs: dict[str, Any]) -> Collection[int]:
        """The places that a call of the model's forward asks to leave out."""
        return ()

    def inputs(self, latent: Tensor, timestep: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """The keyword arguments of a forward."""
        return dict(zip(self.arguments, (latent, timestep, condition), strict=True))

    # What does not depend on the condition; by default, nothing is shared

    def first_block(self) -> Block | None:
        """The transformer block whose input does not depend on the condition, or None."""
        return None

    def before_condition(self) -> list[nn.Module]:
        """Modules whose results do not depend on the condition, each called once per forward."""
        return []

    def condition_projections(self) -> list[nn.Linear]:
        """Layers whose input is the condition, all of it and nothing else."""
        return []

    # Example inputs, on the model's device and in its dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (c, h, w) of a latent of the model's own size.

        Raises:
            ValueError: if the config names no size.
        """
        size = self.model.config.sample_size
        if size is None:
            raise ValueError(
                "the denoiser's config has no sample_size, so its latents have no size of their "
                "own; write the size that it was trained for into its config.json"
            )
        height, width = (size, size) if isinstance(size, int) else size
        return (self.model.config.in_channels, height, width)

    @abstractmethod
    def random_condition(self, count: int) -> Tensor:
        """Random conditions for trying out the model, [count, ...]."""

    def null_condition(self) -> Tensor:
        """The condition that means no class or text, [1, ...].

        For a text it is random, because the embedding of an empty one depends on the text encoders.
        """
        return self.random_condition(1)

    def random_extras(self, count: int) -> dict[str, Any]:
        """Random keyword arguments that a forward needs beside latents, timesteps and conditions.

        Raises:
            ValueError: if the model takes one that cannot be made up.
        """
        return {}

    def random_inputs(self, batch_size: int = 1) -> dict[str, Any]:
        """Keyword arguments of a forward: latents of the model's own size, t = 500 and conditions.

        The random numbers come from torch's global generator.

        Raises:
            ValueError: if the model takes an argument that cannot be made up.
        """
        device, dtype = self.model.device, self.model.dtype
        latent = torch.randn(batch_size, *self.latent_shape, device=device, dtype=dtype)
        t = torch.full((batch_size,), 500, dtype=torch.int64, device=device)
        extras = self.random_extras(batch_size)
        return {**self.inputs(latent, t, self.random_condition(batch_size)), **extras}

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.model.device, dtype=self.model.dtype)

    # Profiles

    @abstractmethod
    def areas(self) -> Iterator[tuple[int, nn.Module]]:
        """Modules that lie entirely at one place, with their places; no module contains another."""

    @abstractmethod
    def groups(self, compressed: Collection[int]) -> list[tuple[str, set[int]]]:
        """The lines of a table by place, each with its words and its places.

        Args:
            compressed: the compressed places.
        """

    def size_remark(self) -> str:
        """A remark for comparing the number of parameters with the published one, or ''."""
        return ""

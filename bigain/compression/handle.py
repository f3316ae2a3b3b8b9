"""`compress` puts a compressor on a model, and returns the handle that takes it off again."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from bigain.compression.architectures import Block, find_denoiser
from bigain.compression.hooks import Hooks, hooks_of
from bigain.compression.token_counts import TokenCounts, does_nothing, token_counts
from bigain.compressors import Compressor, TokenGrid
from bigain.compressors.by_name import compressor_of

# in the place of `TokenCounts`
UNKNOWN = "the number of tokens depends on the data or on the latent's size"


def compress(
    model: Any,
    compressor: Compressor | str,
    *,
    blocks: str | Sequence[int] = "default",
    sites: Sequence[str] = ("self_attention",),
    seed: int = 0,
    decide_on: str = "default",
    **settings: Any,
) -> "Attachment":
    """Compress a model from now on, until the returned handle is removed.

    Leaving a ``with`` block around the handle removes it, and so do ``handle.remove()`` and
    ``bigain.remove(model)``. The model is then exactly as it was before.

    Args:
        model: a denoiser of diffusers (UNet2DConditionModel, DiTTransformer2DModel,
            PixArtTransformer2DModel, SD3Transformer2DModel or FluxTransformer2DModel) or a pipeline
            that holds one, compiled or not; docs/compatibility.md lists what else may be done to
            it. Tokens of a text are never compressed. A pipeline's scheduler says how many
            timesteps there are, for schedules over time such as IE-KVD's.
        compressor: what to do with the tokens, such as LGTM(0.5); or the name of a compressor
            ("abm", "frequency", "iekvd", "kv_merge", "kv_select", "lgtm", "sito", "todo" or
            "tome"), with its settings as further arguments.
        blocks: "default", "all", or a list. For a U-Net the list holds downsampling factors (1, 2,
            4, 8), and the default is the smallest that has transformer blocks. For a transformer it
            holds block indices, and the default is the ten of 28 that the paper compresses, scaled
            to the model's depth. Flux's single blocks are counted after its double ones.
        sites: any of "self_attention", "cross_attention" (its queries) and "mlp". The joint
            attention of SD3 and Flux is self-attention.
        seed: seed for random compressors.
        decide_on: the tokens that compressors look at: "block_input", before the block's norm;
            "attention_input", after it; or "default", which the family of models decides.
        settings: the settings of a compressor that is given by its name, such as ``ratio=0.5``.

    Raises:
        TypeError: if the model is of an unsupported class, or ``compressor`` is none.
        ValueError: if the blocks or sites do not exist, or nothing would be compressed.
        RuntimeError: if the model is compressed already.

    Example:
        As long as the block lasts:

        >>> import bigain
        >>> with bigain.compress(pipe, bigain.LGTM(0.5)):
        ...     image = pipe("a photo of a cat").images[0]

        Or from here on, with what it does on display:

        >>> handle = bigain.compress(pipe, "lgtm", ratio=0.5)
        >>> print(handle)  # doctest: +ELLIPSIS
        LGTM(ratio=0.5, ...) on a UNet2DConditionModel...
        >>> image = pipe("a photo of a cat").images[0]
        >>> handle.remove()
    """
    chosen = compressor_of(compressor, settings)
    where = {"blocks": blocks, "sites": sites, "seed": seed, "decide_on": decide_on}
    attachment = Attachment(model, chosen, **where)
    attachment.attach()
    attachment.warn_if_idle()
    return attachment


def remove(model: Any) -> None:
    """Take the compressor off a model, which is then exactly as it was before `compress`.

    Args:
        model: the model that was compressed, or a pipeline that holds it.

    Raises:
        TypeError: if the model is of an unsupported class.
        RuntimeError: if it is not compressed.

    Example:
        >>> import bigain
        >>> handle = bigain.compress(pipe, bigain.ToMe(0.5))
        >>> bigain.remove(pipe)
    """
    denoiser = find_denoiser(model)
    hooks = hooks_of(denoiser)
    if hooks is None:
        raise RuntimeError(
            f"this {type(denoiser).__name__} is not compressed, so nothing can be removed from it; "
            "if the pipeline's model was replaced since compress, call the handle's remove()"
        )
    hooks.remove()


def attached(
    model: Any, compressor: Compressor | None, **where: Any
) -> AbstractContextManager["Attachment | None"]:
    """`compress` with the same arguments, or an empty context if ``compressor`` is None."""
    return nullcontext() if compressor is None else compress(model, compressor, **where)


class Attachment(Hooks):
    """The handle that `compress` returns.

    Printing it says what is compressed, for a latent of the model's own size. The share of a
    forward's FLOPs that this saves is in ``bigain.flops_saved(handle)`` and not printed, because
    counting runs the whole model on the meta device, which takes seconds.
    """

    def __init__(self, model: Any, compressor: Compressor, **where: Any) -> None:
        super().__init__(model, compressor, **where)
        self._given = model
        self._entered = False

    def __enter__(self) -> "Attachment":
        if self._entered:
            raise RuntimeError(
                "this handle's `with` block is running already; call compress again for another"
            )
        if not self.active:  # its last block is over
            self.attach()
        self._entered = True
        return self

    def __exit__(self, kind: object = None, *exception: object) -> None:
        self._entered = False
        active = self.active
        self.remove()
        if kind is None and active:
            self._warn_if_unused()

    def _warn_if_unused(self) -> None:
        model = f"{type(self.model).__name__} that {self.compressor!r} was on"
        component = self.architecture.component
        if find_denoiser(self._given) is not self.model:
            warnings.warn(
                f"pipe.{component} was replaced while it was compressed, and forwards of the new "
                f"one were not compressed: call compress after replacing pipe.{component}",
                stacklevel=3,
            )
        elif not self.used:
            warnings.warn(
                f"nothing was compressed: the `with` block ends without one forward of the {model};"
                " if another pipeline or model ran in it, give that one to compress",
                stacklevel=3,
            )

    def warn_if_idle(self) -> None:
        """Warn if the compressor leaves all tokens of all blocks as they are."""
        largest = 0
        for block in self.blocks:
            grid, counts = self._tokens(block)
            if grid is None or counts is None or not does_nothing(self.compressor, grid, counts):
                return
            largest = max(largest, grid.tokens)
        warnings.warn(
            f"{self.compressor!r} leaves all tokens as they are (on grids of up to {largest}), so "
            "nothing is compressed; raise its ratio or factor",
            stacklevel=3,
        )

    def _tokens(self, block: Block) -> tuple[TokenGrid | None, TokenCounts | None]:
        """The block's grid for a latent of the model's own size, and its numbers of tokens."""
        try:
            _, height, width = self.architecture.latent_shape
            grid = self.architecture.grid(block.place, height, width)
        except (AttributeError, TypeError, ValueError):  # the config names no size
            return None, None
        return grid, token_counts(self.compressor, grid, block.module)

    def __repr__(self) -> str:
        every = len(self.architecture.blocks())
        kinds: dict[str, list[int]] = {}
        known: dict[int, str] = {}
        for block in self.blocks:
            if block.place not in known:
                grid, counts = self._tokens(block)
                size = f"{grid.height}x{grid.width} = " if grid and counts else ""
                known[block.place] = f"{size}{counts or UNKNOWN}"
            kinds.setdefault(known[block.place], []).append(block.place)
        state = "" if self.active else " (removed)"
        lines = [
            f"{self.compressor!r} on a {type(self.model).__name__}{state}",
            f"  sites: {', '.join(self.sites)}",
            f"  blocks: {len(self.blocks)} of {every}",
        ]
        for tokens, places in kinds.items():
            where = ", ".join(map(str, dict.fromkeys(places)))
            lines.append(f"    {self.architecture.places} {where}: {tokens}")
        return "\n".join(lines)

"""Put a compressor on a diffusers model and take it off again, with hooks alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.randomness import KeyedStream, key_of

SITES = {"self_attention": "attn1", "cross_attention": "attn2", "mlp": "ff"}
# The ten of DiT-XL/2's 28 blocks that the paper's scripts compress.
DIT_XL2_BLOCKS = frozenset({1, 2, 3, 4, 5, 7, 8, 9, 10, 11})

_compressed: "WeakSet[nn.Module]" = WeakSet()


def compress(
    model: Any,
    compressor: Compressor,
    *,
    blocks: str | Sequence[int] = "default",
    sites: Sequence[str] = ("self_attention",),
    seed: int = 0,
) -> "Attachment":
    """Compress a model inside a ``with`` block; leaving it restores the model exactly.

    Args:
        model: UNet2DConditionModel, DiTTransformer2DModel, or a pipeline that holds one.
        compressor: what to do with the tokens.
        blocks: "default", "all", or a list. For a U-Net the list holds downsampling factors (1, 2,
            4, 8), and the default is the smallest that has transformer blocks; for a DiT it holds
            block indices, and the default is the paper's ten of 28, or the same share of another
            depth.
        sites: "self_attention", "cross_attention" (its queries) and "mlp", any of them.
        seed: of random compressors.

    Raises:
        TypeError: if the model is of another kind.
        ValueError: if the blocks or sites do not exist, or nothing would be compressed.
    """
    return Attachment(find_denoiser(model), compressor, blocks=blocks, sites=sites, seed=seed)


def find_denoiser(model: Any) -> UNet2DConditionModel | DiTTransformer2DModel:
    """The U-Net or DiT that ``model`` is or holds."""
    for candidate in (model, getattr(model, "unet", None), getattr(model, "transformer", None)):
        if isinstance(candidate, UNet2DConditionModel | DiTTransformer2DModel):
            return candidate
    raise TypeError(
        "compress takes a diffusers UNet2DConditionModel, a DiTTransformer2DModel or a pipeline "
        f"holding one, got {type(model).__name__}"
    )


@dataclass(frozen=True)
class Block:
    """A transformer block, where it is and how the latent relates to its tokens."""

    place: int  # U-Net: downsampling factor of the latent; DiT: index
    module: BasicTransformerBlock
    side: int  # latent pixels a token spans


def transformer_blocks(model: UNet2DConditionModel | DiTTransformer2DModel) -> list[Block]:
    """Every transformer block in forward order."""
    if isinstance(model, DiTTransformer2DModel):
        patch = model.config.patch_size
        return [Block(i, block, patch) for i, block in enumerate(model.transformer_blocks)]

    def inside(stage: nn.Module, factor: int) -> Iterator[Block]:
        for module in stage.modules():
            if isinstance(module, BasicTransformerBlock):
                yield Block(factor, module, factor)

    down, up = list(model.down_blocks), list(model.up_blocks)
    deepest = 2 ** (len(down) - 1)
    stages = [(stage, 2**i) for i, stage in enumerate(down)]
    if model.mid_block is not None:
        stages.append((model.mid_block, deepest))
    stages += [(stage, deepest // 2**i) for i, stage in enumerate(up)]
    return [block for stage, factor in stages for block in inside(stage, factor)]


def default_places(
    model: UNet2DConditionModel | DiTTransformer2DModel, all_blocks: list[Block]
) -> set[int]:
    """Places compressed when none are named."""
    if isinstance(model, DiTTransformer2DModel):
        depth = len(all_blocks)
        return {b.place for b in all_blocks if round(b.place * 28 / depth) in DIT_XL2_BLOCKS}
    return {min(b.place for b in all_blocks)} if all_blocks else set()


def select_blocks(
    model: UNet2DConditionModel | DiTTransformer2DModel, blocks: str | Sequence[int]
) -> list[Block]:
    """The blocks to compress; ValueError when a named one does not exist or none is left."""
    every = transformer_blocks(model)
    what = "block indices" if isinstance(model, DiTTransformer2DModel) else "downsampling factors"
    present = sorted({b.place for b in every})
    if blocks == "all":
        chosen = set(present)
    elif blocks == "default":
        chosen = default_places(model, every)
    elif isinstance(blocks, str):
        raise ValueError(f"blocks must be default, all or a list of {what}, got {blocks!r}")
    else:
        chosen = set(blocks)
        if missing := sorted(chosen - set(present)):
            raise ValueError(f"blocks {missing} do not exist; this model's {what}: {present}")
    if not chosen:
        raise ValueError(
            f"blocks={blocks!r} leaves nothing to compress; this model's {what}: {present}"
        )
    return [b for b in every if b.place in chosen]


@dataclass
class _Forward:
    """What the blocks of one forward share."""

    height: int = 0
    width: int = 0
    t: Tensor = field(default_factory=lambda: torch.zeros(0))
    stream: KeyedStream = field(default_factory=lambda: KeyedStream(torch.zeros(0)))
    reusable: dict[TokenGrid, Plan] = field(default_factory=dict)


class Attachment:
    """A compressor's hooks on one model; see :func:`compress`.

    Attributes:
        sample_keys: int64 [B] for the next forwards: samples with equal keys and timesteps draw
            the same random numbers. None gives all samples the same draws.
        planner: called with (compressor, x, grid, t, rng) for every plan; a profiler may wrap it.
    """

    def __init__(
        self,
        model: UNet2DConditionModel | DiTTransformer2DModel,
        compressor: Compressor,
        *,
        blocks: str | Sequence[int],
        sites: Sequence[str],
        seed: int,
    ) -> None:
        self.model = model
        self.compressor = compressor
        self.sites = tuple(sites)
        self.seed = seed
        self.blocks = select_blocks(model, blocks)
        self.sample_keys: Tensor | None = None
        self.planner: Callable[..., Plan] = type(compressor).plan
        self._check_sites()
        self._handles: list[Any] = []
        self._forward = _Forward()
        self._plans: dict[int, Plan] = {}

    def _check_sites(self) -> None:
        if not self.sites or set(self.sites) - set(SITES):
            raise ValueError(f"sites must be some of {', '.join(SITES)}; got {list(self.sites)}")
        for site in self.sites:
            if any(getattr(b.module, SITES[site]) is None for b in self.blocks):
                raise ValueError(f"this model's blocks have no {site}; remove it from sites")
            if site == "self_attention" and any(b.module.only_cross_attention for b in self.blocks):
                raise ValueError(
                    "some of these blocks attend to the text alone and have no self_attention; "
                    "name others in blocks"
                )
            if site != "self_attention" and "queries" not in self.compressor.shortens:
                raise ValueError(
                    f"{self.compressor!r} shortens the keys and values of self-attention alone; "
                    f"remove {site} from sites"
                )

    def __enter__(self) -> "Attachment":
        if self.model in _compressed:
            raise RuntimeError(
                "this model is compressed already; leave that `with` block first, or combine two "
                "compressors with Compose"
            )
        _compressed.add(self.model)
        try:
            self._register()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _register(self) -> None:
        hook = self._handles.append
        hook(self.model.register_forward_pre_hook(self._begin, with_kwargs=True))
        for index, block in enumerate(self.blocks):
            hook(block.module.register_forward_pre_hook(self._plan(index), with_kwargs=True))
            for site in self.sites:
                module = getattr(block.module, SITES[site])
                before = self._shorten(index, site == "self_attention")
                hook(module.register_forward_pre_hook(before, with_kwargs=True))
                hook(module.register_forward_hook(self._restore(index)))

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._plans.clear()
        self._forward = _Forward()
        _compressed.discard(self.model)

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        name = "sample" if isinstance(module, UNet2DConditionModel) else "hidden_states"
        latent = args[0] if args else kwargs[name]
        t = torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"], device=latent.device)
        t = t.expand(len(latent)) if t.ndim == 0 or len(t) == 1 else t
        keys = self.sample_keys
        if keys is None:
            keys = torch.zeros(len(latent), dtype=torch.int64)
        elif len(keys) != len(latent):
            raise ValueError(f"{len(keys)} sample_keys for a batch of {len(latent)}")
        stream = KeyedStream(keys.to(latent.device)).fork(key_of("compressor", self.seed)).fork(t)
        self._forward = _Forward(latent.shape[-2], latent.shape[-1], t, stream)

    def _plan(self, index: int) -> Callable[..., None]:
        block = self.blocks[index]

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            now = self._forward
            # ceil: a U-Net's strided convolution rounds odd sides up
            grid = TokenGrid(-(-now.height // block.side), -(-now.width // block.side))
            plan = now.reusable.get(grid)
            if plan is None:
                plan = self.planner(self.compressor, x, grid, now.t, now.stream.fork(index))
                if self.compressor.reuse:
                    now.reusable[grid] = plan
            self._plans[index] = plan

        return hook

    def _shorten(self, index: int, self_attention: bool) -> Callable[..., tuple[tuple, dict]]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            plan = self._plans[index]
            y = args[0] if args else kwargs.pop("hidden_states")
            queries = plan.queries.apply(y) if plan.queries else y
            if self_attention and plan.keys_values:
                kwargs = {**kwargs, "encoder_hidden_states": plan.keys_values(y)}
            elif self_attention and plan.queries and plan.queries.ragged:
                empty = (plan.queries.counts == 0).unsqueeze(1)
                mask = torch.zeros_like(empty, dtype=y.dtype).masked_fill_(empty, -torch.inf)
                kwargs = {**kwargs, "attention_mask": mask}
            return (queries, *args[1:]), kwargs

        return hook

    def _restore(self, index: int) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            queries = self._plans[index].queries
            return queries.undo(output) if queries else output

        return hook

"""Put a compressor on a diffusers model and take it off again, with hooks alone."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from bigain.compression.batch_groups import Groups
from bigain.compression.blocks import (
    Block,
    find_denoiser,
    has_levels,
    select_blocks,
    transformer_blocks,
)
from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.utils.randomness import KeyedStream, key_of

__all__ = [
    "SITES",
    "Attachment",
    "Block",
    "compress",
    "find_denoiser",
    "select_blocks",
    "transformer_blocks",
]

SITES = {"self_attention": "attn1", "cross_attention": "attn2", "mlp": "ff"}

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
        model: UNet2DConditionModel, DiTTransformer2DModel, or a pipeline that holds one, compiled
            or not; docs/compatibility.md says what else may be done to it.
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


def attached(
    model: Any, compressor: Compressor | None, **where: Any
) -> AbstractContextManager["Attachment | None"]:
    """`compress`, with the same arguments, or nothing without a compressor."""
    return nullcontext() if compressor is None else compress(model, compressor, **where)


@dataclass
class _Forward:
    """What the blocks of one forward share.

    Attributes:
        height, width: of the latent, in its pixels.
        t: timestep of each sample, [B].
        stream: random numbers of each sample.
        running: from the model's first hook to its last; a block that runs later is recomputed by
            gradient checkpointing.
        checkpoints: how many forwards such a block may belong to, 2 for more; only when it is 1
            is this one known to be meant.
        recomputed: whether such a block has run.
        reusable: the first plan of each grid.
        plans: by the block's position in ``Attachment.blocks``.
        once: of the block that ``Attachment.shared`` names, for one sample of each group.
        keys: how many keys self-attention is given, where they are shortened, by the same position.
        applied: how often a plan was applied.
    """

    height: int = 0
    width: int = 0
    t: Tensor = field(default_factory=lambda: torch.zeros(0))
    stream: KeyedStream = field(default_factory=lambda: KeyedStream(torch.zeros(0)))
    running: bool = False
    checkpoints: int = 0
    recomputed: bool = False
    reusable: dict[TokenGrid, Plan] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    once: Plan | None = None
    keys: dict[int, int] = field(default_factory=dict)
    applied: int = 0


def _full_precision(x: Tensor) -> AbstractContextManager:
    """Autocast off: in half precision many similarities tie."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class Retrace:
    """Until removed, torch.compile takes no graph of ``module`` that it traced before.

    Compiled code does not check whether a module has got or lost hooks
    (torch._dynamo.config.skip_nnmodule_hook_guards); whether it has a forward of its own it does.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.own = module.__dict__.get("forward")  # accelerate sets one
        original = self.original = module.forward

        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        self.forward = module.forward = forward

    def remove(self) -> None:
        attributes = self.module.__dict__
        if attributes.get("forward") is not self.forward:
            if attributes.get("_old_forward") is self.forward:  # accelerate's, put on meanwhile
                attributes["_old_forward"] = self.original
        elif self.own is None:
            del self.module.forward
        else:
            self.module.forward = self.own


class Attachment:
    """A compressor's hooks on one model; see :func:`compress`.

    Attributes:
        sample_keys: int64 [B] for the next forwards: samples with equal keys and timesteps draw
            the same random numbers. None gives all samples the same draws, so that both halves of
            classifier-free guidance agree.
        shared: a block, and the samples of the next forward that are equal up to it
            (`bigain.compression.sharing`), for which it then plans once.
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
        self.shared: tuple[nn.Module, Groups] | None = None
        self.planner: Callable[..., Plan] = type(compressor).plan
        self._check_sites()
        self._purpose = key_of("compressor", seed)
        self._handles: list[Any] = []
        self._expected = 0
        self._forward = _Forward()

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
        # methods and partials of them, so that copying a hook asks __reduce_ex__
        self._expected = len(self.blocks) * len(self.sites)
        keep = self._handles.append
        keep(Retrace(self.model))
        keep(self.model.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(self.model.register_forward_hook(self._verify))
        keep(self.model.register_forward_hook(self._end, always_call=True))
        for index, block in enumerate(self.blocks):
            keep(Retrace(block.module))
            plan = partial(self._plan, index)
            keep(block.module.register_forward_pre_hook(plan, with_kwargs=True))
            for site in self.sites:
                module = getattr(block.module, SITES[site])
                before, after = partial(self._shorten, index, site), partial(self._restore, index)
                keep(Retrace(module))
                keep(module.register_forward_pre_hook(before, with_kwargs=True))
                keep(module.register_forward_hook(after))
                if site == "self_attention" and "keys_values" in self.compressor.shortens:
                    self._expected += 1
                    keep(module.to_k.register_forward_pre_hook(partial(self._project, index)))

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._forward = _Forward()
        _compressed.discard(self.model)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """What copy.deepcopy and pickle call."""
        raise RuntimeError(
            "a compressed model can be neither copied nor pickled: its hooks belong to one `with` "
            "block; do it before or after that block (state_dict and save_pretrained are fine)"
        )

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if module is not self.model:
            raise RuntimeError(
                "this is a replica of the compressed model, as DataParallel makes them, and would "
                "share its state; use DistributedDataParallel"
            )
        name = "sample" if isinstance(module, UNet2DConditionModel) else "hidden_states"
        latent = args[0] if args else kwargs[name]
        t = torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"], device=latent.device)
        t = t.expand(len(latent)) if t.ndim == 0 or len(t) == 1 else t
        keys = self.sample_keys
        if keys is None:
            keys = torch.zeros(len(latent), dtype=torch.int64, device=latent.device)
        elif len(keys) != len(latent):
            raise ValueError(f"{len(keys)} sample_keys for a batch of {len(latent)}")
        stream = KeyedStream(keys.to(latent.device)).fork(self._purpose).fork(t)
        before = 0 if self._forward.recomputed else self._forward.checkpoints
        self._forward = _Forward(latent.shape[-2], latent.shape[-1], t, stream, running=True)
        now = before + 1 if torch.is_grad_enabled() else 2 * before
        self._forward.checkpoints = min(now, 2)

    def _verify(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._forward.applied != self._expected:
            raise RuntimeError(
                f"the compressor was applied at {self._forward.applied} places of "
                f"{self._expected}: the model skipped or replaced some of its modules, or "
                "ran code compiled before; make such changes before the `with` block"
            )

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._forward.running = False

    def _plan(self, index: int, module: nn.Module, args: tuple, kwargs: dict) -> None:
        now = self._forward
        if not now.running:
            self._check_recomputation(now)
        x = args[0] if args else kwargs["hidden_states"]
        side = self.blocks[index].side
        # ceil: a U-Net's strided convolution rounds odd sides up
        grid = TokenGrid(-(-now.height // side), -(-now.width // side))
        plan = now.reusable.get(grid)
        if plan is None:
            t, stream = now.t, now.stream
            if t.device != x.device:  # offloading moves the latent after _begin
                t, stream = t.to(x.device), KeyedStream(stream.keys.to(x.device))
            with torch.no_grad(), _full_precision(x):
                plan = self._decide(module, x, grid, t, stream.fork(index))
            if self.compressor.reuse:
                now.reusable[grid] = plan
        now.plans[index] = plan

    def _decide(
        self, module: nn.Module, x: Tensor, grid: TokenGrid, t: Tensor, stream: KeyedStream
    ) -> Plan:
        """The block's plan; where samples are still equal, made for one of each group."""
        if self.shared is None or self.shared[0] is not module:
            return self.planner(self.compressor, x, grid, t, stream)
        groups, now = self.shared[1], self._forward
        first = groups.first
        now.once = self.planner(self.compressor, x[first], grid, t[first], stream.at(first))
        if (
            has_levels(self.model)
            and self.sites == ("self_attention",)
            and not self.compressor.reuse
        ):
            return now.once  # nothing but the attention itself asks for the plan
        if now.once.keys_values is None and now.once.queries is not None:
            return Plan(queries=now.once.queries.at(groups.group))
        return self.planner(self.compressor, x, grid, t, stream)

    def _check_recomputation(self, now: _Forward) -> None:
        if now.checkpoints != 1:
            raise RuntimeError(
                "a compressed block ran outside its model's forward: call the model itself, not "
                "model.forward or a block; with gradient checkpointing, call backward after each "
                "forward, before the next"
            )
        now.recomputed = True

    def _shorten(
        self, index: int, site: str, module: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict]:
        y = args[0] if args else kwargs.pop("hidden_states")
        plan = self._plan_of(index, len(y))
        self._forward.applied += 1
        queries = y
        if plan.queries:
            if y.shape[:2] != plan.queries.slots.shape:
                raise ValueError(
                    f"{site} got tokens of shape {list(y.shape)}, the block's plan is for "
                    f"{list(plan.queries.slots.shape)}; if the feed-forward is "
                    "chunked, turn that off (set_chunk_feed_forward(None)) or remove mlp from sites"
                )
            queries = plan.queries.apply(y)
        if site == "self_attention":
            kwargs = {**kwargs, **self._attend(index, plan, y, module, kwargs)}
        elif plan.queries and kwargs.get("ip_adapter_masks") is not None:
            raise ValueError(
                "IP-Adapter masks lie on the whole grid, which cross_attention here shortens; "
                "remove cross_attention from sites"
            )
        return (queries, *args[1:]), kwargs

    def _plan_of(self, index: int, samples: int) -> Plan:
        """The block's plan, or where a site is given one sample of each group, theirs."""
        now, plan = self._forward, self._forward.plans[index]
        if now.once is None or self.shared is None or samples == len(now.t):
            return plan
        return now.once if self.shared[0] is self.blocks[index].module else plan

    def _attend(
        self, index: int, plan: Plan, y: Tensor, module: nn.Module, kwargs: dict
    ) -> dict[str, Tensor]:
        """The arguments of self-attention that the plan changes, beside its queries."""
        if kwargs.get("attention_mask") is not None:
            raise ValueError(
                "the model was given an attention_mask over its tokens, which compression changes; "
                "call it without, or outside the `with` block"
            )
        if plan.keys_values:
            if not hasattr(module, "to_kv") and "Fused" in type(module.processor).__name__:
                raise ValueError(
                    f"{self.compressor!r} takes keys and values from other tokens than queries, "
                    "which the fused projection of all three cannot do; call "
                    "unfuse_qkv_projections()"
                )
            tokens = plan.keys_values(y)
            self._forward.keys[index] = tokens.shape[1]
            return {"encoder_hidden_states": tokens}
        if plan.queries and plan.queries.ragged:
            empty = (plan.queries.counts == 0).unsqueeze(1)
            mask = torch.zeros_like(empty, dtype=y.dtype).masked_fill_(empty, -torch.inf)
            return {"attention_mask": mask}
        return {}

    def _project(self, index: int, module: nn.Module, args: tuple) -> None:
        """Before to_k: has the attention processor taken the keys it was given?"""
        want = self._forward.keys.get(index)
        if want is None:
            return
        if args[0].shape[1] != want:
            raise RuntimeError(
                "this attention processor ignores encoder_hidden_states in self-attention, so "
                f"{self.compressor!r} has no effect; set another processor (AttnProcessor2_0), or "
                "compress the queries (ToMe, SiTo, LGTM, ABM)"
            )
        self._forward.applied += 1

    def _restore(self, index: int, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        queries = self._plan_of(index, len(output)).queries
        return queries.undo(output) if queries else output

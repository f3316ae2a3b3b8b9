"""Put a compressor on a diffusers model and take it off again, using only hooks."""

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from bigain.compression import checks
from bigain.compression.architectures import (
    Block,
    architecture_of,
    find_denoiser,
    select_blocks,
)
from bigain.compression.batch_groups import SharedBlock
from bigain.compression.retrace import Retrace
from bigain.compression.signature import Signature
from bigain.compression.token_counts import TokenCounts, does_nothing, token_counts
from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.compressors.by_name import compressor_of
from bigain.utils.randomness import KeyedStream, key_of


def compress(
    model: Any,
    compressor: Compressor | str,
    *,
    blocks: str | Sequence[int] = "default",
    sites: Sequence[str] = ("self_attention",),
    seed: int = 0,
    **settings: Any,
) -> "Attachment":
    """Compress a model from now on, until the returned handle is removed.

    Leaving a ``with`` block around the handle removes it, and so do ``handle.remove()`` and
    ``bigain.remove(model)``. The model is then exactly as it was before.

    Args:
        model: a UNet2DConditionModel, a DiTTransformer2DModel, or a pipeline that holds one,
            compiled or not; docs/compatibility.md lists what else may be done to it. A pipeline's
            scheduler says how many timesteps there are, for schedules over time such as IE-KVD's.
        compressor: what to do with the tokens, such as LGTM(0.5); or the name of a compressor
            ("abm", "frequency", "iekvd", "lgtm", "sito", "todo" or "tome"), with its settings as
            further arguments.
        blocks: "default", "all", or a list. For a U-Net the list holds downsampling factors (1, 2,
            4, 8), and the default is the smallest that has transformer blocks. For a DiT it holds
            block indices, and the default is the ten of 28 that the paper compresses, scaled to
            the model's depth.
        sites: any of "self_attention", "cross_attention" (its queries) and "mlp".
        seed: seed for random compressors.
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
    attachment = Attachment(model, chosen, blocks=blocks, sites=sites, seed=seed)
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
    attachment = _attachment_of(denoiser)
    if attachment is None:
        raise RuntimeError(
            f"this {type(denoiser).__name__} is not compressed, so nothing can be removed from it; "
            "if the pipeline's model was replaced since compress, call the handle's remove()"
        )
    attachment.remove()


def _attachment_of(model: nn.Module) -> "Attachment | None":
    """The compressor's hooks on the model, found among its hooks."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, Attachment)), None)


def attached(
    model: Any, compressor: Compressor | None, **where: Any
) -> AbstractContextManager["Attachment | None"]:
    """`compress` with the same arguments, or an empty context if ``compressor`` is None."""
    return nullcontext() if compressor is None else compress(model, compressor, **where)


@dataclass
class _Forward:
    """What the blocks of one forward share.

    Attributes:
        height, width: size of the latent in its pixels.
        t: the timestep of each sample, [B].
        stream: the random numbers of each sample.
        reusable: the first plan for each grid.
        plans: each block's plan, by the block's position in ``Attachment.blocks``.
        once: the plan of the block that ``Attachment.shared`` names, for one sample of each group.
        keys: the number of keys that self-attention is given if they are shortened, by the same
            position.
        computed: the sites, each with the same position, that computed their output.
        applied: how many times a plan was applied.
    """

    height: int
    width: int
    t: Tensor
    stream: KeyedStream
    reusable: dict[TokenGrid, Plan] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    once: Plan | None = None
    keys: dict[int, int] = field(default_factory=dict)
    computed: set[tuple[int, str]] = field(default_factory=set)
    applied: int = 0


# in the place of `TokenCounts`
UNKNOWN = "the number of tokens depends on the data or on the latent's size"


@dataclass
class _Running:
    """The forward that is running, if any."""

    forward: _Forward | None = None


class _Threads(threading.local):
    """Each thread's own `_Running`, an object because torch.compile loses a local's own values."""

    def __init__(self) -> None:
        self.own = _Running()


class Attachment:
    """The handle that `compress` returns: a compressor's hooks on one model.

    Printing it says what is compressed, for a latent of the model's own size. The share of a
    forward's FLOPs that this saves is in ``bigain.flops_saved(handle)`` and not printed, because
    counting runs the whole model on the meta device, which takes seconds.

    Several threads may call the compressed model at once, unless they share a `Sharing`.

    Attributes:
        model: the denoiser.
        architecture: the adapter around the denoiser.
        blocks: the compressed blocks, in forward order.
        sample_keys: int64 [B] for the following forwards. Samples with equal keys and timesteps
            draw the same random numbers. None gives all samples the same draws, so that both halves
            of classifier-free guidance agree.
        shared: a block for which the next forward plans only once per group of samples
            (`bigain.compression.sharing`), or None.
        planner: called with (compressor, x, grid, t, rng) for every plan; a profiler may wrap it.
    """

    def __init__(
        self,
        model: Any,
        compressor: Compressor,
        *,
        blocks: str | Sequence[int],
        sites: Sequence[str],
        seed: int,
    ) -> None:
        self._given = model
        self.architecture = architecture_of(model)
        self.model: nn.Module = self.architecture.model
        schedule = getattr(getattr(model, "scheduler", None), "config", {})  # a pipeline's
        timesteps = schedule.get("num_train_timesteps")
        self.compressor = compressor if timesteps is None else compressor.scheduled(timesteps)
        self.seed = seed
        self.blocks = select_blocks(self.model, blocks)
        self.sample_keys: Tensor | None = None
        self.shared: SharedBlock | None = None
        self.planner: Callable[..., Plan] = type(compressor).plan
        checks.check_sites(compressor, self.blocks, sites)
        self.sites = tuple(dict.fromkeys(sites))
        self._purpose = key_of("compressor", seed)
        self._handles: list[Any] = []
        self._checkpointing: list[Any] = []
        self._expected = 0
        self._threads = _Threads()
        self._entered = False
        self._used = False

    @property
    def active(self) -> bool:
        """Whether the compressor is on the model."""
        return bool(self._handles)

    def attach(self) -> None:
        """Put the hooks on the model.

        Raises:
            RuntimeError: if it is compressed already.
        """
        if _attachment_of(self.model) is not None:
            raise RuntimeError(
                "this model is compressed already; leave that `with` block or call "
                "bigain.remove(model) first, or combine two compressors with Compose"
            )
        self._used = False
        try:
            self._register()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take the hooks off the model; nothing happens if they are off already."""
        while self._handles:
            self._handles.pop().remove()
        self._threads = _Threads()

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
        elif not self._used:
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

    def _register(self) -> None:
        # hooks are methods or partials of them, so that copying one calls __reduce_ex__
        self._expected = len(self.blocks) * len(self.sites)
        keep = self._handles.append
        keep(Retrace(self.model))
        keep(self.model.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(self.model.register_forward_hook(self._verify))
        keep(self.model.register_forward_hook(self._end, always_call=True))
        for index, block in enumerate(self.blocks):
            keep(Retrace(block.module))
            plan = partial(self._plan, index, Signature(block.module))
            keep(block.module.register_forward_pre_hook(plan, with_kwargs=True))
            for site in self.sites:
                module: Any = block.site(site)
                before = partial(self._shorten, index, site, Signature(module))
                keep(Retrace(module))
                keep(module.register_forward_pre_hook(before, with_kwargs=True))
                keep(module.register_forward_hook(partial(self._restore, index, site)))
                computed = partial(self._compute, index, site)
                keep(block.inside(site).register_forward_pre_hook(computed))
                if site == "self_attention" and "keys_values" in self.compressor.shortens:
                    self._expected += 1
                    keep(module.to_k.register_forward_pre_hook(partial(self._project, index)))
        self._checkpointing = checks.checkpointing_modules(self.model, self.blocks)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse copy.deepcopy and pickle, which call this method."""
        raise RuntimeError(
            "a compressed model can be neither copied nor pickled, because its hooks belong to it "
            "alone; call bigain.remove(model) first (state_dict and save_pretrained are fine)"
        )

    # Around the model's forward

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._used = True
        checks.check_replica(module, self.model)
        checks.check_checkpointing(self._checkpointing)
        latent, timestep, _ = self.architecture.read(args, kwargs)
        t = torch.as_tensor(timestep, device=latent.device)
        t = t.expand(len(latent)) if t.ndim == 0 or len(t) == 1 else t
        keys = self.sample_keys
        if keys is None:
            keys = torch.zeros(len(latent), dtype=torch.int64, device=latent.device)
        elif len(keys) != len(latent):
            raise ValueError(f"{len(keys)} sample_keys for a batch of {len(latent)}")
        stream = KeyedStream(keys.to(latent.device)).fork(self._purpose).fork(t)
        self._threads.own.forward = _Forward(latent.shape[-2], latent.shape[-1], t, stream)

    def _verify(self, module: nn.Module, args: tuple, output: Any) -> None:
        checks.check_applied(self._now.applied, self._expected)

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._threads.own.forward = None

    @property
    def _now(self) -> _Forward:
        """The forward that is running in this thread."""
        if self._threads.own.forward is None:
            raise RuntimeError(checks.OUTSIDE)
        return self._threads.own.forward

    # Planning, before each block

    def _plan(
        self, index: int, signature: Signature, module: nn.Module, args: tuple, kwargs: dict
    ) -> None:
        now = self._now
        x = signature.read("hidden_states", args, kwargs)
        grid = self.architecture.grid(self.blocks[index].place, now.height, now.width)
        plan = now.reusable.get(grid)
        if plan is None:
            t, stream = now.t, now.stream
            if t.device != x.device:  # offloading has moved the latent since _begin
                t, stream = t.to(x.device), KeyedStream(stream.keys.to(x.device))
            with torch.no_grad(), _full_precision(x):
                plan = self._decide(module, x, grid, t, stream.fork(index))
            if self.compressor.reuse:
                now.reusable[grid] = plan
        now.plans[index] = plan

    def _decide(
        self, module: nn.Module, x: Tensor, grid: TokenGrid, t: Tensor, stream: KeyedStream
    ) -> Plan:
        """The block's plan, made for one sample of each group while these are still equal."""
        shared, now = self.shared, self._now
        if shared is None or shared.module is not module:
            return self.planner(self.compressor, x, grid, t, stream)
        first = shared.groups.first
        now.once = self.planner(self.compressor, x[first], grid, t[first], stream.at(first))
        alone = self.sites == ("self_attention",) and not self.compressor.reuse
        if shared.attention and alone:
            return now.once  # only the attention itself uses the plan
        if now.once.keys_values is None and now.once.queries is not None:
            return Plan(queries=now.once.queries.at(shared.groups.group))
        return self.planner(self.compressor, x, grid, t, stream)

    def _plan_of(self, index: int, samples: int) -> Plan:
        """The block's plan, or that of one sample per group if the site is given only these."""
        now, shared = self._now, self.shared
        plan = now.plans[index]
        if now.once is None or shared is None or samples == len(now.t):
            return plan
        return now.once if shared.module is self.blocks[index].module else plan

    # Applying, before each site, and undoing, after it

    def _shorten(
        self,
        index: int,
        site: str,
        signature: Signature,
        module: nn.Module,
        args: tuple,
        kwargs: dict,
    ) -> tuple[tuple, dict]:
        y = signature.read("hidden_states", args, kwargs)
        plan = self._plan_of(index, len(y))
        self._now.applied += 1
        checks.check_tokens(site, y, plan)
        checks.check_masks(site, plan, partial(signature.read, args=args, kwargs=kwargs))
        values = {"hidden_states": plan.queries.apply(y) if plan.queries else y}
        if site == "self_attention":
            values |= self._attend(index, plan, y, module)
        return signature.replace(args, kwargs, values)

    def _attend(self, index: int, plan: Plan, y: Tensor, module: Any) -> dict[str, Tensor]:
        """The arguments of self-attention that the plan changes, apart from the queries."""
        if plan.keys_values:
            checks.check_projections(self.compressor, module)
            tokens = plan.keys_values(y)
            self._now.keys[index] = tokens.shape[1]
            return {"encoder_hidden_states": tokens}
        if plan.queries and plan.queries.ragged:
            empty = (plan.queries.counts == 0).unsqueeze(1)
            mask = torch.zeros_like(empty, dtype=y.dtype).masked_fill_(empty, -torch.inf)
            return {"attention_mask": mask}
        return {}

    def _project(self, index: int, module: nn.Module, args: tuple) -> None:
        """Before to_k, check that the attention processor uses the keys that it was given."""
        wanted = self._now.keys.get(index)
        if wanted is not None:
            checks.check_keys(self.compressor, args[0].shape[1], wanted)
            self._now.applied += 1

    def _compute(self, index: int, site: str, module: nn.Module, args: tuple) -> None:
        """Inside a site, note that its output is not one that some cache has kept."""
        self._now.computed.add((index, site))

    def _restore(
        self, index: int, site: str, module: nn.Module, args: tuple, output: Tensor
    ) -> Tensor:
        checks.check_computed(site, (index, site) in self._now.computed)
        queries = self._plan_of(index, len(output)).queries
        return queries.undo(output) if queries else output


def _full_precision(x: Tensor) -> AbstractContextManager:
    """Turn autocast off, because in half precision many similarities would tie."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()

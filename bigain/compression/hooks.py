"""A compressor's hooks on one model: plan before a block, shorten before a site, restore after."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from bigain.compression import checks
from bigain.compression.architectures import Part, architecture_of, select_blocks
from bigain.compression.batch_groups import Groups, SharedBlock, of_samples
from bigain.compression.forward_state import (
    Anchors,
    Exact,
    Forward,
    Output,
    Place,
    Threads,
    combine,
    pick,
)
from bigain.compression.retrace import Retrace
from bigain.compression.self_attention import changes, rotate
from bigain.compression.signature import Signature
from bigain.compression.unkeyed import check_trial, watched
from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.utils.randomness import KeyedStream, key_of


def hooks_of(model: nn.Module) -> "Hooks | None":
    """The compressor's hooks on a denoiser, or None if it is not compressed."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, Hooks)), None)


class Hooks:
    """A compressor's hooks on one model, and the state of the forward that is running.

    Several threads may call the compressed model at once, unless they share a `Sharing`.

    Attributes:
        model: the denoiser.
        architecture: the adapter around the denoiser.
        compressor: with the length of the pipeline's noise schedule filled in, if a pipeline was
            given.
        blocks: the compressed blocks, in forward order.
        decide_on: one of `DECIDE_ON`.
        sites: those of `SITES` that are compressed.
        sample_keys: int64 [B] for the following forwards. Samples with equal keys and timesteps
            draw the same random numbers. None gives all samples the same draws, so that both halves
            of classifier-free guidance agree.
        shared: a block for which the next forward plans only once per group of samples
            (`bigain.compression.sharing`), or None.
        groups: the samples that share one plan in every block of the next forward, made from the
            first of each; None plans for each sample.
        trials: whether forwards are the trials of a classifier, not the steps of a sampling run.
        planner: called with (compressor, x, grid, t, rng, block) for every plan; a profiler may
            wrap it.
        used: whether a forward has run since the hooks were last put on the model.
    """

    def __init__(
        self,
        model: Any,
        compressor: Compressor,
        *,
        blocks: str | Sequence[int],
        sites: Sequence[str],
        seed: int,
        decide_on: str,
    ) -> None:
        self.architecture = architecture_of(model)
        self.model: nn.Module = self.architecture.model
        schedule = getattr(getattr(model, "scheduler", None), "config", {})  # a pipeline's
        timesteps = schedule.get("num_train_timesteps")
        self.compressor = compressor if timesteps is None else compressor.scheduled(timesteps)
        self.blocks = select_blocks(self.model, blocks)
        self.decide_on = checks.decide_on(decide_on, self.architecture, self.blocks)
        checks.check_sites(compressor, self.blocks, sites)
        checks.check_anchored(compressor, sites)
        self.sites = tuple(dict.fromkeys(sites))
        self.sample_keys: Tensor | None = None
        self.shared: SharedBlock | None = None
        self.groups: Groups | None = None
        self.trials = False
        self.planner: Callable[..., Plan] = type(compressor).plan
        self.used = False
        self._purpose = key_of("compressor", seed)
        self._paused = False
        self._handles: list[Any] = []
        self._checkpointing: list[Any] = []
        self._places: list[Place] = []
        self._expected: dict[int, int] = {}  # how often each block's plan is applied
        self._watched: set[int] = set()  # blocks whose plans need no further watching
        self._threads = Threads()

    @property
    def active(self) -> bool:
        """Whether the compressor is on the model."""
        return bool(self._handles)

    def attach(self) -> None:
        """Put the hooks on the model.

        Raises:
            RuntimeError: if it is compressed already.
        """
        if hooks_of(self.model) is not None:
            raise RuntimeError(
                "this model is compressed already; leave that `with` block or call "
                "bigain.remove(model) first, or combine two compressors with Compose"
            )
        self.used = False
        self._check_randomness()
        try:
            self._register()
        except BaseException:
            self.remove()
            raise

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, forwards run as if nothing were compressed, in every thread.

        Enter and leave it between forwards, not while one is running.
        """
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _hook(self, hook: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        """The hook with its first arguments, which does nothing while paused."""
        return partial(self._unless_paused, hook, *arguments)

    def _unless_paused(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        """What the hook returns; while paused None, which changes nothing."""
        return None if self._paused else hook(*arguments)

    def _check_randomness(self) -> None:
        """Refuse a compressor with random numbers of its own, where the model's size is known."""
        try:
            _, height, width = self.architecture.latent_shape
            grids = [self.architecture.grid(b.place, height, width) for b in self.blocks]
        except (AttributeError, TypeError, ValueError):  # the config names no size
            return
        index = min(range(len(grids)), key=lambda i: grids[i].tokens)
        # quantised layers may hold no parameters, and then any number of channels serves
        weights = (p for p in self.blocks[index].module.parameters() if p.ndim > 1)
        channels = next((weight.shape[-1] for weight in weights), 64)
        check_trial(self.compressor, grids[index], channels)

    def remove(self) -> None:
        """Take the hooks off the model; nothing happens if they are off already."""
        while self._handles:
            self._handles.pop().remove()
        self._threads = Threads()

    def _register(self) -> None:
        # hooks are methods or partials of them, so that copying one calls __reduce_ex__
        self._places, self._expected = [], dict.fromkeys(range(len(self.blocks)), 0)
        keep, hook = self._handles.append, self._hook
        keep(Retrace(self.model))
        keep(self.model.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(self.model.register_forward_hook(hook(self._verify)))
        keep(self.model.register_forward_hook(self._end, always_call=True))
        for index, block in enumerate(self.blocks):
            part = block.parts("self_attention")[0] if self.decide_on == "attention_input" else None
            decider: Any = part.module if part else block.module
            plan = hook(self._plan, index, part, Signature(decider))
            keep(Retrace(decider))
            keep(decider.register_forward_pre_hook(plan, with_kwargs=True))
            for site in self.sites:
                for module in block.parts(site):
                    self._places.append(Place(index, site, module))
                    self._register_place(len(self._places) - 1)
        self._checkpointing = checks.checkpointing_modules(self.model, self.blocks)

    def _register_place(self, number: int) -> None:
        index, site, part = self._places[number]
        keep, hook, module = self._handles.append, self._hook, part.module
        before = hook(self._shorten, number, Signature(module))
        keep(Retrace(module))
        keep(module.register_forward_pre_hook(before, with_kwargs=True))
        keep(module.register_forward_hook(hook(self._restore, number)))
        keep(part.inside.register_forward_pre_hook(hook(self._compute, number)))
        self._expected[index] += 1
        if site != "self_attention":
            return
        if "keys_values" in self.compressor.shortens:
            for projection in (module.to_k, module.to_v) if part.joint else (module.to_k,):
                keep(projection.register_forward_pre_hook(hook(self._project, number)))
                self._expected[index] += 1
        for name in part.rotary:
            norm = getattr(module, name)
            keep(norm.register_forward_hook(hook(self._rotate, number, name)))
            self._expected[index] += 1

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse copy.deepcopy and pickle, which call this method."""
        raise RuntimeError(
            "a compressed model can be neither copied nor pickled, because its hooks belong to it "
            "alone; call bigain.remove(model) first (state_dict and save_pretrained are fine)"
        )

    # Around the model's forward

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._paused:  # `hooks_of` knows this hook, so it is not wrapped as the others are
            return
        self.used = True
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
        height, width = self.architecture.size(args, kwargs)
        skipped = self.architecture.skipped(args, kwargs)
        expected = sum(
            self._expected[i] for i, b in enumerate(self.blocks) if b.place not in skipped
        )
        anchors = self._anchors(latent, t)
        self._threads.own.forward = Forward(height, width, t, stream, expected, anchors)

    def _anchors(self, latent: Tensor, t: Tensor) -> Anchors | None:
        """Where the differences of this forward come from, if the compressor is anchored."""
        every = self.compressor.anchor_every
        if every is None:
            return None
        checks.check_not_compiling()
        if self.trials:
            return Anchors(latent.shape, t, 0, groups=self.groups)
        last = self._threads.own.anchor
        if last is not None and last.shape == latent.shape and _below(t, last.t):
            return replace(last, t=t, left=last.left - 1, follows=True)
        return Anchors(latent.shape, t, every - 1)

    def _verify(self, module: nn.Module, args: tuple, output: Any) -> None:
        checks.check_applied(self._now.applied, self._now.expected)
        anchors = self._now.anchors
        # once nothing can follow, what was lost need not be kept
        self._threads.own.anchor = anchors if anchors is not None and anchors.left else None

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._threads.own.forward = None

    @property
    def _now(self) -> Forward:
        """The forward that is running in this thread."""
        if self._threads.own.forward is None:
            raise RuntimeError(checks.OUTSIDE)
        return self._threads.own.forward

    # Planning, before each block or its self-attention

    def _grid(self, index: int) -> TokenGrid:
        """The block's token grid in the forward that is running."""
        now = self._now
        return self.architecture.grid(self.blocks[index].place, now.height, now.width)

    def _plan(
        self,
        index: int,
        part: Part | None,
        signature: Signature,
        _: nn.Module,
        args: tuple,
        kwargs: dict,
    ) -> None:
        now, grid = self._now, self._grid(index)
        x = signature.read("hidden_states", args, kwargs)
        if part:  # the input of attention, which may hold a text as well
            x = part.split(x, grid.tokens)[1]
        if self.shared is None:  # else the block may be given one sample of each group
            checks.check_samples(len(x), len(now.t))
        anchors = now.anchors
        if anchors is not None and anchors.follows:
            now.plans[index] = anchors.plans[index]
            return
        plan = now.reusable.get(grid)
        if plan is None:
            t, stream = now.t, now.stream
            if t.device != x.device:  # offloading has moved the latent since _begin
                t, stream = t.to(x.device), KeyedStream(stream.keys.to(x.device))
            with torch.no_grad(), _full_precision(x):
                decide = partial(self._decide, index, x, grid, t, stream.fork(index))
                # torch.compile cannot read the states of generators; the trial must suffice
                if is_compiling() or index in self._watched:
                    plan = decide()
                else:
                    plan = watched(decide, self.compressor, x.device)
                    self._watched.add(index)
            if self.compressor.reuse:
                now.reusable[grid] = plan
        now.plans[index] = plan
        if anchors is not None and anchors.left:
            anchors.plans[index] = plan

    def _decide(
        self, index: int, x: Tensor, grid: TokenGrid, t: Tensor, stream: KeyedStream
    ) -> Plan:
        """The block's plan, made for one sample of each group while these are still equal."""
        shared, now = self.shared, self._now
        if shared is None or shared.module is not self.blocks[index].module:
            return self._decide_together(index, x, grid, t, stream)
        first = shared.groups.first
        one = x[first] if len(x) == len(t) else x  # attention may be given only these
        now.once = self.planner(self.compressor, one, grid, t[first], stream.at(first), index)
        alone = self.sites == ("self_attention",) and not self.compressor.reuse
        if shared.attention and alone:
            return now.once  # only the attention itself uses the plan
        if now.once.for_any_samples:
            return now.once.at(shared.groups.group)
        every = x if len(x) == len(t) else x[shared.groups.group]
        return self.planner(self.compressor, every, grid, t, stream, index)

    def _decide_together(
        self, index: int, x: Tensor, grid: TokenGrid, t: Tensor, stream: KeyedStream
    ) -> Plan:
        """One plan for each of ``groups``, which have equal timesteps and draws."""
        groups = self.groups
        if groups is None:
            return self.planner(self.compressor, x, grid, t, stream, index)
        one, first = x[groups.first], groups.first
        plan = self.planner(self.compressor, one, grid, t[first], stream.at(first), index)
        if plan.for_any_samples:
            return plan.at(groups.group)
        # how keys and values are made cannot be handed on; each decides by the first's tokens
        return self.planner(self.compressor, one[groups.group], grid, t, stream, index)

    def _plan_of(self, index: int, samples: int) -> Plan:
        """The block's plan, or that of one sample per group if the site is given only these."""
        now, shared = self._now, self.shared
        plan = now.plans[index]
        if now.once is None or shared is None or samples == len(now.t):
            return plan
        return now.once if shared.module is self.blocks[index].module else plan

    # Applying, before each site, and undoing, after it

    def _shorten(
        self, number: int, signature: Signature, module: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict]:
        index, site, part = self._places[number]
        now, count = self._now, self._grid(index).tokens
        y = signature.read("hidden_states", args, kwargs)
        plan = self._plan_of(index, len(y))
        now.applied += 1
        if now.anchors is not None and not now.anchors.follows:
            now.exact[number] = self._exact(number, args, kwargs, len(y))
        text, image = part.split(y, count)
        checks.check_tokens(site, image, plan)
        read = partial(signature.read, args=args, kwargs=kwargs)
        checks.check_arguments(site, part, plan, read)
        shorter = part.join(text, plan.queries.apply(image) if plan.queries else image)
        values = {"hidden_states": shorter}
        if site == "self_attention":
            changed = changes(self.compressor, part, plan, y, count, read)
            changed.given = (len(shorter), shorter.shape[1])
            now.attending[number] = changed
            values |= changed.arguments
        return signature.replace(args, kwargs, values)

    def _exact(self, number: int, args: tuple, kwargs: dict, samples: int) -> Exact:
        """What an attention gives the anchors without compression.

        Args:
            samples: how many the attention is given; all are anchors unless these are the batch.
        """
        now, anchors = self._now, self._now.anchors
        groups = anchors.groups if anchors and samples == len(now.t) else None
        if groups is not None:
            args, kwargs = of_samples(args, kwargs, groups.first, samples)
        # without the hooks, which compress
        found = self._places[number].part.module.forward(*args, **kwargs)
        now.computed.discard(number)  # that was not the output which follows
        return Exact(found, groups)

    def _project(self, number: int, module: nn.Module, args: tuple) -> tuple:
        """Before to_k and to_v, check or replace the tokens of keys and values."""
        changed = self._now.attending.get(number)
        if changed is None or changed.keys is None:
            return args
        self._now.applied += 1
        if changed.tokens is None:
            checks.check_keys(self.compressor, args[0].shape[1], changed.keys)
            return args
        checks.check_projected(self.compressor, args[0].shape[:2], changed.given)
        return (changed.tokens, *args[1:])

    def _rotate(
        self, number: int, name: str, module: nn.Module, args: tuple, output: Tensor
    ) -> Tensor:
        """After a norm, rotate queries or keys by their positions, which differ by sample."""
        changed = self._now.attending.get(number)
        if changed is None:
            return output
        self._now.applied += 1
        rotation = changed.rotations.get(name)
        return output if rotation is None else rotate(output, rotation)

    def _compute(self, number: int, module: nn.Module, args: tuple) -> None:
        """Inside a site, note that its output is not one that some cache has kept."""
        self._now.computed.add(number)

    def _restore(
        self, number: int, module: nn.Module, args: tuple, output: Tensor | tuple
    ) -> Tensor | tuple:
        index, site, part = self._places[number]
        now = self._now
        checks.check_computed(site, number in now.computed)
        now.attending.pop(number, None)
        first, *others = output if isinstance(output, tuple) else (output,)
        queries = self._plan_of(index, len(first)).queries
        if queries:
            before, image = part.split(first, queries.size)
            first = part.join(before, queries.undo(image))
        return self._corrected(number, (first, *others) if isinstance(output, tuple) else first)

    def _corrected(self, number: int, output: Output) -> Output:
        """The output with what its anchor lost, if the compressor is anchored."""
        now = self._now
        if now.anchors is None:
            return output
        if now.anchors.follows:
            return combine(output, now.anchors.lost[number])
        exact, groups = now.exact.pop(number)
        if groups is not None:
            lost = combine(exact, pick(output, groups.first), -1)
            return combine(output, pick(lost, groups.group))
        if now.anchors.left:
            now.anchors.lost[number] = combine(exact, output, -1)
        return exact


def _below(t: Tensor, last: Tensor) -> bool:
    """Whether timesteps have fallen since ``last``; on the meta device, which has none, they do."""
    return t.is_meta or bool((t.cpu() < last.cpu()).all())


def _full_precision(x: Tensor) -> AbstractContextManager:
    """Turn autocast off, because in half precision many similarities would tie."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()

"""What cannot be compressed, and why. The error of each check says what to do instead."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from bigain.compression.architectures import DECIDE_ON, SITES, Architecture, Block, Part
from bigain.compressors import Compressor, Plan

OUTSIDE = (
    "a compressed block ran outside its model's forward: call the model itself, not model.forward "
    "or a block, and let nothing run its blocks again in the backward pass"
)


def check_anchored(compressor: Compressor, sites: Sequence[str]) -> None:
    """Raise ValueError unless an anchored compressor works at these sites."""
    if compressor.anchor_every is not None and list(sites) != ["self_attention"]:
        raise ValueError(
            f"{compressor!r} makes up for what self-attention loses, and sites are {list(sites)}; "
            "set sites to self_attention alone"
        )


def check_not_compiling() -> None:
    """Raise RuntimeError under torch.compile, which cannot trace an anchored compressor.

    Unless it was told to trace the whole model, torch then runs the model uncompiled.
    """
    if is_compiling():
        raise RuntimeError(
            "Anchored keeps what an anchor lost from one forward to the next, which torch.compile "
            "cannot trace; use the model as it is, or compress it without Anchored"
        )


def check_sites(compressor: Compressor, blocks: Sequence[Block], sites: Sequence[str]) -> None:
    """Raise ValueError unless the blocks have these sites and the compressor works on them."""
    names = ", ".join(SITES)
    if isinstance(sites, str) or not isinstance(sites, Iterable):
        raise ValueError(f"sites must be a list of some of {names}; got {sites!r}, not in a list")
    if not sites or any(site not in list(SITES) for site in sites):
        raise ValueError(f"sites must be some of {names}; got {list(sites)}")
    for site in sites:
        if missing := [block.place for block in blocks if not block.parts(site)]:
            some = len(missing) < len(blocks)
            whose = f"of these blocks, {missing}" if some else "this model's blocks"
            otherwise = ", or name others in blocks" if some else ""
            raise ValueError(f"{whose} have no {site}; remove it from sites{otherwise}")
        if site == "self_attention" and any(block.text_only for block in blocks):
            raise ValueError(
                "some of these blocks attend to the text alone and have no self_attention; "
                "name others in blocks"
            )
        if site != "self_attention" and "queries" not in compressor.shortens:
            raise ValueError(
                f"{compressor!r} shortens the keys and values of self-attention alone; "
                f"remove {site} from sites"
            )


def decide_on(given: str, architecture: Architecture, blocks: Sequence[Block]) -> str:
    """The one of `DECIDE_ON` that ``given`` means.

    Raises:
        ValueError: if there is no such one, or some blocks have no self-attention to decide on.
    """
    if given == "default":
        return architecture.decide_on
    if given not in DECIDE_ON:
        raise ValueError(
            f"decide_on must be default or one of {', '.join(DECIDE_ON)}; got {given!r}"
        )
    if given == "attention_input" and any(block.text_only for block in blocks):
        raise ValueError(
            "some of these blocks have no self-attention whose input could decide; name others in "
            "blocks, or set decide_on='block_input'"
        )
    return given


def checkpointing_modules(model: nn.Module, blocks: Sequence[Block]) -> list[Any]:
    """The modules that can run one of these blocks under gradient checkpointing."""
    modules = {block.module for block in blocks}
    return [
        module
        for module in model.modules()
        if hasattr(module, "gradient_checkpointing") and not modules.isdisjoint(module.modules())
    ]


def check_checkpointing(modules: Iterable[Any]) -> None:
    """Raise RuntimeError if one of these `checkpointing_modules` is about to checkpoint.

    Whenever gradients are recorded, diffusers checkpoints in evaluation mode as well.
    """
    if torch.is_grad_enabled() and any(module.gradient_checkpointing for module in modules):
        raise RuntimeError(
            "gradient checkpointing is on while gradients are recorded, and the backward pass "
            "would run compressed blocks again, after the forward whose timestep and random draws "
            "they need; call disable_gradient_checkpointing(), or run the model under "
            "torch.no_grad()"
        )


def check_replica(module: nn.Module, model: nn.Module) -> None:
    """Raise RuntimeError if the hooks of ``model`` run on another module."""
    if module is not model:
        raise RuntimeError(
            "this is a replica of the compressed model, such as DataParallel makes, and would "
            "share its state; use DistributedDataParallel"
        )


def check_tokens(site: str, y: Tensor, plan: Plan) -> None:
    """Raise ValueError unless the site was given all tokens that the plan covers."""
    if plan.queries and y.shape[:2] != plan.queries.slots.shape:
        raise ValueError(
            f"{site} got tokens of shape {list(y.shape)}, but the block's plan is for "
            f"{list(plan.queries.slots.shape)}; if the feed-forward is chunked, turn that off "
            "(set_chunk_feed_forward(None)) or remove mlp from sites"
        )


def check_arguments(site: str, part: Part, plan: Plan, read: Callable[[str], Any]) -> None:
    """Raise ValueError if the site was given something that depends on tokens that change.

    Args:
        read: returns an argument of the site's call by its name.
    """
    if site == "self_attention" and read("attention_mask") is not None:
        raise ValueError(
            "the model was given an attention_mask over its tokens, which compression changes; "
            "call it without, or on the uncompressed model"
        )
    if site == "cross_attention" and plan.queries and read("ip_adapter_masks") is not None:
        raise ValueError(
            "IP-Adapter masks lie on the whole grid, which cross_attention here shortens; "
            "remove cross_attention from sites"
        )
    if part.rotary and not part.text_first and read("ip_hidden_states") is not None:
        raise ValueError(
            "this IP-Adapter attends with queries that have not been rotated by their positions, "
            "and compression rotates them before; call unload_ip_adapter(), or name only single "
            "blocks in blocks"
        )


def check_projections(compressor: Compressor, attention: Any) -> None:
    """Raise ValueError if one projection makes queries, keys and values from the same tokens."""
    # an Attention keeps its flag when another processor unfuses it
    flag = hasattr(attention, "unfuse_projections") and attention.fused_projections
    by_name = not hasattr(attention, "to_kv") and "Fused" in type(attention.processor).__name__
    if flag or by_name:
        raise ValueError(
            f"{compressor!r} takes keys and values from other tokens than queries, which the "
            "fused projection of all three cannot do; call unfuse_qkv_projections()"
        )


def check_scores(compressor: Compressor, attention: Any, queries: int, keys: int) -> None:
    """Raise ValueError if diffusers is to leave out attention's scores, and would do nothing.

    It returns the values in place of the output, and only if these are as many as the queries.
    """
    registry = getattr(attention, "_diffusers_hook", None)
    hooks = registry.hooks.values() if registry else ()
    if queries != keys and any(getattr(hook, "skip_attention_scores", False) for hook in hooks):
        raise ValueError(
            "LayerSkipConfig(skip_attention_scores=True) has no effect where queries and keys "
            f"differ in number, which {compressor!r} makes {queries} and {keys}; skip the whole "
            "attention or block in the uncompressed model, or compress the queries alone (ToMe, "
            "SiTo, LGTM, ABM)"
        )


def check_samples(given: int, wanted: int) -> None:
    """Raise RuntimeError unless a block was given all samples of the model's batch."""
    if given != wanted:
        raise RuntimeError(
            f"a compressed block was given {given} of the {wanted} samples of this forward: "
            "something inside the model leaves the others out, such as FasterCache the half "
            "without a text; turn it off (disable_cache()) or remove the compressor"
        )


def check_keys(compressor: Compressor, given: int, wanted: int) -> None:
    """Raise RuntimeError unless the attention processor used the keys that it was given."""
    if given != wanted:
        raise RuntimeError(
            "this attention processor ignores encoder_hidden_states in self-attention, so "
            f"{compressor!r} has no effect; set another processor (AttnProcessor2_0), or compress "
            "the queries (ToMe, SiTo, LGTM, ABM)"
        )


def check_projected(compressor: Compressor, given: Sequence[int], wanted: Sequence[int]) -> None:
    """Raise RuntimeError unless keys or values are about to be made of all tokens given."""
    if tuple(given) != tuple(wanted):
        raise RuntimeError(
            "this attention processor makes keys and values of only some of its tokens "
            f"({list(given)} of {list(wanted)}), which {compressor!r} cannot replace; set another "
            "processor, or compress the queries (ToMe, SiTo, LGTM, ABM)"
        )


def check_weights(compressor: Compressor, part: Part) -> None:
    """Raise ValueError if keys are to be weighed or hidden where attention takes no mask."""
    if part.mask_axes is None:
        raise ValueError(
            f"{compressor!r} masks keys, or weighs them by the tokens that were merged into them "
            f"(proportional=True), and {type(part.module.processor).__name__} takes no mask; "
            "remove proportional=True, or give ABM a ratio instead of a threshold"
        )


def check_computed(site: str, computed: bool) -> None:
    """Raise RuntimeError unless the site computed its output in this forward."""
    if not computed:
        raise RuntimeError(
            f"{site} returned an output that it did not compute in this forward, whose tokens "
            "another forward's plan has shortened; turn off what replays or skips it (pyramid "
            "attention broadcast, FasterCache or another cache: disable_cache(); LayerSkipConfig) "
            "or remove the compressor"
        )


def check_applied(applied: int, expected: int) -> None:
    """Raise RuntimeError unless the compressor was applied at every place it was attached to."""
    if applied != expected:
        raise RuntimeError(
            f"the compressor was applied at {applied} of {expected} places: the model skipped or "
            "replaced some of its modules, or ran code compiled before; make such changes before "
            "the `with` block or call of compress"
        )

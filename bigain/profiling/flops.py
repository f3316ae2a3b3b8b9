"""FLOPs of one evaluation, counted on the meta device without weights or arithmetic."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bigain.compression import SITES, Architecture, Attachment, architecture_of, attached
from bigain.compressors import Compressor, Plan
from bigain.compressors.tokens import DataDependentSizeError
from bigain.errors import reason_of
from bigain.profiling.alike import alike

# What operations are spent on: the sites of transformer blocks, convolutions, all other matrix
# products (conditioning, projections into and out of blocks, and parts of blocks that are no site,
# such as the text's feed-forward networks), and the compressor's decisions.
KINDS = (*SITES, "convolution", "other", "matching")
_CONVOLUTION = torch.ops.aten.convolution

Place = int | None


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward at batch 1 (a multiply-add counts as two).

    If some forwards are anchors (`bigain.Anchored`), these are means over all.

    Attributes:
        total: all operations, including matching.
        matching: operations that the compressor spends on its decisions.
        breakdown: the total by place and kind. A place is a U-Net's downsampling factor or the
            index of a transformer's block, or None for operations outside all places. The kinds
            are `KINDS`.
    """

    total: int
    matching: int
    breakdown: Mapping[tuple[Place, str], int]

    def mixed(self, other: "Flops", share: float) -> "Flops":
        """The means if ``other`` makes up this share of all forwards."""

        def mean(one: int, two: int) -> int:
            return round(one + share * (two - one))

        keys = self.breakdown.keys() | other.breakdown.keys()
        parts = {k: mean(self.breakdown.get(k, 0), other.breakdown.get(k, 0)) for k in keys}
        return Flops(mean(self.total, other.total), mean(self.matching, other.matching), parts)


class UncountableError(ValueError):
    """The model itself cannot be run on the meta device, with or without a compressor."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            "FLOPs cannot be counted, because the model itself does not run "
            f"({reason_of(error)}); check its config.json"
        )


def count(
    model: Any,
    compressor: Compressor | None = None,
    *,
    anchor_share: float | None = None,
    **where: Any,
) -> Flops | None:
    """Count FLOPs with torch's FlopCounterMode.

    It counts matrix products, convolutions and attention.

    Args:
        model: a denoiser, of which only the config is used.
        compressor: the compressor to put on the model, or None.
        anchor_share: the share of anchors among all forwards, for :class:`bigain.Anchored` alone;
            None is the share in a long sampling run.
        where: ``blocks`` and ``sites`` of :func:`bigain.compress`.

    Returns:
        The count, or None if it depends on the data (ABM with a threshold).

    Raises:
        ValueError: if the compressor does not fit the model, or the model alone cannot be run
            (`UncountableError`).
    """
    try:
        with torch.device("meta"):
            skeleton = alike(model).eval()
        architecture = architecture_of(skeleton)
        inputs = architecture.random_inputs()
    except Exception as error:  # diffusers accepts configs of models that cannot be run
        raise UncountableError(error) from error
    matching: dict[Place, Counter] = {}
    place: Place = None

    def counted(chosen: Compressor, *arguments: Any) -> Plan:
        with FlopCounterMode(display=False) as own:
            plan = chosen.plan(*arguments)
        matching.setdefault(place, Counter()).update(own.get_flop_counts().get("Global", {}))
        return plan

    def entering(here: int) -> Any:
        def hook(*_: Any) -> None:
            nonlocal place
            place = here

        return hook

    for block in architecture.blocks():  # before compress, because its hooks plan
        block.module.register_forward_pre_hook(entering(block.place))
    # compress itself plans as well, outside the counter
    with torch.no_grad(), attached(skeleton, compressor, **where) as attachment:
        if attachment is not None:
            attachment.planner = counted
        inside = attachment is not None and attachment.decide_on == "attention_input"

        def forward(inputs: dict[str, Any]) -> Flops:
            matching.clear()
            with FlopCounterMode(display=False) as every:
                skeleton(**inputs)
            spent = sum(sum(operations.values()) for operations in matching.values())
            breakdown = _breakdown(architecture, every.get_flop_counts(), matching, inside)
            return Flops(every.get_total_flops(), spent, breakdown)

        try:
            found = forward(inputs)
            if compressor is None or (steps := compressor.anchor_every) in (None, 1):
                return found
            time = architecture.arguments[1]
            follower = forward({**inputs, time: inputs[time] - 1})  # the next of a sampling run
            return follower.mixed(found, 1 / steps if anchor_share is None else anchor_share)
        except DataDependentSizeError:
            return None
        except Exception as error:
            if compressor is None:
                raise UncountableError(error) from error
            count(model)  # is the model itself to blame?
            raise


def flops_saved(handle: Attachment) -> float | None:
    """The share of a forward's FLOPs that a compressor saves, net of what its decisions cost.

    It is counted on the meta device for one latent of the model's own size, without running the
    model; for a large model this takes seconds.

    Args:
        handle: what :func:`bigain.compress` returned.

    Returns:
        A share such as 0.12, or None if it depends on the data (ABM with a threshold).

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.LGTM(0.5)) as handle:
        ...     image = pipe("a photo of a cat").images[0]
        >>> share = bigain.flops_saved(handle)
    """
    places = sorted({block.place for block in handle.blocks})
    plain = count(handle.model)
    less = count(handle.model, handle.compressor, blocks=places, sites=handle.sites)
    return None if plain is None or less is None else 1 - less.total / plain.total


def _breakdown(
    architecture: Architecture,
    counts: dict[str, dict[Any, int]],
    matching: Mapping[Place, Counter],
    inside: bool,
) -> dict[tuple[Place, str], int]:
    """Operations by place and kind; those of no site and no matching are convolution or other.

    Args:
        inside: whether ``counts`` hold matching as a part of self-attention, where decisions on its
            input are taken.
    """
    model = architecture.model
    names = {module: f"{type(model).__name__}.{name}" for name, module in model.named_modules()}
    parts: dict[tuple[Place, str], int] = defaultdict(int)
    left: dict[Place, Counter] = defaultdict(Counter)
    left[None].update(counts["Global"])

    def spent(module: nn.Module) -> dict[Any, int]:
        return counts.get(names[module], {})

    def move(operations: Mapping[Any, int], place: Place, kind: str) -> None:
        left[place].subtract(operations)
        parts[place, kind] += sum(operations.values())

    for here, module in architecture.areas():
        left[here].update(spent(module))
        left[None].subtract(spent(module))
    for block in architecture.blocks():
        for site in SITES:
            for part in block.parts(site):
                move(spent(part.module), block.place, site)
    for place, operations in matching.items():
        if inside:
            parts[place, "self_attention"] -= sum(operations.values())
            parts[place, "matching"] += sum(operations.values())
        else:
            move(operations, place, "matching")
    for place, operations in left.items():
        parts[place, "convolution"] += operations.pop(_CONVOLUTION, 0)
        parts[place, "other"] += sum(operations.values())
    return dict(parts)

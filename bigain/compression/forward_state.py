"""What the hooks of one forward know while it runs, separately in each thread."""

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bigain.compression.architectures import Part
from bigain.compression.batch_groups import Groups
from bigain.compression.self_attention import Changes
from bigain.compressors import Plan, TokenGrid
from bigain.utils.randomness import KeyedStream

# What an attention returns: a tensor, or several of which some may be None.
Output = Tensor | tuple


class Exact(NamedTuple):
    """What an attention gives without compression.

    Attributes:
        output: for all samples, or the first of each group.
        groups: these groups, or None for all samples.
    """

    output: Output
    groups: Groups | None


@dataclass
class Anchors:
    """Where what compression loses is measured: in this forward, or in an earlier one of a run.

    Attributes:
        shape: of the latents.
        t: the timesteps of the last forward that was an anchor or followed it, [B].
        left: the number of forwards that may still follow.
        plans: each block's plan, by the block's position in ``Hooks.blocks``.
        lost: what each attention of the anchor lost, by its position in ``Hooks._places``.
        groups: for a classifier, the groups whose first samples are the anchors of this forward.
        follows: whether this forward follows an earlier one, instead of being an anchor itself.
    """

    shape: torch.Size
    t: Tensor
    left: int
    plans: dict[int, Plan] = field(default_factory=dict)
    lost: dict[int, Output] = field(default_factory=dict)
    groups: Groups | None = None
    follows: bool = False


def combine(one: Output, other: Output, scale: int = 1) -> Output:
    """``one + scale * other``, part by part."""
    if isinstance(one, tuple):
        return tuple(a if a is None else a + scale * b for a, b in zip(one, other, strict=True))
    assert isinstance(other, Tensor)  # the same attention returned both
    return one + scale * other


def pick(output: Output, samples: Tensor) -> Output:
    """The outputs of these samples, int64 [S]."""
    if isinstance(output, tuple):
        return tuple(part if part is None else part[samples] for part in output)
    return output[samples]


@dataclass
class Forward:
    """What the blocks of one forward share.

    Attributes:
        height, width: size of the latent in its pixels.
        t: the timestep of each sample, [B].
        stream: the random numbers of each sample.
        reusable: the first plan for each grid.
        plans: each block's plan, by the block's position in ``Hooks.blocks``.
        once: the plan of the block that ``Hooks.shared`` names, for one sample of each group.
        expected: how often a plan must be applied.
        anchors: where differences come from, if the compressor is anchored.
        attending: what changes of each attention while it runs, by its position in
            ``Hooks._places``.
        computed: the positions, in the same list, of what computed its output.
        applied: how many times a plan was applied.
        exact: what each attention of an anchor gives without compression, by the same position.
    """

    height: int
    width: int
    t: Tensor
    stream: KeyedStream
    expected: int
    anchors: Anchors | None = None
    reusable: dict[TokenGrid, Plan] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    once: Plan | None = None
    attending: dict[int, Changes] = field(default_factory=dict)
    computed: set[int] = field(default_factory=set)
    applied: int = 0
    exact: dict[int, Exact] = field(default_factory=dict)


class Place(NamedTuple):
    """One place where plans are applied.

    Attributes:
        block: the block's position in ``Hooks.blocks``.
        site: one of `SITES`.
        part: the module.
    """

    block: int
    site: str
    part: Part


@dataclass
class Running:
    """The forward that is running, if any, and the last anchor of a sampling run."""

    forward: Forward | None = None
    anchor: Anchors | None = None


class Threads(threading.local):
    """Each thread's own `Running`, an object because torch.compile loses a local's own values."""

    def __init__(self) -> None:
        self.own = Running()

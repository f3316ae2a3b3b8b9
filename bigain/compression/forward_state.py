"""What the hooks of one forward know while it runs, separately in each thread."""

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from bigain.compression.architectures import Part
from bigain.compression.self_attention import Changes
from bigain.compressors import Plan, TokenGrid
from bigain.utils.randomness import KeyedStream


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
        attending: what changes of each attention while it runs, by its position in
            ``Hooks._places``.
        computed: the positions, in the same list, of what computed its output.
        applied: how many times a plan was applied.
    """

    height: int
    width: int
    t: Tensor
    stream: KeyedStream
    expected: int
    reusable: dict[TokenGrid, Plan] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    once: Plan | None = None
    attending: dict[int, Changes] = field(default_factory=dict)
    computed: set[int] = field(default_factory=set)
    applied: int = 0


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
    """The forward that is running, if any."""

    forward: Forward | None = None


class Threads(threading.local):
    """Each thread's own `Running`, an object because torch.compile loses a local's own values."""

    def __init__(self) -> None:
        self.own = Running()

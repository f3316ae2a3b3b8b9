"""The kernels and their launches.

All sums are in float32, whatever the input's type. Block sizes were chosen for the registers and
shared memory of an H100, and were not tuned on hardware. Samples are spread along the first axis of
a launch, the only one that may exceed 65,535. Triton launches on the current GPU, hence
`device_of`.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.cuda import device_of

LEAST: tl.constexpr = tl.constexpr(1e-12)  # length of a token, as in bigain.compressors.matching


@triton.jit
def _length(square):
    """The length of a token from its square, never zero; NaN stays."""
    return tl.where(square < LEAST * LEAST, LEAST, tl.sqrt(square))


@triton.jit
def _nearest(
    x, sources, destinations, best, match, N, C, S, D,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Match BLOCK_S sources of one sample against all of its destinations."""
    blocks = tl.cdiv(S, BLOCK_S)
    sample = (tl.program_id(0) // blocks).to(tl.int64)  # offsets may exceed 2**31
    x += sample * N * C
    destinations += sample * D
    rows = tl.program_id(0) % blocks * BLOCK_S + tl.arange(0, BLOCK_S)
    source = tl.load(sources + sample * S + rows, mask=rows < S, other=0)
    top = tl.full([BLOCK_S], float("-inf"), tl.float32)
    found = tl.zeros([BLOCK_S], tl.int32)
    own = tl.zeros([BLOCK_S], tl.float32)
    for start in range(0, D, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        destination = tl.load(destinations + columns, mask=columns < D, other=0)
        products = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
        own = tl.zeros([BLOCK_S], tl.float32)  # squared lengths
        others = tl.zeros([BLOCK_D], tl.float32)
        for first in range(0, C, BLOCK_C):
            channels = first + tl.arange(0, BLOCK_C)
            a = x + source[:, None] * C + channels[None, :]
            b = x + destination[None, :] * C + channels[:, None]
            a = tl.load(a, mask=channels[None, :] < C, other=0.0)
            b = tl.load(b, mask=channels[:, None] < C, other=0.0)
            # half precision is not widened, because its products are exact; TF32 would round
            products = tl.dot(a, b, products, input_precision="ieee")
            own += tl.sum(a.to(tl.float32) * a.to(tl.float32), 1)
            others += tl.sum(b.to(tl.float32) * b.to(tl.float32), 0)
        similarity = products * (1 / _length(others))[None, :]
        similarity = tl.where(columns[None, :] < D, similarity, float("-inf"))
        value, place = tl.max(similarity, 1, return_indices=True)  # the first of equal ones
        better = value > top
        top = tl.where(better, value, top)
        found = tl.where(better, start + place, found)
    top /= _length(own)
    tl.store(best + sample * S + rows, top, mask=rows < S)
    tl.store(match + sample * S + rows, tl.load(destinations + found), mask=rows < S)


def nearest(x: Tensor, sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """The destination most similar to each source by cosine similarity; the first if several tie.

    Args:
        x: tokens [B, N, C].
        sources, destinations: token indices, int64 [B, S] and [B, D].

    Returns:
        The similarity, float32 [B, S], and the destination's token index, int64 [B, S].
    """
    x = x.contiguous()
    sources, destinations = sources.contiguous(), destinations.contiguous()
    (batch, tokens, channels), many, few = x.shape, sources.shape[1], destinations.shape[1]
    best = torch.empty_like(sources, dtype=torch.float32)
    match = torch.empty_like(sources)
    with device_of(x):
        _nearest[batch * triton.cdiv(many, 128),](
            x, sources, destinations, best, match, tokens, channels, many, few,
            BLOCK_S=128, BLOCK_D=128, BLOCK_C=128 // x.element_size(), num_warps=8,
        )  # fmt: skip
    return best, match


@triton.jit
def _roughness(x, row, column, real, height, width, C, BLOCK_C: tl.constexpr):
    """The magnitude of the Laplacian, summed over channels, of one sample's tokens [T]."""
    token = row.to(tl.int64) * width + column
    total = tl.zeros(token.shape, tl.float32)
    for first in range(0, C, BLOCK_C):
        channels = first + tl.arange(0, BLOCK_C)
        there = real[:, None] & (channels < C)[None, :]
        at = x + token[:, None] * C + channels[None, :]
        up = tl.load(at - width * C, mask=there & (row > 0)[:, None], other=0.0)
        down = tl.load(at + width * C, mask=there & (row < height - 1)[:, None], other=0.0)
        left = tl.load(at - C, mask=there & (column > 0)[:, None], other=0.0)
        right = tl.load(at + C, mask=there & (column < width - 1)[:, None], other=0.0)
        middle = tl.load(at, mask=there, other=0.0).to(tl.float32)
        around = up.to(tl.float32) + down.to(tl.float32) + left.to(tl.float32) + right
        total += tl.sum(tl.abs(around - 4 * middle), 1)
    return total


@triton.jit
def _laplacian_l1(x, score, height, width, C, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Score BLOCK_N consecutive tokens of one sample."""
    N = height * width
    blocks = tl.cdiv(N, BLOCK_N)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    token = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    row, column = token // width, token % width
    x += sample * N * C
    total = _roughness(x, row, column, token < N, height, width, C, BLOCK_C)
    tl.store(score + sample * N + token, total, mask=token < N)


def laplacian_l1(x: Tensor, height: int, width: int) -> Tensor:
    """The magnitude of the Laplacian summed over channels, [B, N, C] to float32 [B, N]."""
    x = x.contiguous()
    batch, tokens, channels = x.shape
    score = torch.empty(batch, tokens, dtype=torch.float32, device=x.device)
    with device_of(x):
        _laplacian_l1[batch * triton.cdiv(tokens, 16),](
            x, score, height, width, channels, BLOCK_N=16, BLOCK_C=128, num_warps=4
        )
    return score


@triton.jit
def _smoothest(
    x, destinations, sources, height, width, C,
    HIGHEST: tl.constexpr, STRIDE: tl.constexpr, PLACES: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Split BLOCK_K cells of one sample; PLACES is a power of two, at least STRIDE * STRIDE."""
    columns = width // STRIDE
    cells = (height // STRIDE) * columns
    blocks = tl.cdiv(cells, BLOCK_K)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK_K
    x += sample * height * width * C
    destinations += sample * cells
    sources += sample * cells * (STRIDE * STRIDE - 1)

    each = tl.arange(0, BLOCK_K * PLACES)
    cell, place = first + each // PLACES, each % PLACES
    row = cell // columns * STRIDE + place // STRIDE
    column = cell % columns * STRIDE + place % STRIDE
    real = (cell < cells) & (place < STRIDE * STRIDE)
    score = _roughness(x, row, column, real, height, width, C, BLOCK_C)
    if HIGHEST:
        score = tl.where(real, score, float("-inf")).reshape(BLOCK_K, PLACES)
        chosen = tl.argmax(score, 1)  # the first of equal ones
    else:
        score = tl.where(real, score, float("inf")).reshape(BLOCK_K, PLACES)
        chosen = tl.argmin(score, 1)
    chosen = tl.minimum(chosen, STRIDE * STRIDE - 1)  # of scores that are not numbers

    cell = first + tl.arange(0, BLOCK_K)
    row, column = cell // columns * STRIDE, cell % columns * STRIDE
    token = (row + chosen // STRIDE) * width + column + chosen % STRIDE
    tl.store(destinations + cell, token, mask=cell < cells)
    place = tl.arange(0, PLACES)[None, :]
    token = (row[:, None] + place // STRIDE) * width + column[:, None] + place % STRIDE
    after = place > chosen[:, None]
    at = sources + cell[:, None] * (STRIDE * STRIDE - 1) + place - after.to(tl.int32)
    other = (cell < cells)[:, None] & (place < STRIDE * STRIDE) & (place != chosen[:, None])
    tl.store(at, token, mask=other)


def smoothest(
    x: Tensor, height: int, width: int, stride: int, highest: bool = False
) -> tuple[Tensor, Tensor]:
    """Split a grid into each cell's token of lowest Laplacian magnitude, and all others.

    Args:
        x: tokens [B, N, C].
        height, width: of the grid, divisible by ``stride``.
        highest: take the token of highest magnitude instead.

    Returns:
        Token indices of the destinations, int64 [B, cells], and of the sources, [B, N - cells];
        the sources of a cell follow each other.
    """
    x = x.contiguous()
    batch, tokens, channels = x.shape
    cells, places = tokens // stride**2, triton.next_power_of_2(stride**2)
    block = max(1, 16 // places)
    destinations = torch.empty(batch, cells, dtype=torch.int64, device=x.device)
    sources = torch.empty(batch, tokens - cells, dtype=torch.int64, device=x.device)
    with device_of(x):
        _smoothest[batch * triton.cdiv(cells, block),](
            x, destinations, sources, height, width, channels, HIGHEST=highest, STRIDE=stride,
            PLACES=places, BLOCK_K=block, BLOCK_C=128, num_warps=4,
        )  # fmt: skip
    return destinations, sources


class Assignment(NamedTuple):
    """What `bigain.compressors.tokens.TokenMap` computes of its tokens' destinations.

    Attributes:
        destinations: int64 [B, N], the destination of each token.
        slots: int64 [B, N], the slot of each token, numbered in token order.
        rows: int64 [B * N], the same for all samples' slots one after the other.
        counts: int64 [B, M], the number of tokens in each slot.
        starts: int64 [B * M], where each slot's tokens begin in ``members``.
        members: int64 [B * N], indices into the flattened tokens in the order of their slots.
    """

    destinations: Tensor
    slots: Tensor
    rows: Tensor
    counts: Tensor
    starts: Tensor
    members: Tensor


@triton.jit
def _assign(
    picked, sources, match, destinations, slots, rows, counts, starts, members, N, S, MERGED,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Assign all tokens of one sample."""
    sample = tl.program_id(0).to(tl.int64)
    M = N - MERGED
    picked += sample * MERGED
    sources += sample * S
    match += sample * S
    destinations += sample * N
    slots += sample * N
    rows += sample * N
    counts += sample * M
    starts += sample * M
    step = tl.arange(0, BLOCK)

    for first in range(0, N, BLOCK):
        n = first + step
        tl.store(destinations + n, n, mask=n < N)
        tl.store(counts + n, 0, mask=n < M)
    tl.debug_barrier()
    for first in range(0, MERGED, BLOCK):
        n = first + step
        which = tl.load(picked + n, mask=n < MERGED, other=0)
        token, to = tl.load(sources + which), tl.load(match + which)
        tl.store(destinations + token, to, mask=n < MERGED)
    tl.debug_barrier()
    # tokens that are their own destinations open slots
    opened = tl.zeros([], tl.int64)
    for first in range(0, N, BLOCK):
        n = first + step
        opens = (tl.load(destinations + n, mask=n < N, other=-1) == n).to(tl.int64)
        tl.store(slots + n, opened + tl.cumsum(opens, 0) - 1, mask=n < N)
        opened += tl.sum(opens, 0)
    tl.debug_barrier()
    for first in range(0, N, BLOCK):
        n = first + step
        to = tl.load(destinations + n, mask=n < N, other=0)
        slot = tl.load(slots + to)
        tl.store(slots + n, slot, mask=n < N)  # those that others read keep what they hold
    tl.debug_barrier()
    # each token's place within its slot, in token order; ``rows`` holds it for now
    for first in range(0, N, BLOCK):
        n = first + step
        slot = tl.load(slots + n, mask=n < N, other=-1)
        same = slot[:, None] == slot[None, :]
        place = tl.load(counts + slot, mask=n < N, other=0)
        place += tl.sum((same & (step[None, :] < step[:, None])).to(tl.int64), 1)
        later = tl.sum((same & (step[None, :] > step[:, None])).to(tl.int32), 1)
        tl.debug_barrier()
        tl.store(rows + n, place, mask=n < N)
        tl.store(counts + slot, place + 1, mask=(n < N) & (later == 0))
        tl.debug_barrier()
    before = sample * N
    for first in range(0, M, BLOCK):
        n = first + step
        count = tl.load(counts + n, mask=n < M, other=0)
        tl.store(starts + n, before + tl.cumsum(count, 0) - count, mask=n < M)
        before += tl.sum(count, 0)
    tl.debug_barrier()
    for first in range(0, N, BLOCK):
        n = first + step
        slot = tl.load(slots + n, mask=n < N, other=0)
        place = tl.load(starts + slot) + tl.load(rows + n, mask=n < N, other=0)
        tl.store(members + place, sample * N + n, mask=n < N)
        tl.store(rows + n, sample * M + slot, mask=n < N)


def assign(picked: Tensor, sources: Tensor, match: Tensor, tokens: int) -> Assignment:
    """Merge some sources into their matches. The result is deterministic.

    Args:
        picked: which of the sources merge, int64 [B, m] in [0, S).
        sources: their token indices, int64 [B, S].
        match: the token index of each source's destination, int64 [B, S].
        tokens: N.
    """
    picked, sources, match = picked.contiguous(), sources.contiguous(), match.contiguous()
    (batch, merged), many = picked.shape, sources.shape[1]
    of_tokens = torch.empty(4, batch, tokens, dtype=torch.int64, device=picked.device)
    of_slots = torch.empty(2, batch, tokens - merged, dtype=torch.int64, device=picked.device)
    destinations, slots, rows, members = of_tokens
    counts, starts = of_slots
    with device_of(picked):
        _assign[batch,](
            picked, sources, match, destinations, slots, rows, counts, starts, members, tokens,
            many, merged, BLOCK=128, num_warps=4, num_stages=1,
        )  # fmt: skip
    return Assignment(
        destinations, slots, rows.flatten(), counts, starts.flatten(), members.flatten()
    )


@triton.jit
def _slot_means(y, members, starts, counts, means, C, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):
    """Average BLOCK_C channels of one slot."""
    slot = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    members += tl.load(starts + slot)
    count = tl.load(counts + slot)
    total = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, count, BLOCK_K):
        place = first + tl.arange(0, BLOCK_K)
        row = tl.load(members + place, mask=place < count, other=0)
        there = (place < count)[:, None] & (channels < C)[None, :]
        rows = tl.load(y + row[:, None] * C + channels[None, :], mask=there, other=0.0)
        total += tl.sum(rows.to(tl.float32), 0)
    total /= tl.maximum(count, 1)
    tl.store(means + slot * C + channels, total, mask=channels < C)


def slot_means(y: Tensor, members: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """The mean of each slot's tokens, zero for an empty slot. The result is deterministic.

    Args:
        y: tokens [B, N, C].
        members: indices into the flattened tokens in the order of their slots, int64 [B*N].
        starts: where the members of each slot begin, int64 [B*M].
        counts: the number of members of each slot, int64 [B, M].

    Returns:
        The means, [B, M, C] in the type of ``y``.
    """
    y = y.contiguous()
    channels = y.shape[-1]
    means = y.new_empty(*counts.shape, channels)
    block = min(512, triton.next_power_of_2(channels))
    with device_of(y):
        _slot_means[counts.numel(), triton.cdiv(channels, block)](
            y, members, starts, counts, means, channels, BLOCK_K=4, BLOCK_C=block, num_warps=4
        )
    return means

"""The kernels and their launches.

All sums are in float32, whatever the input's type. Block sizes were chosen for the registers and
shared memory of an H100, and were not tuned on hardware. Samples are spread along the first axis of
a launch, the only one that may exceed 65,535. Triton launches on the current GPU, hence
`device_of`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.cuda import device_of


@triton.jit
def _nearest(
    x, lengths, sources, destinations, best, match, N, C, S, D,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Match BLOCK_S sources of one sample against all of its destinations."""
    blocks = tl.cdiv(S, BLOCK_S)
    sample = (tl.program_id(0) // blocks).to(tl.int64)  # offsets may exceed 2**31
    x += sample * N * C
    lengths += sample * N
    destinations += sample * D
    rows = tl.program_id(0) % blocks * BLOCK_S + tl.arange(0, BLOCK_S)
    source = tl.load(sources + sample * S + rows, mask=rows < S, other=0)
    top = tl.full([BLOCK_S], float("-inf"), tl.float32)
    found = tl.zeros([BLOCK_S], tl.int32)
    for start in range(0, D, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        destination = tl.load(destinations + columns, mask=columns < D, other=0)
        products = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
        for first in range(0, C, BLOCK_C):
            channels = first + tl.arange(0, BLOCK_C)
            a = x + source[:, None] * C + channels[None, :]
            b = x + destination[None, :] * C + channels[:, None]
            a = tl.load(a, mask=channels[None, :] < C, other=0.0)
            b = tl.load(b, mask=channels[:, None] < C, other=0.0)
            # half precision is not widened, because its products are exact; TF32 would round
            products = tl.dot(a, b, products, input_precision="ieee")
        similarity = products * (1 / tl.load(lengths + destination))[None, :]
        similarity = tl.where(columns[None, :] < D, similarity, float("-inf"))
        value, place = tl.max(similarity, 1, return_indices=True)  # the first of equal ones
        better = value > top
        top = tl.where(better, value, top)
        found = tl.where(better, start + place, found)
    top /= tl.load(lengths + source)
    tl.store(best + sample * S + rows, top, mask=rows < S)
    tl.store(match + sample * S + rows, tl.load(destinations + found), mask=rows < S)


def nearest(
    x: Tensor, lengths: Tensor, sources: Tensor, destinations: Tensor
) -> tuple[Tensor, Tensor]:
    """The destination most similar to each source by cosine similarity; the first if several tie.

    Args:
        x: tokens [B, N, C].
        lengths: lengths of the tokens, never zero, float32 [B, N].
        sources, destinations: token indices, int64 [B, S] and [B, D].

    Returns:
        The similarity, float32 [B, S], and the destination's token index, int64 [B, S].
    """
    x, lengths = x.contiguous(), lengths.contiguous()
    sources, destinations = sources.contiguous(), destinations.contiguous()
    (batch, tokens, channels), many, few = x.shape, sources.shape[1], destinations.shape[1]
    best = torch.empty_like(sources, dtype=torch.float32)
    match = torch.empty_like(sources)
    with device_of(x):
        _nearest[batch * triton.cdiv(many, 128),](
            x, lengths, sources, destinations, best, match, tokens, channels, many, few,
            BLOCK_S=128, BLOCK_D=128, BLOCK_C=128 // x.element_size(), num_warps=8,
        )  # fmt: skip
    return best, match


@triton.jit
def _laplacian_l1(x, score, height, width, C, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Score BLOCK_N consecutive tokens of one sample."""
    N = height * width
    blocks = tl.cdiv(N, BLOCK_N)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    token = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row, column = token // width, token % width
    x += sample * N * C
    total = tl.zeros([BLOCK_N], tl.float32)
    for first in range(0, C, BLOCK_C):
        channels = first + tl.arange(0, BLOCK_C)
        there = (token < N)[:, None] & (channels < C)[None, :]
        at = x + token[:, None] * C + channels[None, :]
        up = tl.load(at - width * C, mask=there & (row > 0)[:, None], other=0.0)
        down = tl.load(at + width * C, mask=there & (row < height - 1)[:, None], other=0.0)
        left = tl.load(at - C, mask=there & (column > 0)[:, None], other=0.0)
        right = tl.load(at + C, mask=there & (column < width - 1)[:, None], other=0.0)
        middle = tl.load(at, mask=there, other=0.0).to(tl.float32)
        around = up.to(tl.float32) + down.to(tl.float32) + left.to(tl.float32) + right
        total += tl.sum(tl.abs(around - 4 * middle), 1)
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

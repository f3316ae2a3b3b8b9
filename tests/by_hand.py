"""Merging and attention in plain steps, with which tests state again what hooks do to a block."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bigain import compress
from bigain.compressors import IEKVD, LGTM, Compose, KVMerge, Plan, TokenMap

# What the blocks of a family are restated with: shorter queries, keys and both.
COMPRESSORS = [LGTM(0.5), IEKVD(2), KVMerge(0.5), Compose(LGTM(0.5), IEKVD(2))]


class Block:
    """What one compressed block was given and returned, and the plan for it.

    Attributes:
        given: the arguments of its forward by name, all of which must be given by name or first.
        returned: its output.
        plan: the compressor's plan.
    """

    def __init__(self, model: Any, block: Any, index: int, compressor: Any, inputs: dict) -> None:
        self.given: dict[str, Any] = {}
        self.returned: Any = None
        self.plan = self._last = Plan()
        with compress(model, compressor, blocks=[index]) as handle, torch.no_grad():
            planner = handle.planner

            def watch(*arguments: Any) -> Plan:
                self._last = planner(*arguments)
                return self._last

            handle.planner = watch
            before = block.register_forward_pre_hook(self._before, with_kwargs=True)
            after = block.register_forward_hook(self._after)
            model(**inputs)
            before.remove()
            after.remove()

    def _before(self, module: Any, args: tuple, kwargs: dict) -> None:
        self.given = {**dict(zip(("hidden_states",), args, strict=False)), **kwargs}

    def _after(self, module: Any, args: tuple, output: Any) -> None:
        self.returned, self.plan = output, self._last

    def merged(self, x: Tensor) -> Tensor:
        """The tokens of queries, [B, N, C] to [B, M, C]."""
        return x if self.plan.queries is None else means(x, self.plan.queries)

    def spread(self, x: Tensor) -> Tensor:
        """Each slot copied to its tokens, [B, M, C] to [B, N, C]."""
        return x if self.plan.queries is None else members(self.plan.queries) @ x

    def keys(self, x: Tensor) -> Tensor:
        """The tokens of keys and values: slots, or IE-KVD's cells of 2 x 2 on a square grid."""
        if self.plan.keys_values is None:
            return self.merged(x)
        if isinstance(self.plan.keys_values, TokenMap):
            return means(x, self.plan.keys_values)
        side = int(x.shape[1] ** 0.5)
        cells = x.view(len(x), side // 2, 2, side // 2, 2, -1)
        return (0.9 * cells[:, :, 1, :, 1] + 0.1 * cells.mean((2, 4))).flatten(1, 2)

    def query_tokens(self) -> Tensor:
        """The token at whose position each query lies, int64 [B or 1, M]."""
        if self.plan.queries is None:
            return torch.arange(self.tokens).unsqueeze(0)
        return destinations(self.plan.queries)

    def key_tokens(self) -> Tensor:
        """The same of each key: of a cell, the last of its four tokens."""
        if self.plan.keys_values is None:
            return self.query_tokens()
        if isinstance(self.plan.keys_values, TokenMap):
            return destinations(self.plan.keys_values)
        side = int(self.tokens**0.5)
        return torch.arange(self.tokens).view(side, side)[1::2, 1::2].reshape(1, -1)

    @property
    def tokens(self) -> int:
        return int(self.given["hidden_states"].shape[1])


def members(found: TokenMap) -> Tensor:
    """Which token is in which slot, one or zero [B, N, M]."""
    return F.one_hot(found.slots, found.size).double()


def means(x: Tensor, found: TokenMap) -> Tensor:
    """The mean of each slot's tokens, [B, N, C] to [B, M, C]."""
    one = members(found)
    return one.mT @ x / one.sum(1).unsqueeze(-1)


def destinations(found: TokenMap) -> Tensor:
    """The token into which each slot's tokens are merged, int64 [B, M]."""
    assert found.destinations is not None
    own = torch.arange(found.destinations.shape[1])
    return torch.stack([row[row == own] for row in found.destinations])


def split(x: Tensor, heads: int) -> Tensor:
    """[B, S, C] to [B, heads, S, C / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of [B, heads, S, D], as [B, S, heads * D]."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def attend(module: Any, queries: Tensor, keys: Tensor) -> Tensor:
    """What diffusers' Attention makes of the tokens of queries, [B, M, C], and of keys."""
    q, k, v = module.to_q(queries), module.to_k(keys), module.to_v(keys)
    found: Tensor = module.to_out[0](attention(*(split(one, module.heads) for one in (q, k, v))))
    return found

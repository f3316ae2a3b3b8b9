"""Merging of keys and values alone."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch.testing import assert_close

from bigain import compress
from bigain.compressors import LGTM, KVMerge, TokenGrid, TokenMap, ToMe
from bigain.utils.randomness import KeyedStream
from tests.planned import planned

GRID = TokenGrid(8, 6)


@pytest.fixture
def x():
    return torch.randn(2, GRID.tokens, 5, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
@pytest.mark.parametrize(
    ("destinations", "same"),
    [
        ("random", lambda ratio: ToMe(ratio)),
        ("first", lambda ratio: ToMe(ratio, destinations="first")),
        ("cycle", lambda ratio: ToMe(ratio, destinations="cycle")),
        ("lowest", lambda ratio: LGTM(ratio)),
        ("highest", lambda ratio: LGTM(ratio, destinations="highest")),
    ],
)
def test_keys_merge_as_queries_do_elsewhere(x, destinations, same, ratio):
    rng, block = KeyedStream(torch.tensor([1, 2])), 2
    found = KVMerge(ratio, destinations=destinations).plan(x, GRID, rng=rng, block=block)
    want = same(ratio).plan(x, GRID, rng=rng, block=block).queries
    assert found.queries is None and isinstance(found.keys_values, TokenMap)
    assert torch.equal(found.keys_values.slots, want.slots)
    assert torch.equal(found.keys_values(x), want.apply(x))


def test_proportional_keys_count_as_often_as_their_tokens(dit):
    """Attention to merged keys is attention to all tokens, each replaced by its slot's mean."""
    golden = dit.double()
    attention: Attention = golden.model.transformer_blocks[1].attn1
    given = []
    compressor = KVMerge(0.5, proportional=True)
    with compress(golden.model, compressor, blocks=[1]) as attachment:
        plans = planned(attachment)
        kept = attention.register_forward_pre_hook(
            lambda _, args, kwargs: given.append(kwargs | {"hidden_states": args[0]}),
            with_kwargs=True,
        )
        golden()
        kept.remove()
    tokens, merged = given[0]["hidden_states"], plans[0].plan.keys_values
    assert tokens.shape[1] == 2 * merged.size
    with torch.no_grad():
        found = attention(**given[0])
        plain = attention(tokens, encoder_hidden_states=given[0]["encoder_hidden_states"])
        want = attention(tokens, encoder_hidden_states=merged.undo(merged.apply(tokens)))
    assert_close(found, want, rtol=0, atol=1e-10)
    assert (plain - want).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratio": 0.8}, r"KVMerge: ratio must lie in \[0, 0.75\]"),
        ({"destinations": "unpaired"}, "random, first, cycle, lowest, highest"),
        ({"score": "x"}, "laplacian_l1"),
        ({"merge": "x"}, "mean, mlerp, keep"),
    ],
)
def test_what_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        KVMerge(**settings)


def test_a_grid_without_a_cell():
    with pytest.raises(ValueError, match="holds no 4x4 cell"):
        KVMerge(0.5, stride=4).plan(torch.zeros(1, 6, 2), TokenGrid(2, 3))

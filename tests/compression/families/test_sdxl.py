"""SDXL on the adapter of U-Nets: its blocks, its defaults and what its classes share."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compression.batch_groups import Groups
from bigain.compression.sharing import Sharing
from bigain.compressors import LGTM, Compose, ToDo
from tests import tiny_families
from tests.by_hand import COMPRESSORS, Block, attend

# IF's way: the model itself pools the text
TEXT_IN_TIME = {"addition_embed_type": "text", "addition_embed_type_num_heads": 2}


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_a_block_is_what_it_is_by_hand(compressor):
    """The second of the three layers of a transformer at factor 4."""
    model = tiny_families.denoiser("sdxl").double()
    inputs = tiny_families.inputs(model, 2)
    block = model.down_blocks[2].attentions[0].transformer_blocks[1]
    seen = Block(model, block, 4, compressor, inputs)
    x, text = seen.given["hidden_states"], seen.given["encoder_hidden_states"]

    z = block.norm1(x)
    x = x + seen.spread(attend(block.attn1, seen.merged(z), seen.keys(z)))
    x = x + attend(block.attn2, block.norm2(x), text)
    x = x + block.ff(block.norm3(x))
    assert_close(seen.returned, x, rtol=0, atol=1e-12)


def test_the_default_blocks_are_those_with_most_tokens():
    """There are none at factor 1, where other libraries then compress nothing."""
    model = tiny_families.denoiser("sdxl")
    architecture = architecture_of(model)
    assert architecture.default_places() == {2}
    assert [block.place for block in architecture.blocks()].count(4) == 3 * 4
    with pytest.raises(ValueError, match=r"blocks \[1\] do not exist; .*: \[2, 4\]"):
        compress(model, LGTM(0.5), blocks=[1])
    handle = compress(model, LGTM(0.5))
    handle.remove()
    assert "downsampling factors 2: 8x8 = 64 tokens -> 32" in str(handle)


@pytest.mark.parametrize("compressor", [None, LGTM(0.5), Compose(LGTM(0.5), ToDo(2))], ids=repr)
@pytest.mark.parametrize("plans", ["shared", "per_class"])
@torch.no_grad()
@pytest.mark.parametrize("kind", [{}, TEXT_IN_TIME], ids=["SDXL", "text in the timestep"])
def test_classes_share_plans_alone(compressor, plans, kind):
    """What is made of their texts reaches every layer through the timestep."""
    model = tiny_families.denoiser("sdxl", **kind).double()
    architecture = architecture_of(model)
    assert architecture.before_condition() == [] and architecture.first_block() is None
    assert architecture.condition_projections() == []
    latents, t = torch.randn(2, 4, 16, 16).double(), torch.tensor([100, 700])
    texts, classes = architecture.random_condition(3), torch.arange(3).repeat(2)
    pooled = architecture.random_extras(3).get("added_cond_kwargs", {})
    images = torch.arange(2).repeat_interleave(3)
    inputs: dict[str, Any] = architecture.inputs(latents[images], t[images], texts[classes])
    inputs["added_cond_kwargs"] = {name: each[classes] for name, each in pooled.items()}
    attachment = None if compressor is None else compress(model, compressor, blocks="all")
    want = model(**inputs).sample
    with Sharing(model, attachment, plans=plans) as sharing:
        sharing.conditions(texts)
        inputs["encoder_hidden_states"] = sharing.batch(classes, Groups.of(images))
        assert_close(model(**inputs).sample, want, rtol=0, atol=1e-12)
    if attachment is not None:
        attachment.remove()

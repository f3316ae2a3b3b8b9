"""PixArt: DiT's blocks with cross-attention to a text."""

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


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_a_block_is_what_it_is_by_hand(compressor):
    model = tiny_families.denoiser("pixart").double()
    block = model.transformer_blocks[1]
    seen = Block(model, block, 1, compressor, tiny_families.inputs(model, 2))
    x, text = seen.given["hidden_states"], seen.given["encoder_hidden_states"]
    modulation = block.scale_shift_table[None] + seen.given["timestep"].view(2, 6, -1)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=1)

    z = block.norm1(x) * (1 + scale) + shift
    x = x + gate * seen.spread(attend(block.attn1, seen.merged(z), seen.keys(z)))
    x = x + attend(block.attn2, x, text)
    x = x + gate_mlp * block.ff(block.norm2(x) * (1 + scale_mlp) + shift_mlp)
    assert_close(seen.returned, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("compressor", [None, LGTM(0.5), Compose(LGTM(0.5), ToDo(2))], ids=repr)
@torch.no_grad()
def test_classes_share_the_first_attention_exactly(compressor):
    """Two noisy images of three classes: the text enters after block 0's self-attention."""
    model = tiny_families.denoiser("pixart").double()
    architecture = architecture_of(model)
    latents, t = torch.randn(2, 4, 16, 16).double(), torch.tensor([100, 700])
    texts, classes = architecture.random_condition(3), torch.arange(3).repeat(2)
    images = torch.arange(2).repeat_interleave(3)
    inputs = architecture.inputs(latents[images], t[images], texts[classes])
    attachment = None if compressor is None else compress(model, compressor, blocks="all")
    want, sizes = model(**inputs).sample, []
    first = model.transformer_blocks[0].attn1
    first.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    with Sharing(model, attachment, plans="per_class") as sharing:
        sharing.conditions(texts)
        inputs["encoder_hidden_states"] = sharing.batch(classes, Groups.of(images))
        assert_close(model(**inputs).sample, want, rtol=0, atol=1e-12)
    assert 2 in sizes
    if attachment is not None:
        attachment.remove()


@torch.no_grad()
def test_sizes_may_enter_the_timestep():
    """PixArt-alpha for 1,024 px takes the image's size and aspect ratio."""
    model = tiny_families.denoiser("pixart", use_additional_conditions=True)
    inputs = tiny_families.inputs(model, 2)
    plain = model(**inputs).sample
    with compress(model, LGTM(0.5)):
        assert not torch.equal(model(**inputs).sample, plain)


def test_the_default_blocks_are_dit_xl_2_s():
    with torch.device("meta"):
        model = tiny_families.denoiser("pixart", num_layers=28)
    assert architecture_of(model).default_places() == {1, 2, 3, 4, 5, 7, 8, 9, 10, 11}

"""Stable Diffusion 3 and 3.5: joint attention, and in some blocks a second one of the image."""

import pytest
import torch
from diffusers.models.attention_processor import PAGJointAttnProcessor2_0
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compressors import ABM, LGTM, Compose, KVMerge, ToDo, ToMe
from tests import tiny_families
from tests.by_hand import COMPRESSORS, Block, attention, split


@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
@pytest.mark.parametrize("index", [1, 2], ids=["two attentions", "the last block"])
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_a_block_is_what_it_is_by_hand(compressor, index, qk_norm):
    model = tiny_families.denoiser("sd3", qk_norm=qk_norm).double()
    block = model.transformer_blocks[index]
    seen = Block(model, block, index, compressor, tiny_families.inputs(model, 2))
    x, text = seen.given["hidden_states"], seen.given["encoder_hidden_states"]
    emb = seen.given["temb"]
    z, gate, shift, scale, gate_mlp, *second = block.norm1(x, emb=emb)
    last = block.context_pre_only
    words = block.norm1_context(text, emb) if last else block.norm1_context(text, emb=emb)[0]

    def attend(module, image: Tensor, text: Tensor | None) -> Tensor:
        queries, keys = seen.merged(image), seen.keys(image)
        plain = module.norm_q or torch.nn.Identity(), module.norm_k or torch.nn.Identity()
        q = plain[0](split(module.to_q(queries), module.heads))
        k = plain[1](split(module.to_k(keys), module.heads))
        v = split(module.to_v(keys), module.heads)
        if text is not None:
            norms = module.norm_added_q or plain[0], module.norm_added_k or plain[1]
            q = torch.cat([q, norms[0](split(module.add_q_proj(text), module.heads))], 2)
            k = torch.cat([k, norms[1](split(module.add_k_proj(text), module.heads))], 2)
            v = torch.cat([v, split(module.add_v_proj(text), module.heads)], 2)
        out = attention(q, k, v)[:, : queries.shape[1]]
        return seen.spread(module.to_out[0](out))

    x = x + gate.unsqueeze(1) * attend(block.attn, z, words)
    if block.attn2 is not None:
        x = x + second[1].unsqueeze(1) * attend(block.attn2, second[0], None)
    z = block.norm2(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    x = x + gate_mlp.unsqueeze(1) * block.ff(z)
    assert_close(seen.returned[1], x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("compressor", [LGTM(0.5), Compose(LGTM(0.5), ToDo(2))], ids=repr)
def test_text_tokens_are_never_shortened(compressor):
    model = tiny_families.denoiser("sd3")
    inputs, seen = tiny_families.inputs(model, 1), set()
    for name, module in model.named_modules():
        if name.endswith(("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context")):
            module.register_forward_pre_hook(lambda module, args: seen.add(args[0].shape[1]))
    with compress(model, compressor, blocks="all", sites=["self_attention"]), torch.no_grad():
        model(**inputs)
    assert seen == {inputs["encoder_hidden_states"].shape[1]}


@pytest.mark.parametrize(
    "compressor",
    [ToMe(0.5, proportional=True), KVMerge(0.5, proportional=True), ABM(threshold=5.0)],
    ids=repr,
)
def test_what_needs_a_mask_is_refused(compressor):
    model = tiny_families.denoiser("sd3")
    inputs = tiny_families.inputs(model, 1)
    with (
        compress(model, compressor),
        pytest.raises(ValueError, match="JointAttnProcessor2_0 takes no mask; remove"),
    ):
        model(**inputs)


@torch.no_grad()
def test_skip_layer_guidance():
    """Blocks that a call leaves out need no compressor; any other block that is missing does."""
    model = tiny_families.denoiser("sd3")
    inputs = tiny_families.inputs(model, 1)
    plain = model(**inputs, skip_layers=[1]).sample
    with compress(model, LGTM(0.5), blocks=[1]):
        assert torch.equal(model(**inputs, skip_layers=[1]).sample, plain)
        assert not torch.equal(model(**inputs, skip_layers=[0]).sample, plain)
    with compress(model, LGTM(0.5), blocks="all"):
        assert not torch.equal(model(**inputs, skip_layers=[1]).sample, plain)
        model.transformer_blocks[2] = model.transformer_blocks[1]
        with pytest.raises(RuntimeError, match="applied at"):
            model(**inputs)


@torch.no_grad()
def test_perturbed_attention_guidance():
    """Its processor makes keys of half of its samples at a time, which only queries survive."""
    model = tiny_families.denoiser("sd3")
    inputs = tiny_families.inputs(model, 2)
    model.transformer_blocks[1].attn.set_processor(PAGJointAttnProcessor2_0())
    plain = model(**inputs).sample
    with compress(model, LGTM(0.5), blocks=[1]):
        assert not torch.equal(model(**inputs).sample, plain)
    with (
        compress(model, ToDo(2), blocks=[1]),
        pytest.raises(RuntimeError, match=r"only some of its tokens .* set another processor"),
    ):
        model(**inputs)


@torch.no_grad()
def test_fused_projections():
    """Merging works; diffusers fuses only blocks with one attention, and leaves their norms out."""
    model = tiny_families.denoiser("sd3", dual_attention_layers=(), qk_norm=None).double()
    inputs = tiny_families.inputs(model, 1)
    with compress(model, LGTM(0.5)):
        want = model(**inputs).sample
    model.fuse_qkv_projections()
    with compress(model, LGTM(0.5)):
        assert_close(model(**inputs).sample, want, rtol=0, atol=1e-12)
    with (
        compress(model, ToDo(2)),
        pytest.raises(ValueError, match=r"call unfuse_qkv_projections\(\)"),
    ):
        model(**inputs)


@pytest.mark.parametrize(
    ("depth", "want"),
    [(24, {*range(1, 5), *range(6, 10)}), (38, {*range(1, 8), *range(9, 16)})],
)
def test_the_default_blocks_are_as_deep_as_a_dit_s(depth, want):
    with torch.device("meta"):
        model = tiny_families.denoiser("sd3", num_layers=depth)
    assert architecture_of(model).default_places() == want

"""Flux: joint attention whose positions rotate queries and keys, in double and single blocks."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compressors import (
    ABM,
    LGTM,
    Compose,
    Compressor,
    KVMerge,
    Plan,
    ToDo,
    TokenGrid,
    TokenMap,
    ToMe,
)
from tests import tiny_families
from tests.by_hand import COMPRESSORS, Block, attention, split
from tests.planned import planned

WEIGHTED = [ToMe(0.5, proportional=True), KVMerge(0.5, proportional=True)]
DOUBLE, SINGLE = 1, 3  # places of one block of either kind
AXES = (2, 2, 4)  # channels of a head that turn with the row 0, the row and the column


def turned(x: Tensor, ids: Tensor) -> Tensor:
    """Queries or keys [B, heads, S, 8], rotated as complex numbers; ids [B or 1, S, 3]."""
    angles = [
        ids[..., i : i + 1].double() * 10000 ** -(torch.arange(0, width, 2).double() / width)
        for i, width in enumerate(AXES)
    ]
    phase = torch.polar(torch.ones(1).double(), torch.cat(angles, -1)).unsqueeze(1)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * phase).flatten(-2)


def attend(seen: Block, module: Any, image: Tensor, text: Tensor, inputs: dict) -> Tensor:
    """The joint attention of a text's tokens and of the image's, before it projects its output."""
    ids = inputs["img_ids"]
    words = inputs["txt_ids"].unsqueeze(0)
    own = hasattr(module, "add_q_proj")  # a double block has weights for the text alone
    others = "add_{}_proj" if own else "to_{}"

    def both(name: str, part: Tensor, tokens: Tensor | None) -> Tensor:
        of_image = split(getattr(module, f"to_{name}")(part), module.heads)
        of_text = split(getattr(module, others.format(name))(text), module.heads)
        if tokens is not None:
            norms = f"norm_{name}", f"norm_added_{name}" if own else f"norm_{name}"
            of_image = turned(getattr(module, norms[0])(of_image), ids[tokens])
            of_text = turned(getattr(module, norms[1])(of_text), words)
        return torch.cat([of_text, of_image], 2)

    q = both("q", seen.merged(image), seen.query_tokens())
    k, v = both("k", seen.keys(image), seen.key_tokens()), both("v", seen.keys(image), None)
    mask = None
    slots = seen.plan.attended
    if slots is not None and slots.proportional:
        many = torch.stack([row.bincount(minlength=slots.size) for row in slots.slots])
        many = torch.cat([torch.ones(len(image), text.shape[1]), many], 1)
        mask = many.log().view(len(image), 1, 1, -1)
    out = attention(q, k, v, mask)
    count = text.shape[1]
    return torch.cat([out[:, :count], seen.spread(out[:, count:])], 1)


def watched(compressor: Compressor, place: int) -> tuple[Any, Block, dict]:
    model = tiny_families.denoiser("flux").double()
    inputs = tiny_families.inputs(model, 2)
    inputs["txt_ids"] += torch.arange(len(inputs["txt_ids"])).unsqueeze(1)
    block = [*model.transformer_blocks, *model.single_transformer_blocks][place]
    return block, Block(model, block, place, compressor, inputs), inputs


@pytest.mark.parametrize("compressor", [*COMPRESSORS, *WEIGHTED], ids=repr)
def test_a_double_block_is_what_it_is_by_hand(compressor):
    block, seen, inputs = watched(compressor, DOUBLE)
    x, text, emb = (seen.given[n] for n in ("hidden_states", "encoder_hidden_states", "temb"))
    z, gate, shift, scale, gate_mlp = block.norm1(x, emb=emb)
    words, gate_text, *_ = block.norm1_context(text, emb=emb)
    out = attend(seen, block.attn, z, words, inputs)
    of_text, of_image = out[:, : text.shape[1]], out[:, text.shape[1] :]
    x = x + gate.unsqueeze(1) * block.attn.to_out[0](of_image)
    z = block.norm2(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    x = x + gate_mlp.unsqueeze(1) * block.ff(z)
    assert_close(seen.returned[1], x, rtol=0, atol=1e-6)  # diffusers rotates in float32
    text = text + gate_text.unsqueeze(1) * block.attn.to_add_out(of_text)
    _, _, shift, scale, gate = block.norm1_context(seen.given["encoder_hidden_states"], emb=emb)
    z = block.norm2_context(text) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    text = text + gate.unsqueeze(1) * block.ff_context(z)
    assert_close(seen.returned[0], text, rtol=0, atol=1e-6)


@pytest.mark.parametrize("compressor", [*COMPRESSORS, *WEIGHTED], ids=repr)
def test_a_single_block_is_what_it_is_by_hand(compressor):
    block, seen, inputs = watched(compressor, SINGLE)
    x, text, emb = (seen.given[n] for n in ("hidden_states", "encoder_hidden_states", "temb"))
    count = text.shape[1]
    whole = torch.cat([text, x], 1)
    z, gate = block.norm(whole, emb=emb)
    out = attend(seen, block.attn, z[:, count:], z[:, :count], inputs)
    out = block.proj_out(torch.cat([out, block.act_mlp(block.proj_mlp(z))], 2))
    whole = whole + gate.unsqueeze(1) * out
    assert_close(seen.returned[0], whole[:, :count], rtol=0, atol=1e-6)
    assert_close(seen.returned[1], whole[:, count:], rtol=0, atol=1e-6)


def test_positions_matter():
    """So that the two tests above would fail without them."""
    block, seen, inputs = watched(LGTM(0.5), SINGLE)
    still = {**inputs, "img_ids": torch.zeros_like(inputs["img_ids"])}
    z = torch.randn(2, 64, 16).double()
    text = torch.randn(2, len(inputs["txt_ids"]), 16).double()
    moved, kept = (attend(seen, block.attn, z, text, one) for one in (inputs, still))
    assert (moved - kept).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (6, 16), (7, 9)])
@torch.no_grad()
def test_the_grid_is_read_from_the_positions(size):
    model = tiny_families.denoiser("flux")
    architecture = architecture_of(model)
    latent = torch.randn(1, 4, *(2 * side for side in size))
    inputs = architecture.inputs(latent, torch.tensor([300]), architecture.random_condition(1))
    inputs |= architecture.random_extras(1)
    inputs["img_ids"] = inputs["img_ids"] + torch.tensor([0.0, 3.0, 5.0])  # wherever it begins
    for ids in (inputs["img_ids"], inputs["img_ids"].unsqueeze(0)):
        with compress(model, ToDo(2), blocks="all") as handle:
            plans = planned(handle)
            model(**{**inputs, "img_ids": ids})
        assert {made.grid for made in plans} == {TokenGrid(*size)}
        assert {round(float(made.t), 3) for made in plans} == {300.0}


IDS = torch.cartesian_prod(torch.zeros(1), torch.arange(8.0), torch.arange(8.0))


@pytest.mark.parametrize(
    "ids",
    [IDS.flip(0), IDS[torch.randperm(64)], IDS * 2, torch.cat([IDS[:32], IDS[:32] + 1])],
    ids=["backwards", "mixed", "apart", "a second image"],
)
@torch.no_grad()
def test_tokens_that_are_no_rectangle_are_refused(ids):
    model = tiny_families.denoiser("flux")
    inputs = tiny_families.inputs(model, 1)
    with (
        compress(model, LGTM(0.5)),
        pytest.raises(ValueError, match=r"img_ids are not those of one whole rectangle, .*Kontext"),
    ):
        model(**{**inputs, "img_ids": ids})
    with (
        compress(model, LGTM(0.5)),
        pytest.raises(TypeError, match="without img_ids"),
    ):
        model(**{**inputs, "img_ids": None})


@torch.no_grad()
def test_a_plan_must_say_where_its_keys_and_slots_are():
    class Halves(Compressor):
        shortens = frozenset({"keys_values"})

        def plan(self, x, grid, t=None, rng=None, block=0):
            return Plan(keys_values=lambda y: y[:, ::2])

    class Pairs(Halves):
        shortens = frozenset({"queries"})

        def plan(self, x, grid, t=None, rng=None, block=0):
            slots = torch.arange(grid.tokens).expand(len(x), -1) // 2
            return Plan(queries=TokenMap(slots, grid.tokens // 2))

    model = tiny_families.denoiser("flux")
    inputs = tiny_families.inputs(model, 1)
    for compressor, reason in ((Halves(), "set key_tokens of its Plan"), (Pairs(), "no position")):
        with compress(model, compressor), pytest.raises(ValueError, match=reason):
            model(**inputs)


def test_the_mlp_of_single_blocks_is_no_site():
    model = tiny_families.denoiser("flux")
    with pytest.raises(ValueError, match=r"of these blocks, \[2, 3\] have no mlp; .*name others"):
        compress(model, LGTM(0.5), blocks="all", sites=["mlp"])
    with pytest.raises(ValueError, match="this model's blocks have no mlp"):
        compress(model, LGTM(0.5), blocks=[2], sites=["mlp"])
    compress(model, LGTM(0.5), blocks=[0, 1], sites=["mlp"]).remove()


@pytest.mark.parametrize("compressor", [LGTM(0.5), Compose(LGTM(0.5), ToDo(2))], ids=repr)
@torch.no_grad()
def test_fused_projections(compressor):
    model = tiny_families.denoiser("flux").double()
    inputs = tiny_families.inputs(model, 1)
    with compress(model, compressor, blocks="all"):
        want = model(**inputs).sample
    model.fuse_qkv_projections()
    with compress(model, compressor, blocks="all"):
        if compressor.shortens == {"queries"}:
            assert_close(model(**inputs).sample, want, rtol=0, atol=1e-6)
        else:
            with pytest.raises(ValueError, match=r"call unfuse_qkv_projections\(\)"):
                model(**inputs)
    model.unfuse_qkv_projections()
    with compress(model, compressor, blocks="all"):
        assert_close(model(**inputs).sample, want, rtol=0, atol=1e-6)


@torch.no_grad()
def test_attention_backends():
    """A mask reaches those that take one."""
    model = tiny_families.denoiser("flux")
    inputs = tiny_families.inputs(model, 1)
    for compressor in (LGTM(0.5), WEIGHTED[0]):
        with compress(model, compressor, blocks="all"):
            want = model(**inputs).sample
            model.set_attention_backend("_native_math")
            assert_close(model(**inputs).sample, want, rtol=0, atol=1e-5)
            model.reset_attention_backend()


@torch.no_grad()
def test_an_ip_adapter_is_refused_in_double_blocks():
    model = tiny_families.denoiser("flux")
    inputs = tiny_families.inputs(model, 1)
    inputs["joint_attention_kwargs"] = {"ip_hidden_states": [torch.ones(1, 1, 1, 16)]}
    plain = model(**inputs).sample  # the plain processor takes no notice
    with compress(model, LGTM(0.5), blocks=[SINGLE]):
        assert not torch.equal(model(**inputs).sample, plain)
    with (
        compress(model, LGTM(0.5), blocks=[DOUBLE]),
        pytest.raises(ValueError, match=r"unload_ip_adapter\(\), or name only single blocks"),
    ):
        model(**inputs)


@torch.no_grad()
def test_empty_slots_are_masked():
    """ABM with a threshold: a sample with few slots is what it is alone."""
    model = tiny_families.denoiser("flux").double()
    inputs = tiny_families.inputs(model, 2)
    inputs["hidden_states"][1] = inputs["hidden_states"][1, :1]  # all tokens alike
    alone = [
        {k: v if k in ("img_ids", "txt_ids") else v[i : i + 1] for k, v in inputs.items()}
        for i in range(2)
    ]
    with compress(model, ABM(threshold=4.0), blocks="all") as handle:
        plans = planned(handle)
        both = model(**inputs).sample
        filled = [(made.plan.queries.counts > 0).sum(1).tolist() for made in plans]
        for i, one in enumerate(alone):
            assert_close(model(**one).sample, both[i : i + 1], rtol=0, atol=1e-5)
    assert any(one[0] != one[1] for one in filled)


def test_the_default_blocks_are_as_deep_as_a_dit_s():
    with torch.device("meta"):
        model = tiny_families.denoiser("flux", num_layers=19, num_single_layers=38)
    assert architecture_of(model).default_places() == {*range(2, 12), *range(14, 24)}
    assert architecture_of(tiny_families.denoiser("flux")).latent_shape == (4, 16, 16)


def test_flux_1_s_own_config_names_no_size(recwarn):
    with torch.device("meta"):
        model = type(tiny_families.denoiser("flux"))(num_layers=1, num_single_layers=1)
    assert architecture_of(model).latent_shape == (16, 128, 128)
    assert architecture_of(model).tokens(0) == 4096

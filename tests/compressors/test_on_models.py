"""Every compressor on a tiny U-Net and DiT.

Where two ways must agree the models run in float64: a tie that rounding decides would differ.
"""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch.testing import assert_close

from bigain import compress
from bigain.compressors import (
    ABM,
    IEKVD,
    LGTM,
    Cached,
    Compose,
    FrequencyFilter,
    KVMerge,
    KVSelect,
    LinearAlpha,
    SiTo,
    ToDo,
    TokenGrid,
    ToMe,
)
from bigain.utils.randomness import KeyedStream
from tests.planned import planned

COMPRESSORS = {
    "tome_first": ToMe(0.5, destinations="first"),
    "tome_random": ToMe(0.5),
    "tome_mlerp": ToMe(0.5, merge="mlerp"),
    "lgtm_keep": LGTM(0.5, merge="keep"),
    "abm_sum": ABM(0.5, aggregate="sum"),
    "sito": SiTo(0.5),
    "lgtm": LGTM(0.5),
    "cached": Cached(LGTM(0.5)),
    "abm": ABM(0.5),
    "abm_threshold": ABM(threshold=110.0),
    "todo": ToDo(2),
    "iekvd": IEKVD(2),
    "iekvd_schedule": IEKVD(2, LinearAlpha()),
    "low": FrequencyFilter("low"),
    "high": FrequencyFilter("high"),
    "low_cells": FrequencyFilter("low", domain="cells"),
    "high_cells": FrequencyFilter("high", domain="cells"),
    "tome_cycle": ToMe(0.5, destinations="cycle"),
    "lgtm_cycle": LGTM(0.5, destinations="cycle"),
    "todo_random": ToDo(2, place="random"),
    "iekvd_cycle": IEKVD(2, place="cycle"),
    "kv_merge": KVMerge(0.5),
    "kv_merge_proportional": KVMerge(0.5, destinations="lowest", proportional=True),
    "kv_cells": KVSelect(2),
    "kv_grid": KVSelect(ratio=0.75, keep="highest"),
    "lgtm_proportional": LGTM(0.5, proportional=True),
    "tome_windows": ToMe(0.5, windows=2),
    "lgtm_protect": LGTM(0.5, protect={"share": 0.2}),
    "lgtm_protect_moving": LGTM(0.5, protect={"share": 0.2, "tokens": "lowest_first"}),
    "todo_coarse": ToDo(2, queries="coarse"),
    "todo_by_height": ToDo({16: 2, 8: 4, 4: 2, 2: 1}, pool="mean"),
    "compose": Compose(LGTM(0.5), ToDo(2)),
    "compose_merge": Compose(ToMe(0.3), KVMerge(0.5, proportional=True)),
    "compose_select": Compose(LGTM(0.5), KVSelect(2)),
}
every_compressor = pytest.mark.parametrize("name", COMPRESSORS)
both_models = pytest.mark.parametrize("kind", ["unet", "dit"])


@both_models
@every_compressor
def test_changes_the_output_and_restores_it(kind, name, request):
    golden = request.getfixturevalue(kind)
    plain = golden()
    with compress(golden.model, COMPRESSORS[name]):
        assert golden.hooks() > 0
        changed = golden()
    assert changed.isfinite().all() and (changed - plain).abs().max() > 1e-3
    assert golden.hooks() == 0
    assert torch.equal(golden(), plain)


@both_models
@every_compressor
def test_a_batch_is_its_samples(kind, name, request):
    golden = request.getfixturevalue(kind).double()
    with compress(golden.model, COMPRESSORS[name], blocks="all"):
        whole = golden()
        alone = torch.cat([golden(**golden.one(i)) for i in range(3)])
    assert_close(whole, alone, rtol=0, atol=1e-9)


# methods that refuse grids of some shapes
PARTICULAR = {"tome_windows", "todo_coarse", "todo_by_height"}


@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name not in PARTICULAR])
@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        ((16, 12), "default"),
        ((10, 10), "default"),
        ((15, 13), "default"),
        ((18, 10), [2]),
        ((15, 13), [2]),
    ],
    ids=str,
)
def test_latents_of_other_shapes(unet, name, size, blocks):
    golden = unet.double()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    inputs = {"sample": sample, "timestep": torch.tensor([25, 975])}
    inputs["encoder_hidden_states"] = golden.inputs["encoder_hidden_states"][:2]
    with compress(golden.model, COMPRESSORS[name], blocks=blocks) as attachment:
        plans = planned(attachment)
        out = golden(**inputs)
        alone = [golden(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(2)]
    factor = 1 if blocks == "default" else 2
    grid = TokenGrid(-(-size[0] // factor), -(-size[1] // factor))
    assert {made.grid for made in plans} == {grid}
    assert out.shape == sample.shape and out.isfinite().all()
    assert (out - golden(**inputs)).abs().max() > 1e-4
    assert_close(out, torch.cat(alone), rtol=0, atol=1e-9)


def test_proportional_attention_counts_a_slot_as_often_as_its_tokens(dit):
    """Attention to slots is attention to all tokens, each replaced by what its slot holds."""
    golden = dit.double()
    attention: Attention = golden.model.transformer_blocks[1].attn1
    given: list[dict[str, torch.Tensor]] = []
    with compress(golden.model, LGTM(0.5, proportional=True), blocks=[1]) as attachment:
        plans = planned(attachment)
        kept = attention.register_forward_pre_hook(
            lambda _, args, kwargs: given.append(kwargs | {"hidden_states": args[0]}),
            with_kwargs=True,
        )
        golden()
        kept.remove()
    ((made,), (call,)) = plans, given
    slots = made.plan.queries
    short, mask = call["hidden_states"], call["attention_mask"]
    assert short.shape[1] == slots.size < len(slots.slots[0])
    assert_close(mask, slots.counts.double().log().unsqueeze(1))
    with torch.no_grad():
        merged = slots.undo(attention(short, attention_mask=mask))
        full = attention(slots.undo(short))
        plain = slots.undo(attention(short))
    assert_close(merged, full, rtol=0, atol=1e-12)
    assert (plain - full).abs().max() > 1e-4


@both_models
@pytest.mark.parametrize("compressor", [ToMe(0.5), SiTo(0.5, noise_alpha=1e3)], ids=repr)
def test_draws_belong_to_samples(kind, compressor, request):
    """Neither batch, order nor companions change a sample's output; its key and t alone do."""
    golden = request.getfixturevalue(kind).double()
    keys = KeyedStream.of(0, "image", ["a", "b", "c"]).keys
    with compress(golden.model, compressor) as attachment:
        attachment.sample_keys = keys
        whole = golden()
        attachment.sample_keys = keys.flip(0)
        flipped = golden(**{k: v.flip(0) for k, v in golden.inputs.items()})
        assert_close(flipped.flip(0), whole, rtol=0, atol=1e-9)
        for i in range(3):
            attachment.sample_keys = keys[i : i + 1]
            assert_close(golden(**golden.one(i)), whole[i : i + 1], rtol=0, atol=1e-9)
        attachment.sample_keys = KeyedStream.of(0, "image", ["a", "b", "d"]).keys
        changed = (golden() - whole).abs().amax((1, 2, 3))
        assert (changed[:2] < 1e-9).all() and changed[2] > 1e-3


@both_models
@every_compressor
def test_any_attention_kernel(kind, name, request):
    golden = request.getfixturevalue(kind).double()
    modules = [m for m in golden.model.modules() if isinstance(m, Attention)]
    outs = []
    for processor in (AttnProcessor(), AttnProcessor2_0()):
        for module in modules:
            module.set_processor(processor)
        with compress(golden.model, COMPRESSORS[name]):
            outs.append(golden())
    assert_close(outs[0], outs[1], rtol=0, atol=1e-9)

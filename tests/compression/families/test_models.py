"""What holds for the denoisers of every family, on random models and inputs in float64."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compression.batch_groups import Groups
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
    ToMe,
)
from tests import tiny_families

BOTH = Compose(LGTM(0.5), IEKVD(2))
SHORT = [LGTM(0.5), ToDo(2), BOTH]
EVERY = [
    *SHORT,
    ToMe(0.5),
    ToMe(0.5, merge="mlerp"),
    SiTo(0.5),
    ABM(0.5),
    IEKVD(2, LinearAlpha()),
    KVSelect(2),
    KVSelect(ratio=0.5),
    KVMerge(0.5),
    ToDo(2, place="random"),
    IEKVD(2, place="cycle"),
    FrequencyFilter("low"),
    FrequencyFilter("high", domain="cells"),
    Cached(LGTM(0.5)),
    ToDo(2, queries="coarse"),
    ToDo(2, queries="coarse", pool="mean"),
]
every_family = pytest.mark.parametrize("family", tiny_families.FAMILIES)
transformers = pytest.mark.parametrize("family", ["pixart", "sd3", "flux"])
some_compressors = pytest.mark.parametrize("compressor", SHORT, ids=["lgtm", "todo", "both"])


@every_family
@pytest.mark.filterwarnings("ignore:.*leaves all tokens as they are")
def test_strength_zero_is_the_identity(family):
    tiny = tiny_families.Tiny(family)
    plain = tiny()
    for compressor in (LGTM(0.0), ToDo(1), Compose(LGTM(0.0), ToDo(1))):
        with compress(tiny.model, compressor, blocks="all"):
            assert torch.equal(tiny(), plain)


@pytest.mark.parametrize(
    ("family", "compressor"),
    [
        # their blocks are a U-Net's and a DiT's, which compressors/test_on_models.py tests
        *((family, compressor) for family in ("sdxl", "pixart") for compressor in SHORT),
        *((family, compressor) for family in ("sd3", "flux") for compressor in EVERY),
    ],
    ids=repr,
)
def test_every_compressor(family, compressor):
    """It changes the output, a batch is its samples one by one, and the model is restored."""
    tiny = tiny_families.Tiny(family)
    plain, before = tiny(), tiny_families.state(tiny.model)
    with compress(tiny.model, compressor, blocks="all") as handle:
        found = tiny()
        assert found.isfinite().all() and (found - plain).abs().max() > 1e-5
        for i in range(2):
            assert_close(tiny.model(**tiny.one(i)).sample, found[i : i + 1], rtol=0, atol=1e-5)
        with handle.paused():
            with handle.paused():
                assert torch.equal(tiny(), plain)
            assert torch.equal(tiny(), plain)
        assert torch.equal(tiny(), found)
    assert tiny_families.state(tiny.model) == before
    assert torch.equal(tiny(), plain)


@every_family
@some_compressors
def test_decisions_on_the_block_s_input(family, compressor):
    tiny, outputs = tiny_families.Tiny(family), {}
    for where in ("block_input", "attention_input", "default"):
        with compress(tiny.model, compressor, blocks="all", decide_on=where) as handle:
            outputs[where] = tiny()
            usual = handle.decide_on
    assert usual == ("block_input" if family == "sdxl" else "attention_input")
    same = torch.equal(outputs["block_input"], outputs["attention_input"])
    assert same == (not compressor.content_dependent)
    assert torch.equal(outputs["default"], outputs[usual])


@every_family
def test_an_error_leaves_the_model_as_it_was(family):
    class Broken(LGTM):
        def plan(self, *arguments, **named):
            raise ArithmeticError("inside a forward")

    tiny = tiny_families.Tiny(family)
    plain, before = tiny(), tiny_families.state(tiny.model)
    with pytest.raises(ArithmeticError), compress(tiny.model, Broken(0.5)):
        tiny()
    assert tiny_families.state(tiny.model) == before and torch.equal(tiny(), plain)


@pytest.mark.parametrize(
    ("family", "blocks", "sites"),
    [
        ("sdxl", [2, 4], ["self_attention", "cross_attention", "mlp"]),
        ("pixart", [0, 1, 2], ["cross_attention", "mlp"]),
        ("sd3", [0, 2], ["self_attention", "mlp"]),
        ("flux", [0, 1], ["mlp"]),
    ],
)
def test_other_sites(family, blocks, sites):
    tiny = tiny_families.Tiny(family)
    plain, half = tiny(), set()
    with compress(tiny.model, LGTM(0.5), blocks=blocks, sites=sites) as handle:
        for block in handle.blocks:
            for site in sites:
                for part in block.parts(site):
                    grid = tiny.architecture.grid(block.place, 16, 16)
                    # runs inside the part, on tokens that are shortened already
                    part.inside.register_forward_hook(
                        lambda module, args, output, want=grid.tokens // 2: half.add(
                            want in output.shape[1:3]
                        )
                    )
        assert (tiny() - plain).abs().max() > 1e-6
    assert half == {True}


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_joint_attention_is_no_cross_attention(family):
    with pytest.raises(ValueError, match="blocks have no cross_attention; remove it from sites"):
        compress(tiny_families.Tiny(family).model, LGTM(0.5), sites=["cross_attention"])


@transformers
def test_a_mask_over_tokens_is_refused(family):
    tiny = tiny_families.Tiny(family)
    mask = torch.ones(2, 64).double()
    given = {"joint_attention_kwargs": {"attention_mask": mask}}
    with (
        compress(tiny.model, LGTM(0.5), blocks="all"),
        pytest.raises(ValueError, match="attention_mask over its tokens"),
    ):
        tiny(**({"attention_mask": mask} if family == "pixart" else given))


@every_family
def test_threads_do_not_mix(family):
    tiny, found = tiny_families.Tiny(family), dict[int, Tensor]()
    with compress(tiny.model, BOTH, blocks="all") as handle:
        wanted = [tiny(**tiny.one(i)) for i in range(2)]
        meet, planner = threading.Barrier(2, timeout=20), handle.planner

        def together(*arguments: Any) -> Any:
            meet.wait()
            return planner(*arguments)

        def work(i: int) -> None:
            found[i] = tiny(**tiny.one(i))

        handle.planner = together
        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(found[i], wanted[i]) for i in range(2))


@every_family
def test_copies_are_independent_after_it(family):
    tiny = tiny_families.Tiny(family)
    with compress(tiny.model, BOTH, blocks="all"):
        tiny()
        with pytest.raises(RuntimeError, match="neither copied nor pickled"):
            copy.deepcopy(tiny.model)
    plain, twin = tiny(), pickle.loads(pickle.dumps(tiny.model))
    for parameter in tiny.model.parameters():
        parameter.detach().zero_()
    assert torch.equal(twin(**tiny.inputs).sample, plain)


@every_family
def test_training_and_checkpointing(family):
    """Gradients reach the projections of keys; checkpointed blocks are refused."""
    tiny = tiny_families.Tiny(family)
    with compress(tiny.model, BOTH, blocks="all"):
        tiny.model(**tiny.inputs).sample.square().mean().backward()
        grads = [p.grad for name, p in tiny.model.named_parameters() if "to_k.weight" in name]
        assert grads and all(g is not None and g.abs().max() > 0 for g in grads)
        tiny.model.enable_gradient_checkpointing()
        with pytest.raises(RuntimeError, match="gradient checkpointing is on"):
            tiny.model(**tiny.inputs)
        tiny()  # without gradients it does no harm


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_lora(family):
    tiny, compressor = tiny_families.Tiny(family), BOTH
    with compress(tiny.model, compressor, blocks="all"):
        without = tiny()
    torch.manual_seed(0)
    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    tiny.model.add_adapter(
        LoraConfig(r=2, lora_alpha=8, target_modules=layers, init_lora_weights=False)
    )
    tiny.model.double()
    with compress(tiny.model, compressor, blocks="all"):
        want = tiny()
        assert (want - without).abs().max() > 1e-4
    tiny.model.fuse_lora()
    with compress(tiny.model, compressor, blocks="all"):
        assert_close(tiny(), want, rtol=0, atol=1e-5)
    tiny.model.unfuse_lora()
    tiny.model.unload_lora()
    with compress(tiny.model, compressor, blocks="all"):
        assert_close(tiny(), without, rtol=0, atol=1e-5)


def test_lora_of_pixart():
    """diffusers gives it no add_adapter, but PEFT wraps it."""
    tiny = tiny_families.Tiny("pixart")
    with compress(tiny.model, BOTH, blocks="all"):
        without = tiny()
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k"], init_lora_weights=False)
    model, tiny.model = tiny.model, get_peft_model(tiny.model, config).double()
    with compress(model, BOTH, blocks="all"):
        want = tiny()
    assert (want - without).abs().max() > 1e-4
    with compress(tiny.model, BOTH, blocks="all"):
        assert torch.equal(tiny(), want)
    tiny.model = tiny.model.merge_and_unload()
    with compress(tiny.model, BOTH, blocks="all"):
        assert_close(tiny(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize(
    "compressor",
    [LGTM(0.5), KVMerge(0.5), ToDo(2, queries="coarse", pool="mean"), BOTH],
    ids=["lgtm", "kv_merge", "coarse", "both"],
)
def test_one_plan_for_several_classes(family, compressor):
    """Two classes of one noisy image are merged by the tokens of the first."""
    tiny = tiny_families.Tiny(family)
    first = {**tiny.one(0), "encoder_hidden_states": tiny.inputs["encoder_hidden_states"]}
    inputs = {
        name: value if len(value) != 1 else value.expand(2, *value.shape[1:])
        for name, value in first.items()
    }
    last = [tiny.architecture.blocks()[-1].place]
    with compress(tiny.model, compressor, blocks=last) as handle:
        want = tiny(**tiny.one(0))
        handle.groups = Groups.copies(1, 2, torch.device("cpu"))
        found = tiny(**inputs)
    assert_close(found[:1], want, rtol=0, atol=1e-5)
    assert (found[1] - found[0]).abs().max() > 1e-6


@every_family
def test_half_precision(family):
    tiny = tiny_families.Tiny(family)
    tiny.model.to(torch.bfloat16)
    inputs = tiny_families.inputs(tiny.model, 1)
    for compressor in SHORT:
        with compress(tiny.model, compressor, blocks="all"):
            found = tiny.model(**inputs).sample
        assert found.dtype == torch.bfloat16 and found.isfinite().all()

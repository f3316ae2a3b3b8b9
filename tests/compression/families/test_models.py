"""What holds for the denoisers of every family, on random models and inputs in float64."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
from peft import LoraConfig
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
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
from bigain.profiling.flops import count
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


class Tiny:
    """A model of random weights and inputs of two samples at different timesteps."""

    def __init__(self, family: str, **settings: Any) -> None:
        self.model = tiny_families.denoiser(family, **settings).double()
        self.architecture = architecture_of(self.model)
        torch.manual_seed(1)
        self.inputs = tiny_families.inputs(self.model, 2)
        time = self.architecture.arguments[1]
        self.inputs[time] = self.inputs[time] * torch.tensor([0.5, 1.5])

    @torch.no_grad()
    def __call__(self, **changes: Any) -> Tensor:
        result: Tensor = self.model(**{**self.inputs, **changes}).sample
        return result

    def one(self, index: int) -> dict[str, Any]:
        """The inputs of one sample."""

        def of(name: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {key: of(key, inner) for key, inner in value.items()}
            return value if name in ("img_ids", "txt_ids") else value[index : index + 1]

        return {name: of(name, value) for name, value in self.inputs.items()}


@every_family
@pytest.mark.filterwarnings("ignore:.*leaves all tokens as they are")
def test_strength_zero_is_the_identity(family):
    tiny = Tiny(family)
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
    tiny = Tiny(family)
    plain, before = tiny(), tiny_families.state(tiny.model)
    with compress(tiny.model, compressor, blocks="all"):
        found = tiny()
        assert found.isfinite().all() and (found - plain).abs().max() > 1e-5
        for i in range(2):
            assert_close(tiny.model(**tiny.one(i)).sample, found[i : i + 1], rtol=0, atol=1e-5)
    assert tiny_families.state(tiny.model) == before
    assert torch.equal(tiny(), plain)


@every_family
@some_compressors
def test_decisions_on_the_block_s_input(family, compressor):
    tiny, outputs = Tiny(family), {}
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

    tiny = Tiny(family)
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
    tiny = Tiny(family)
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
        compress(Tiny(family).model, LGTM(0.5), sites=["cross_attention"])


@transformers
@some_compressors
def test_replayed_outputs_are_refused(family, compressor):
    tiny = Tiny(family)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("transformer_blocks", "attn1"),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(tiny.model, config)
    with compress(tiny.model, compressor, blocks="all"):
        tiny()
        with pytest.raises(RuntimeError, match="self_attention returned an output that it did not"):
            tiny()


@transformers
def test_a_mask_over_tokens_is_refused(family):
    tiny = Tiny(family)
    mask = torch.ones(2, 64).double()
    given = {"joint_attention_kwargs": {"attention_mask": mask}}
    with (
        compress(tiny.model, LGTM(0.5), blocks="all"),
        pytest.raises(ValueError, match="attention_mask over its tokens"),
    ):
        tiny(**({"attention_mask": mask} if family == "pixart" else given))


@every_family
def test_threads_do_not_mix(family):
    tiny, found = Tiny(family), dict[int, Tensor]()
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
    tiny = Tiny(family)
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
    tiny = Tiny(family)
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
    tiny, compressor = Tiny(family), BOTH
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


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize(
    "compressor",
    [LGTM(0.5), KVMerge(0.5), ToDo(2, queries="coarse", pool="mean"), BOTH],
    ids=["lgtm", "kv_merge", "coarse", "both"],
)
def test_one_plan_for_several_classes(family, compressor):
    """Two classes of one noisy image are merged by the tokens of the first."""
    tiny = Tiny(family)
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


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_residuals_of_a_control_net(family):
    """They are added between blocks."""
    tiny = Tiny(family)
    one = torch.randn(2, 64, 16).double()
    given = {
        "sd3": {"block_controlnet_hidden_states": [one]},
        "flux": {"controlnet_block_samples": [one], "controlnet_single_block_samples": [one]},
    }[family]
    plain = tiny(**given)
    with compress(tiny.model, BOTH, blocks="all"):
        without, found = tiny(), tiny(**given)
    assert (found - without).abs().max() > 1e-3 and (found - plain).abs().max() > 1e-3


@every_family
def test_half_precision(family):
    tiny = Tiny(family)
    tiny.model.to(torch.bfloat16)
    inputs = tiny_families.inputs(tiny.model, 1)
    for compressor in SHORT:
        with compress(tiny.model, compressor, blocks="all"):
            found = tiny.model(**inputs).sample
        assert found.dtype == torch.bfloat16 and found.isfinite().all()


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


SMALL: dict[str, dict[str, Any]] = {
    "sd3": {"num_layers": 1},
    "flux": {"num_layers": 1, "num_single_layers": 1},
}


@pytest.mark.parametrize("family", SMALL)
def test_compiled(family, dynamo):
    """One graph where the shapes say how the tokens lie; of Flux, one for each block."""
    tiny = Tiny(family, **SMALL[family])
    with compress(tiny.model, BOTH, blocks="all"):
        want = tiny()
    if family == "flux":
        tiny.model.compile_repeated_blocks(backend="eager", fullgraph=True)
    else:
        tiny.model = torch.compile(tiny.model, backend="eager", fullgraph=True)
    with compress(tiny.model, BOTH, blocks="all"):
        assert_close(tiny(), want, rtol=0, atol=1e-6)
        with dynamo.config.patch(error_on_recompile=True):
            tiny()


@pytest.mark.filterwarnings("ignore:nothing was compressed")
def test_a_whole_flux_breaks_the_graph_to_read_its_grid(dynamo):
    """It is read anew: two images with as many tokens each, but other sides."""
    tiny = Tiny("flux", num_layers=0, num_single_layers=1)
    condition = tiny.inputs["encoder_hidden_states"]
    sizes = [
        tiny.architecture.inputs(
            torch.randn(2, 4, *size).double(), torch.full((2,), 300), condition
        )
        for size in ((8, 24), (24, 8))
    ]
    with compress(tiny.model, LGTM(0.5), blocks="all"):
        wants = [tiny(**one) for one in sizes]
    tiny.model = torch.compile(tiny.model, backend="eager")
    with compress(tiny.model, LGTM(0.5), blocks="all"):
        for one, want in zip(sizes, wants, strict=True):
            assert_close(tiny(**one), want, rtol=0, atol=1e-6)
    tiny.model = torch.compile(tiny.model._orig_mod, backend="eager", fullgraph=True)
    with (
        compress(tiny.model, LGTM(0.5), blocks="all"),
        pytest.raises(dynamo.exc.Unsupported, match="compile_repeated_blocks"),
    ):
        tiny()


# Adapters and profiles


@every_family
def test_the_adapter(family):
    tiny = Tiny(family)
    architecture = tiny.architecture
    call = architecture.read((), tiny.inputs)
    assert call.timestep.tolist() == pytest.approx([250, 750])
    assert architecture.size((), tiny.inputs) == architecture.latent_shape[1:] == (16, 16)
    assert len(architecture.null_condition()) == 1
    held = [(place, inner) for place, area in architecture.areas() for inner in area.modules()]
    for block in architecture.blocks():
        assert [place for place, inner in held if inner is block.module] == [block.place]
    (place,) = chosen = architecture.default_places()
    assert architecture.tokens(place) == 64
    assert any(places == chosen and "64 tokens" in w for w, places in architecture.groups(chosen))


@transformers
@pytest.mark.parametrize("size", [(17, 22), (22, 17)])
@pytest.mark.filterwarnings("ignore:.*leaves all tokens as they are")
def test_grids_are_the_model_s_own_at_any_size(family, size):
    """ToDo(1) changes nothing, but checks each grid against the block's tokens."""
    tiny = Tiny(family)
    if family == "flux":  # a pipeline packs only even sides
        size = tuple(side // 2 * 2 for side in size)
    latent, t = torch.randn(2, 4, *size).double(), torch.tensor([100, 200])
    inputs = tiny.architecture.inputs(latent, t, tiny.inputs["encoder_hidden_states"])
    want = tiny(**inputs)
    with compress(tiny.model, ToDo(1), blocks="all"):
        assert torch.equal(tiny(**inputs), want)
    with compress(tiny.model, LGTM(0.5), blocks="all"):
        assert not torch.equal(tiny(**inputs), want)


@transformers
def test_what_is_saved_is_counted(family):
    """By hand: projections of the image's tokens, and attention over those of both."""
    model = tiny_families.denoiser(family)
    blocks = architecture_of(model).default_places()
    plain, merged, coarse = (count(model, c) for c in (None, *SHORT[:2]))
    (place,) = blocks
    for flops in (plain, merged, coarse):
        assert sum(flops.breakdown.values()) == flops.total
        assert min(flops.breakdown.values()) >= 0
        changed = {key for key, n in flops.breakdown.items() if n != plain.breakdown.get(key, 0)}
        assert changed <= {(place, "self_attention"), (place, "matching")}
    n, c = 64, 24 if family == "pixart" else 16
    text = {"pixart": 0, "sd3": 77 + 256, "flux": 512}[family]

    def attention(queries: int, keys: int, words: int = text) -> int:
        return 2 * (2 * queries + 2 * keys) * c**2 + 4 * (queries + words) * (keys + words) * c

    def saved(queries: int, keys: int) -> int:
        less = attention(n, n) - attention(queries, keys)
        if family == "sd3":  # block 1 has a second attention of the image alone
            less += attention(n, n, 0) - attention(queries, keys, 0)
        return less

    assert place == 1
    assert merged.matching == 2 * (n - n // 4) * (n // 4) * c
    assert merged.total == plain.total - saved(n // 2, n // 2) + merged.matching
    assert coarse.total == plain.total - saved(n, n // 4)

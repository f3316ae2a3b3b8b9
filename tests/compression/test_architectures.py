"""The adapters of denoiser families: what each says of a model, and what a new one takes."""

from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from bigain import compress
from bigain.compression import Architecture, Block, architecture_of, find_denoiser, select_blocks
from bigain.compression.architectures import ADAPTERS
from bigain.compression.signature import Signature
from bigain.compressors import LGTM, ToDo, TokenGrid
from bigain.profiling.flops import UncountableError, count
from tests.planned import planned

both_models = pytest.mark.parametrize("kind", ["unet", "dit"])


@both_models
def test_random_inputs_run(kind, request):
    model = request.getfixturevalue(kind).model
    architecture = architecture_of(model)
    inputs = architecture.random_inputs(2)
    call = architecture.read((), inputs)
    assert call.latent.shape == (2, *architecture.latent_shape)
    assert call.timestep.tolist() == [500, 500] and len(call.condition) == 2
    with torch.no_grad():
        assert model(**inputs).sample.isfinite().all()
        null = architecture.inputs(
            call.latent[:1], call.timestep[:1], architecture.null_condition()
        )
        assert model(**null).sample.isfinite().all()


@both_models
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_inputs_are_of_the_models_device_and_type(kind, dtype, request):
    golden = request.getfixturevalue(kind).double()
    call = architecture_of(golden.model.to(dtype)).read((), golden.inputs)
    assert call.latent is golden.inputs["sample" if kind == "unet" else "hidden_states"]
    inputs = architecture_of(golden.model.to("meta")).random_inputs()
    assert all(value.is_meta for value in inputs.values())
    assert {v.dtype for v in inputs.values() if v.is_floating_point()} == {dtype}


@both_models
@pytest.mark.parametrize("given", range(4))
def test_a_call_is_read_by_name(kind, given, request):
    """However many of its arguments are given by position."""
    architecture = architecture_of(request.getfixturevalue(kind).model)
    values = dict(zip(architecture.arguments, "ltc", strict=True))
    args = tuple(values.pop(name) for name in architecture.arguments[:given])
    assert architecture.read(args, values) == ("l", "t", "c")


def test_a_call_without_a_latent_is_refused(unet):
    with (
        compress(unet.model, LGTM(0.5)),
        pytest.raises(TypeError, match=r"UNet2DConditionModel\.forward was called without sample"),
    ):
        unet.model(timestep=1, encoder_hidden_states=unet.inputs["encoder_hidden_states"])


@pytest.mark.parametrize(
    ("kind", "place", "size", "grid"),
    [
        ("unet", 1, (16, 16), (16, 16)),
        ("unet", 2, (15, 9), (8, 5)),
        ("unet", 4, (15, 9), (4, 3)),
        ("dit", 0, (32, 20), (16, 10)),
        ("dit", 3, (5, 4), (2, 2)),
    ],
)
def test_grids(kind, place, size, grid, request):
    architecture = architecture_of(request.getfixturevalue(kind).model)
    assert architecture.grid(place, *size) == TokenGrid(*grid)


def small_unet(**settings: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    usual: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
    }
    return UNet2DConditionModel(**{**usual, **settings}).eval()


REST = ("CrossAttnDownBlock2D",) * 2
ROUNDINGS: list[dict[str, Any]] = [
    {},
    {"downsample_padding": 0},
    {"downsample_padding": 2},
    {"conv_in_kernel": 4},
    {"down_block_types": ("ResnetDownsampleBlock2D", *REST)},
    {"down_block_types": ("AttnDownBlock2D", *REST)},
]


@pytest.mark.parametrize("settings", ROUNDINGS, ids=str)
@pytest.mark.parametrize("size", [(11, 9), (9, 13)])
@torch.no_grad()
def test_grids_are_the_unet_s_own_at_any_size(settings, size):
    """ToDo(1) changes nothing, but checks each grid against the block's tokens."""
    model = small_unet(**settings)
    inputs = (torch.randn(1, 4, *size), 10, torch.randn(1, 5, 8))
    want = model(*inputs).sample
    with pytest.warns(UserWarning, match="leaves all tokens"):
        handle = compress(model, ToDo(1), blocks="all")
    with handle:
        assert torch.allclose(model(*inputs).sample, want, atol=1e-5)


@pytest.mark.parametrize("patch", [2, 3])
@pytest.mark.parametrize("size", [(9, 9), (10, 11), (3, 8)])
@torch.no_grad()
def test_grids_are_the_dit_s_own_at_any_size(patch, size):
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        sample_size=12,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        in_channels=4,
        out_channels=8,
        patch_size=patch,
        num_embeds_ada_norm=10,
    ).eval()
    inputs = (torch.randn(1, 4, *size), torch.tensor([10]), torch.tensor([1]))
    want = model(*inputs).sample
    with pytest.warns(UserWarning, match="leaves all tokens"):
        handle = compress(model, ToDo(1), blocks="all")
    with handle:
        assert torch.allclose(model(*inputs).sample, want, atol=1e-5)


@torch.no_grad()
def test_a_grid_of_one_row_is_refused_for_what_it_is():
    model = small_unet()
    inputs = (torch.randn(1, 4, 1, 8), 10, torch.randn(1, 5, 8))
    model(*inputs)
    with (
        compress(model, LGTM(0.5)),
        pytest.raises(ValueError, match="a 1x8 token grid holds no 2x2 cell; lower the stride"),
    ):
        model(*inputs)


EXTRAS: list[dict[str, Any]] = [
    {"sample_size": (8, 12)},
    {"sample_size": [8, 12]},
    {"cross_attention_dim": (8, 8, 8)},
    {"num_class_embeds": 3},
    {"class_embed_type": "timestep"},
    {"class_embed_type": "identity"},
    {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 6},
    {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 6},
    {"encoder_hid_dim": 6, "encoder_hid_dim_type": "text_proj"},
    {"encoder_hid_dim": 6, "encoder_hid_dim_type": "text_image_proj"},
    {"encoder_hid_dim": 6, "encoder_hid_dim_type": "image_proj"},
    {"addition_embed_type": "text", "addition_embed_type_num_heads": 2},
    {"addition_embed_type": "text_image"},
    {"addition_embed_type": "image", "encoder_hid_dim": 6},
    {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
]


@pytest.mark.parametrize("settings", EXTRAS, ids=str)
@torch.no_grad()
def test_every_kind_of_unet_is_counted(settings):
    model = small_unet(**settings)
    inputs = architecture_of(model).random_inputs(2)
    assert model(**inputs).sample.isfinite().all()
    plain, less = count(model), count(model, LGTM(0.5))
    assert 0 < less.total < plain.total


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sample_size": None}, "no sample_size"),
        ({"addition_embed_type": "image_hint", "encoder_hid_dim": 6}, "image_hint in its config"),
        ({"cross_attention_dim": (8, 16, 8)}, "the model itself does not run"),
    ],
)
def test_a_unet_that_cannot_be_counted_is_to_blame_itself(settings, reason):
    model = small_unet(**settings)
    for compressor in (None, LGTM(0.5)):
        with pytest.raises(UncountableError, match=reason):
            count(model, compressor)


def test_tokens_and_groups(unet, dit):
    of_unet, of_dit = architecture_of(unet.model), architecture_of(dit.model)
    assert [of_unet.tokens(place) for place in (1, 2, 4)] == [256, 64, 16]
    assert of_unet.groups([1]) == [
        ("1/1 (256 tokens)", {1}),
        ("1/2 (64 tokens)", {2}),
        ("1/4 (16 tokens)", {4}),
    ]
    assert of_dit.tokens(0) == of_dit.tokens(3) == 256
    assert of_dit.groups([1, 2]) == [
        ("2 compressed blocks (256 tokens)", {1, 2}),
        ("2 other blocks (256 tokens)", {0, 3}),
    ]
    assert ("4 blocks (256 tokens)", {0, 1, 2, 3}) in of_dit.groups([])


@both_models
def test_areas_hold_every_block_once(kind, request):
    architecture = architecture_of(request.getfixturevalue(kind).model)
    held = [(place, inner) for place, area in architecture.areas() for inner in area.modules()]
    for block in architecture.blocks():
        assert [place for place, inner in held if inner is block.module] == [block.place]


class Strip(nn.Module):
    """A denoiser of rows of pixels, whose timestep comes before its latent."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            BasicTransformerBlock(8, num_attention_heads=2, attention_head_dim=4) for _ in range(3)
        )

    def forward(self, when: Tensor, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        x = pixels.flatten(2).mT
        for layer in self.layers:
            x = layer(hidden_states=x)
        return x.mT.view_as(pixels)


class StripAdapter(Architecture):
    denoiser = Strip
    component = "strip"
    arguments = ("pixels", "when", "label")
    places = "layers"

    def blocks(self) -> list[Block]:
        return [Block(i, layer) for i, layer in enumerate(self.model.layers)]

    def default_places(self) -> set[int]:
        return {0, 2}

    def tokens_along(self, place: int, side: int) -> int:
        return side

    def random_condition(self, count: int) -> Tensor:
        return torch.zeros(count)

    def null_condition(self) -> Tensor:
        return torch.zeros(1)

    def areas(self) -> Any:
        return ((block.place, block.module) for block in self.blocks())

    def groups(self, compressed: Any) -> list[tuple[str, set[int]]]:
        return [("layers", {0, 1, 2})]


@pytest.mark.parametrize("named", [False, True])
def test_a_new_family_takes_an_adapter_and_its_registration(named, monkeypatch):
    torch.manual_seed(0)
    model = Strip()
    with pytest.raises(TypeError, match="got Strip"):
        compress(model, LGTM(0.5))
    monkeypatch.setitem(ADAPTERS, Strip, StripAdapter)
    pixels, when = torch.randn(2, 8, 4, 6), torch.tensor([3, 4])

    @torch.no_grad()
    def run() -> Tensor:
        result: Tensor = model(pixels=pixels, when=when) if named else model(when, pixels)
        return result

    pipeline = type("Pipeline", (), {"strip": model})()
    assert find_denoiser(pipeline) is model
    assert [block.place for block in select_blocks(pipeline, "default")] == [0, 2]
    with pytest.raises(ValueError, match=r"this model's layers: \[0, 1, 2\]"):
        compress(model, LGTM(0.5), blocks=[3])
    plain = run()
    with compress(pipeline, LGTM(0.5)) as attachment:
        plans = planned(attachment)
        assert (run() - plain).abs().max() > 1e-3
    assert [(made.grid, made.t.tolist()) for made in plans] == [(TokenGrid(4, 6), [3, 4])] * 2
    assert torch.equal(run(), plain)


def test_a_subclass_is_of_its_parents_family(dit):
    class Finetuned(DiTTransformer2DModel):
        """Any change of a DiT that keeps its blocks."""

    with torch.device("meta"):
        model = Finetuned.from_config(dit.model.config)
    assert type(architecture_of(model)) is type(architecture_of(dit.model))
    assert count(model) == count(dit.model)


def test_a_signature_reads_and_replaces():
    class Taker(nn.Module):
        def forward(self, first, second=2, **rest):
            """Nothing."""

    signature = Signature(Taker())
    assert signature.read("first", (1,), {}) == 1 == signature.read("first", (), {"first": 1})
    assert signature.read("second", (1,), {}) == 2 != signature.read("second", (1, 3), {})
    assert signature.read("other", (1,), {}) is None
    assert signature.read("other", (1,), {"other": 4}) == 4
    with pytest.raises(TypeError, match=r"Taker\.forward was called without first"):
        signature.read("first", (), {})
    args, kwargs = (1, 2), {"other": 3}
    changed = signature.replace(args, kwargs, {"second": 5, "other": 6, "new": 7})
    assert changed == ((1, 5), {"other": 6, "new": 7})
    assert (args, kwargs) == ((1, 2), {"other": 3})
    assert signature.replace((), {"first": 1}, {"first": 8}) == ((), {"first": 8})

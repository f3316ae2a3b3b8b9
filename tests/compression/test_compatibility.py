"""compress() with what else users do to a pipeline; the table of it is docs/compatibility.md.

Every combination is compared with the plain model compressed by itself, and must leave the model
as it was. Models run in float64 where another order of operations may decide a tie.
"""

import copy
import io
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import (
    AuraFlowTransformer2DModel,
    DiTPipeline,
    HunyuanDiT2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import (
    AttnProcessor,
    PAGCFGIdentitySelfAttnProcessor2_0,
    SlicedAttnProcessor,
)
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compression.architectures import architecture_of
from bigain.compressors import ABM, IEKVD, LGTM, Cached, Compose, LinearAlpha, ToDo, ToMe
from tests import tiny_pipelines
from tests.planned import planned
from tests.tiny_families import state

COMPRESSORS = [LGTM(0.5), ToMe(0.5), Compose(LGTM(0.5), ToDo(2))]
both_models = pytest.mark.parametrize("kind", ["unet", "dit"])
both_pipelines = pytest.mark.parametrize("kind", ["stable_diffusion", "dit"])
some_compressors = pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading needs an accelerator")


@pytest.fixture
def own(request):
    """A float64 copy of a golden model, free to change, by its name."""
    return lambda kind: request.getfixturevalue(kind).double()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {
        "stable_diffusion": tiny_pipelines.stable_diffusion(root / "stable_diffusion"),
        "dit": tiny_pipelines.dit(root / "dit", num_layers=4),
    }


@pytest.fixture
def pipeline(folders):
    """A fresh pipeline by its name."""

    def load(kind: str, cls: Any = None) -> Any:
        cls = cls or {"stable_diffusion": StableDiffusionPipeline, "dit": DiTPipeline}[kind]
        pipe = cls.from_pretrained(folders[kind])
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def generate(pipe: Any, **options: Any) -> Tensor:
    """Two steps with guidance from a fixed seed."""
    options |= {"generator": torch.Generator().manual_seed(0), "num_inference_steps": 2}
    if isinstance(pipe, DiTPipeline):
        images = pipe([3, 5], guidance_scale=4.0, output_type="np", **options).images
        return torch.from_numpy(images)
    options = {"prompt": "a cat", "output_type": "latent", **options}
    return pipe(guidance_scale=7.5, **options).images


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def agrees(
    run: Callable[[], Tensor],
    model: Any,
    compressor: Any,
    want: Tensor,
    atol: float = 0.0,
    **where: Any,
) -> None:
    """``run`` is compressed to ``want`` inside the block, and afterwards what it was before."""
    before, plain = state(model), run()
    for _ in range(2):
        with compress(model, compressor, **where):
            got = run()
            assert_close(run(), got, rtol=0, atol=atol)
        assert_close(got, want, rtol=0, atol=atol)
        assert (got - plain).abs().max() > 1e-5
        assert state(model) == before
        assert_close(run(), plain, rtol=0, atol=atol)


def eager(golden: Any, compressor: Any, **where: Any) -> Tensor:
    with compress(golden.model, compressor, **where):
        return golden()


# Pipelines


@both_pipelines
@some_compressors
def test_a_pipeline(kind, compressor, pipeline):
    """Guidance, a batch, images per prompt: the pipeline's own loop around compressed forwards."""
    pipe = pipeline(kind)
    options = {} if kind == "dit" else {"prompt": ["a cat", "a dog"], "num_images_per_prompt": 2}
    plain = generate(pipe, **options)
    with compress(denoiser(pipe), compressor):
        want = generate(pipe, **options)
    assert len(want) == (2 if kind == "dit" else 4)
    assert (want - plain).abs().max() > 1e-4
    with compress(pipe, compressor):
        assert torch.equal(generate(pipe, **options), want)
    assert torch.equal(generate(pipe, **options), plain)


@both_pipelines
def test_both_halves_of_guidance_draw_the_same_numbers(kind, pipeline):
    pipe = pipeline(kind)
    with compress(pipe, ToMe(0.5)) as attachment:
        plans = planned(attachment)
        generate(pipe)
    keys = [made.rng.keys.tolist() for made in plans]
    assert {len(each) for each in keys} == {2 if kind == "stable_diffusion" else 4}
    assert all(len(set(each)) == 1 for each in keys)


def test_image_to_image(pipeline):
    pipe = pipeline("stable_diffusion", StableDiffusionImg2ImgPipeline)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"image": image, "strength": 1.0}
    with compress(pipe.unet, LGTM(0.5)):
        want = generate(pipe, **options)
    assert not torch.equal(generate(pipe, **options), want)
    with compress(pipe, LGTM(0.5)):
        assert torch.equal(generate(pipe, **options), want)


@both_pipelines
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pipe: pipe.enable_attention_slicing(1), id="attention_slicing"),
        pytest.param(lambda pipe: pipe.vae.enable_slicing(), id="vae_slicing"),
        pytest.param(lambda pipe: pipe.vae.enable_tiling(), id="vae_tiling"),
        pytest.param(
            lambda pipe: denoiser(pipe).to(memory_format=torch.channels_last), id="channels_last"
        ),
        pytest.param(
            lambda pipe: denoiser(pipe).set_attention_backend("native"), id="attention_backend"
        ),
        pytest.param(
            lambda pipe: accelerate.cpu_offload_with_hook(denoiser(pipe), "cpu"),
            id="model_offload",
        ),
        pytest.param(
            lambda pipe: accelerate.cpu_offload(denoiser(pipe), "cpu", offload_buffers=True),
            id="sequential_offload",
        ),
        pytest.param(
            lambda pipe: [
                add_hook_to_module(m, AlignDevicesHook("cpu")) for m in denoiser(pipe).modules()
            ],
            id="dispatched",
        ),
    ],
)
def test_changes_of_a_pipeline(kind, change, pipeline):
    """Before the block and inside it."""
    pipe = pipeline(kind)
    with compress(pipe, LGTM(0.5)):
        want = generate(pipe)
    inside = copy.deepcopy(pipe)
    change(pipe)
    agrees(lambda: generate(pipe), denoiser(pipe), LGTM(0.5), want, atol=2e-5)
    with compress(inside, LGTM(0.5)):
        change(inside)
        assert_close(generate(inside), want, rtol=0, atol=2e-5)
    assert_close(generate(inside), generate(pipe), rtol=0, atol=2e-5)  # after it
    agrees(lambda: generate(inside), denoiser(inside), LGTM(0.5), want, atol=2e-5)


@pytest.mark.gpu
@cuda
@both_pipelines
@pytest.mark.parametrize("method", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading(kind, method, pipeline):
    pipe = pipeline(kind)
    with compress(pipe.to("cuda"), ToMe(0.5)):
        want = generate(pipe).cpu()
    pipe = pipeline(kind)
    getattr(pipe, method)()
    with compress(pipe, ToMe(0.5)):
        assert_close(generate(pipe).cpu(), want, rtol=0, atol=1e-3)


def test_free_u(pipeline):
    pipe = pipeline("stable_diffusion")
    with compress(pipe, LGTM(0.5)):
        without = generate(pipe)
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
        want = generate(pipe)
    assert not torch.equal(without, want)
    agrees(lambda: generate(pipe), pipe.unet, LGTM(0.5), want)


# torch.compile


def compiled(model: Any, how: str, backend: str = "eager") -> Callable[..., Any]:
    """``model`` compiled in one of the ways there are."""
    if how == "wrapper":
        return torch.compile(model, backend=backend)
    if how == "in_place":
        model.compile(backend=backend)
    elif how == "forward":
        model.forward = torch.compile(model.forward, backend=backend)
    elif how == "repeated_blocks":
        model.compile_repeated_blocks(backend=backend)
    return model


@pytest.fixture
def shallow(own):
    """As ``own``, but a DiT of one block, which compiles sooner."""

    def load(kind: str) -> Any:
        golden = own(kind)
        if kind == "dit":
            golden.model.transformer_blocks = golden.model.transformer_blocks[:1]
        return golden

    return load


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("dit", "wrapper"),
        ("dit", "in_place"),
        ("dit", "forward"),
        ("unet", "repeated_blocks"),
    ],
)
def test_compiled_before(kind, how, shallow, dynamo):
    """No compressor takes what was compiled without it, or with another, and none stays."""
    golden = shallow(kind)
    where = {"blocks": [0] if kind == "dit" else [1]}
    plain = golden()
    several = [LGTM(0.5), LGTM(0.25), IEKVD(2, LinearAlpha())]
    wants = [eager(golden, compressor, **where) for compressor in several]
    golden.model = compiled(golden.model, how)
    assert_close(golden(), plain, rtol=0, atol=1e-12)
    for compressor, want in zip(several, wants, strict=True):
        assert (want - plain).abs().max() > 1e-4
        with compress(golden.model, compressor, **where) as handle:
            assert_close(golden(), want, rtol=0, atol=1e-12)
            with handle.paused():
                assert_close(golden(), plain, rtol=0, atol=1e-12)
            assert_close(golden(), want, rtol=0, atol=1e-12)
        assert_close(golden(), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", ["wrapper", "in_place"])
def test_compiled_inside(how, shallow, dynamo):
    golden = shallow("dit")
    plain, want = golden(), eager(golden, ToMe(0.5), blocks=[0])
    with compress(golden.model, ToMe(0.5), blocks=[0]):
        golden.model = compiled(golden.model, how)
        for _ in range(2):
            assert_close(golden(), want, rtol=0, atol=1e-12)
    assert_close(golden(), plain, rtol=0, atol=1e-12)


def test_compiled_whole_in_a_pipeline(pipeline, dynamo):
    """One graph and no recompilation from step to step."""
    pipe = pipeline("dit")
    with compress(pipe, LGTM(0.5)):
        want = generate(pipe)
    plain = generate(pipe)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager", fullgraph=True)
    with compress(pipe, LGTM(0.5)):
        assert_close(generate(pipe), want, rtol=0, atol=1e-5)
        with dynamo.config.patch(error_on_recompile=True):
            generate(pipe)
    assert_close(generate(pipe), plain, rtol=0, atol=1e-5)


def test_a_size_that_hangs_on_data_breaks_the_graph(shallow, dynamo):
    golden = shallow("dit")
    want = eager(golden, ABM(threshold=110.0), blocks=[0])
    golden.model = torch.compile(golden.model, backend="eager")
    with compress(golden.model, ABM(threshold=110.0), blocks=[0]):
        assert_close(golden(), want, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_inductor(shallow, dynamo):
    golden = shallow("dit")
    want = eager(golden, LGTM(0.5), blocks=[0])
    golden.model.transformer_blocks[0].compile()
    with compress(golden.model, LGTM(0.5), blocks=[0]):
        assert_close(golden(), want, rtol=0, atol=1e-5)  # its tanh is less exact


def test_compiled_ahead_of_time_is_refused(dit):
    class AOTCompiledModel:
        """Named as torch's."""

    wrapper = torch.compile(dit.model, backend="eager")
    wrapper.__dict__["forward"] = AOTCompiledModel()
    with pytest.raises(ValueError, match="compiled ahead of time"):
        compress(wrapper, LGTM(0.5))


# Attention processors and projections


@both_models
@some_compressors
@pytest.mark.parametrize("processor", [AttnProcessor, lambda: SlicedAttnProcessor(1)])
def test_attention_processors(kind, compressor, processor, own):
    golden = own(kind)
    want = eager(golden, compressor)
    for module in golden.model.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(processor())
    agrees(golden, golden.model, compressor, want, atol=1e-9)


def test_fused_projections(own):
    golden = own("unet")
    want = eager(golden, LGTM(0.5))
    with torch.no_grad():
        golden.model.fuse_qkv_projections()
    agrees(golden, golden.model, LGTM(0.5), want, atol=1e-9)
    for compressor in (ToDo(2), Compose(LGTM(0.5), ToDo(2))):
        with (
            compress(golden.model, compressor),
            pytest.raises(ValueError, match="unfuse_qkv_projections"),
        ):
            golden()
    golden.model.unfuse_qkv_projections()
    agrees(golden, golden.model, ToDo(2), eager(golden, ToDo(2)))


def test_a_processor_that_ignores_the_keys_is_refused(own):
    """Perturbed-attention guidance computes keys from the queries' tokens."""
    golden = own("unet")
    for name, module in golden.model.named_modules():
        if name.endswith("attn1"):
            module.set_processor(PAGCFGIdentitySelfAttnProcessor2_0())
    agrees(golden, golden.model, LGTM(0.5), eager(golden, LGTM(0.5)))
    with (
        compress(golden.model, ToDo(2)),
        pytest.raises(RuntimeError, match=r"ignores encoder_hidden_states .*ToDo"),
    ):
        golden()


@both_models
def test_lora(kind, own):
    golden = own(kind)
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, lora_alpha=8, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False
    )
    compressor = Compose(LGTM(0.5), ToDo(2))
    golden.model.requires_grad_(False)  # as an adapter leaves it: torch convolves otherwise then
    without = eager(golden, compressor)
    if kind == "unet":
        golden.model.add_adapter(config)
    else:  # this class has no adapters of its own
        inject_adapter_in_model(config, golden.model)
    golden.double()
    golden.model.double()
    want = eager(golden, compressor)
    assert (want - without).abs().max() > 1e-4
    agrees(golden, golden.model, compressor, want)
    if kind == "dit":
        return
    golden.model.disable_adapters()
    agrees(golden, golden.model, compressor, without)
    golden.model.enable_adapters()
    golden.model.fuse_lora()
    agrees(golden, golden.model, compressor, want, atol=1e-9)
    merging = LGTM(0.5)
    golden.model.unfuse_lora()
    want = eager(golden, merging)
    with compress(golden.model, merging):
        golden.model.fuse_lora()
        golden.model.unfuse_lora()
        assert_close(golden(), want, rtol=0, atol=1e-9)
    with compress(golden.model, compressor):
        golden.model.unload_lora()  # puts other projections in their place
        with pytest.raises(RuntimeError, match="such changes before the `with` block"):
            golden()
    agrees(golden, golden.model, compressor, without, atol=1e-9)


def test_ip_adapter_masks_lie_on_the_whole_grid(unet):
    masks = {"cross_attention_kwargs": {"ip_adapter_masks": [torch.ones(1, 1, 16, 16)]}}
    with compress(unet.model, LGTM(0.5)):
        want = unet()
        assert torch.equal(unet(**masks), want)  # the plain processor takes no notice
    with (
        compress(unet.model, LGTM(0.5), sites=["cross_attention"]),
        pytest.raises(ValueError, match="remove cross_attention from sites"),
    ):
        unet(**masks)


def test_a_mask_over_tokens_is_refused(unet):
    mask = torch.ones(3, 256)
    with (
        compress(unet.model, LGTM(0.5)),
        pytest.raises(ValueError, match="attention_mask over its tokens"),
    ):
        unet(attention_mask=mask)


def test_a_mask_over_text_is_kept(own):
    golden = own("unet")
    golden.inputs["encoder_attention_mask"] = torch.ones(
        3, golden.inputs["encoder_hidden_states"].shape[1]
    )
    golden.inputs["encoder_attention_mask"][:, 3:] = 0
    sites = ["self_attention", "cross_attention"]
    want = eager(golden, LGTM(0.5), sites=sites)
    agrees(golden, golden.model, LGTM(0.5), want, sites=sites)


def test_chunked_feed_forward(own):
    golden = own("unet")
    want = eager(golden, LGTM(0.5))
    for module in golden.model.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            module.set_chunk_feed_forward(16, 1)
    agrees(golden, golden.model, LGTM(0.5), want, atol=1e-9)
    with (
        compress(golden.model, LGTM(0.5), sites=["mlp"]),
        pytest.raises(ValueError, match="remove mlp from sites"),
    ):
        golden()


# Other inputs and kinds of U-Net


def test_control_net(own):
    """Its residuals are added between blocks."""
    golden = own("unet")
    shapes: list[torch.Size] = []
    for stage in [golden.model.conv_in, *golden.model.down_blocks]:
        stage.register_forward_hook(
            lambda module, args, output: shapes.extend(
                [output.shape] if isinstance(output, Tensor) else [x.shape for x in output[1]]
            )
        )
    golden.model.mid_block.register_forward_hook(lambda m, a, output: shapes.append(output.shape))
    without = eager(golden, LGTM(0.5))
    generator = torch.Generator().manual_seed(0)
    residuals = [torch.randn(s, generator=generator).double() for s in shapes]
    golden.inputs["down_block_additional_residuals"] = tuple(residuals[:-1])
    golden.inputs["mid_block_additional_residual"] = residuals[-1]
    want = eager(golden, LGTM(0.5))
    assert (want - without).abs().max() > 1e-3
    agrees(golden, golden.model, LGTM(0.5), want)


def small_unet(**settings: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        cross_attention_dim=8,
        **settings,
    ).eval()


def test_gligen():
    model = small_unet(attention_type="gated")
    for module in model.modules():
        if hasattr(module, "alpha_attn"):
            module.alpha_attn.data.fill_(1.0)
    boxes = {
        "boxes": torch.tensor([[[0.1, 0.1, 0.5, 0.5]]]),
        "positive_embeddings": torch.ones(1, 1, 8),
        "masks": torch.ones(1, 1),
    }

    @torch.no_grad()
    def run(**gligen):
        return model(
            torch.linspace(-1, 1, 256).view(1, 4, 8, 8).sin(),
            10,
            torch.ones(1, 3, 8),
            cross_attention_kwargs={"gligen": {**boxes, **gligen}},
        ).sample

    with compress(model, LGTM(0.5)):
        want = run()
        assert not torch.equal(run(masks=torch.zeros(1, 1)), want)
    agrees(run, model, LGTM(0.5), want)


def test_blocks_without_self_attention_are_refused():
    model = small_unet(only_cross_attention=True)
    with pytest.raises(ValueError, match="attend to the text alone"):
        compress(model, LGTM(0.5))


@pytest.mark.parametrize(
    "kind",
    [
        AuraFlowTransformer2DModel,
        HunyuanDiT2DModel,
        QwenImageTransformer2DModel,
        SanaTransformer2DModel,
    ],
)
def test_other_transformers_are_refused(kind):
    pipe = SimpleNamespace(transformer=kind.__new__(kind))
    message = rf"UNet2DConditionModel, .*FluxTransformer2DModel\) or .* with {kind.__name__}"
    with pytest.raises(TypeError, match=message):
        compress(pipe, LGTM(0.5))


# Precision and training


@both_pipelines
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(kind, dtype, pipeline):
    model = denoiser(pipeline(kind)).to(dtype)
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    condition = torch.ones(2, 3, 32, dtype=dtype) if kind != "dit" else None

    @torch.no_grad()
    def run():
        t = torch.tensor([10, 500])
        if condition is None:
            return model(latent, t, class_labels=torch.tensor([1, 2])).sample
        return model(latent, t, condition).sample

    for compressor in COMPRESSORS:
        with compress(model, compressor):
            want = run()
        assert want.dtype == dtype and want.isfinite().all()
        agrees(run, model, compressor, want)


def test_autocast_decides_in_full_precision(dit):
    seen = []
    with compress(dit.model, LGTM(0.5)) as attachment:
        planner = attachment.planner

        def watch(compressor, x, grid, t, rng, block):
            seen.append((x.float() @ x.float().mT).dtype)
            return planner(compressor, x, grid, t, rng, block)

        attachment.planner = watch
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert dit().isfinite().all()
    assert set(seen) == {torch.float32}


CHECKPOINTING = r"gradient checkpointing is on .* disable_gradient_checkpointing\(\), or .*no_grad"


def gradients(golden: Any, compressor: Any, **where: Any) -> dict[str, Tensor]:
    golden.model.zero_grad()
    with compress(golden.model, compressor, **where):
        golden.model(**golden.inputs).sample.square().mean().backward()
    return {n: p.grad.clone() for n, p in golden.model.named_parameters() if p.grad is not None}


@both_models
@pytest.mark.parametrize("compressor", [*COMPRESSORS, Cached(LGTM(0.5))], ids=repr)
def test_training(kind, compressor, own):
    """Gradients reach every parameter; with checkpointing, a forward that needs them is refused."""
    golden = own(kind)
    without = eager(golden, compressor)
    golden.model.train()
    for module in golden.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)  # a DiT drops labels in training
    want = gradients(golden, compressor)
    assert all(g.isfinite().all() for g in want.values())
    assert any("attn1.to_k" in n and g.abs().max() > 0 for n, g in want.items())
    golden.model.enable_gradient_checkpointing()
    with pytest.raises(RuntimeError, match=CHECKPOINTING):
        gradients(golden, compressor)
    golden.model.eval()  # diffusers checkpoints all the same
    with pytest.raises(RuntimeError, match=CHECKPOINTING):
        gradients(golden, compressor)
    agrees(golden, golden.model, compressor, without)  # no gradients are recorded


@both_models
def test_checkpointing_turned_on_and_off_inside(kind, own):
    """Every forward looks, and one that is refused leaves no trace."""
    golden = own(kind)
    with compress(golden.model, LGTM(0.5)):
        want = golden()
        for _ in range(2):
            golden.model.enable_gradient_checkpointing()
            with pytest.raises(RuntimeError, match=CHECKPOINTING):
                golden.model(**golden.inputs)
            assert torch.equal(golden(), want)
            golden.model.disable_gradient_checkpointing()
            assert_close(golden.model(**golden.inputs).sample, want, rtol=0, atol=1e-12)


@both_models
def test_a_checkpointed_forward_is_refused_before_any_block_runs(kind, own):
    """Also if its output would be thrown away; the next forward knows nothing of it."""
    golden = own(kind)
    ran = []
    for block in architecture_of(golden.model).blocks():
        block.module.register_forward_pre_hook(lambda *_: ran.append(1))
    with compress(golden.model, LGTM(0.5)):
        golden.model.enable_gradient_checkpointing()
        with pytest.raises(RuntimeError, match=CHECKPOINTING):
            golden.model(**golden.inputs)
        assert not ran
        golden.model.disable_gradient_checkpointing()
        found = golden.model(**golden.inputs).sample.detach()
    with compress(golden.model, LGTM(0.5)):
        assert torch.equal(golden.model(**golden.inputs).sample, found)


def test_checkpointing_of_one_stage(own):
    """It is refused where a stage holds a compressed block, and does no harm elsewhere."""
    golden = own("unet")
    want = gradients(golden, LGTM(0.5), blocks=[1])
    golden.model.enable_gradient_checkpointing()
    middle = set(golden.model.mid_block.modules())
    for module in golden.model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = module in middle
    assert_close(gradients(golden, LGTM(0.5), blocks=[1]), want, rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match=CHECKPOINTING):
        gradients(golden, LGTM(0.5), blocks=[4])


def test_a_block_that_the_backward_pass_runs_again_is_refused(own):
    """Whatever checkpoints a block, it is not compressed for a forward that is over."""
    golden = own("dit")
    block = golden.model.transformer_blocks[1]
    checkpoint = partial(torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)
    block.forward = checkpoint

    def loss() -> Tensor:
        return golden.model(**golden.inputs).sample.square().mean()

    with compress(golden.model, LGTM(0.5)):
        want = loss()
        loss()  # thrown away
        assert torch.equal(loss(), want)
        with pytest.raises(RuntimeError, match="outside its model"):
            loss().backward()
        assert torch.equal(loss(), want)
    with compress(golden.model, LGTM(0.5)):
        late = loss()
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        late.backward()  # without the compressor


# The model itself


@both_models
def test_copies_are_refused_inside(kind, request):
    golden = request.getfixturevalue(kind)
    with compress(golden.model, LGTM(0.5)):
        for how in (copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())):
            with pytest.raises(RuntimeError, match="neither copied nor pickled"):
                how(golden.model)
        weights = golden.model.state_dict()
    assert weights.keys() == golden.model.state_dict().keys()
    twin = pickle.loads(pickle.dumps(golden.model))  # after the block
    assert state(twin) == state(golden.model)


def test_moved_inside(own):
    golden = own("unet")
    plain = golden()
    with compress(golden.model, LGTM(0.5)):
        want = golden()
        golden.model.to("cpu", torch.float32).to(torch.float64)
        assert_close(golden(), want, rtol=0, atol=1e-4)
        single = {k: v.float() if v.is_floating_point() else v for k, v in golden.inputs.items()}
        golden.model.float()
        assert golden(**single).dtype == torch.float32
    golden.model.double()
    assert_close(golden(), plain, rtol=0, atol=1e-4)


@both_models
def test_around_the_model_is_refused(kind, request):
    """No block runs on what an earlier forward left."""
    golden = request.getfixturevalue(kind)
    with compress(golden.model, LGTM(0.5)), torch.no_grad():
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"call the model itself, not model\.forward"):
                golden.model.forward(**golden.inputs)
            golden()


def test_a_block_that_is_skipped_is_an_error(own):
    golden = own("dit")
    with compress(golden.model, LGTM(0.5), blocks=[1, 2]):
        golden()
        golden.model.transformer_blocks[1] = golden.model.transformer_blocks[0]
        with pytest.raises(RuntimeError, match="applied at 1 of 2 places"):
            golden()


def test_code_without_hooks_is_an_error(own):
    """Whatever makes a model run without its hooks, the forward does not pass for compressed."""
    golden = own("dit")
    with compress(golden.model, LGTM(0.5)):
        block = golden.model.transformer_blocks[1]
        block._compiled_call_impl = type(block).forward.__get__(block)  # as if compiled
        block.attn1._compiled_call_impl = type(block.attn1).forward.__get__(block.attn1)
        with pytest.raises(RuntimeError, match=r"applied at 0 of 1 places: .*compiled before"):
            golden()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed")
def test_distributed_data_parallel(own, tmp_path):
    golden = own("dit")
    want = eager(golden, LGTM(0.5))
    model = golden.model
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        golden.model = torch.nn.parallel.DistributedDataParallel(model)
        with compress(golden.model, LGTM(0.5)):
            assert torch.equal(golden(), want)
    finally:
        torch.distributed.destroy_process_group()


def test_data_parallel_is_refused(own):
    golden = own("dit")
    with pytest.raises(TypeError, match="got DataParallel"):
        compress(torch.nn.DataParallel(golden.model), LGTM(0.5))
    with compress(golden.model, LGTM(0.5)):
        replica = golden.model._replicate_for_data_parallel()
        with pytest.raises(RuntimeError, match="use DistributedDataParallel"):
            replica(**golden.inputs)


def test_peft_model(own):
    golden = own("dit")
    config = LoraConfig(target_modules=["to_q", "to_k"], init_lora_weights=False)
    model, golden.model = golden.model, get_peft_model(golden.model, config).double()
    with compress(model, LGTM(0.5)):
        want = golden()
    agrees(golden, golden.model, LGTM(0.5), want)

"""The DiT backbone: against diffusers' pipeline, in float32, and damaged folders refused."""

import json
import shutil
from unittest.mock import Mock

import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline
from diffusers.pipelines.dit import pipeline_dit
from safetensors.torch import load_file, save_file

from bigain.backbones import DiT
from bigain.errors import BiGainError
from bigain.tasks.generate import Generate, generate
from bigain.utils.randomness import KeyedStream
from tests.tiny_pipelines import dit

CPU = torch.device("cpu")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path, save_dit):
    shape = {"num_layers": 1, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 3}
    return save_dit(tmp_path, "linear", out_channels=2, **shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_leaves_the_schedule_alone(folder, dtype):
    backbone = DiT(str(folder)).load(CPU, dtype)
    betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    want = (1 - betas).cumprod(0)
    assert backbone.schedule.alphas_cumprod.dtype == torch.float32
    torch.testing.assert_close(backbone.schedule.alphas_cumprod.double(), want, rtol=1e-5, atol=0)
    noise = backbone.predict(torch.zeros(2, 1, 8, 8), torch.tensor([25, 975]), torch.ones(2).long())
    assert noise.dtype == torch.float32 and noise.shape == (2, 1, 8, 8)


def test_the_skeleton_has_the_model_s_shapes_and_no_data(folder):
    skeleton = DiT(str(folder)).skeleton()
    loaded = DiT(str(folder)).load(CPU, torch.float32).denoiser
    assert all(p.is_meta for p in skeleton.parameters())
    assert [p.shape for p in skeleton.parameters()] == [p.shape for p in loaded.parameters()]


def test_missing_tensors_are_refused(folder):
    weights = load_file(folder / WEIGHTS)
    weights.pop("proj_out_2.weight")
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(BiGainError, match=r"proj_out_2\.weight"):
        DiT(str(folder)).load(CPU, torch.float32)


def test_another_shape_is_refused(folder):
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 2}))
    with pytest.raises(BiGainError, match="transformer"):
        DiT(str(folder)).load(CPU, torch.float32)


@pytest.mark.parametrize("file", ["transformer/config.json", "scheduler/scheduler_config.json"])
def test_a_damaged_config_is_named(folder, file):
    (folder / file).write_text("{")
    with pytest.raises(BiGainError, match="damaged"):
        DiT(str(folder)).identity()


def test_images_of_another_size_are_refused(folder):
    backbone = DiT(str(folder)).load(CPU, torch.float32)
    with pytest.raises(BiGainError, match="choose a data set of that size"):
        backbone.encode(torch.zeros(1, 1, 16, 16))


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return dit(tmp_path_factory.mktemp("dit"))


def test_latents_are_the_autoencoder_s(latent):
    backbone = DiT(str(latent)).load(CPU, torch.bfloat16)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    vae = AutoencoderKL.from_pretrained(latent / "vae")
    with torch.no_grad():
        want = vae.encode(images).latent_dist.mean * 0.18215
    torch.testing.assert_close(backbone.encode(images), want)
    assert backbone.latent_shape == (4, 8, 8)
    assert set(backbone.identity()) == {"transformer", "vae", "scheduler"}
    with pytest.raises(BiGainError, match=r"set model\.image_size=16"):
        backbone.encode(torch.zeros(1, 1, 32, 32))


def test_generation_is_the_pipeline_s(latent, monkeypatch):
    backbone = DiT(str(latent)).load(CPU, torch.float32)
    decode = Mock(wraps=backbone.decode)
    monkeypatch.setattr(backbone, "decode", decode)
    ids = ["000000", "000001"]
    generate(backbone, Generate("ddim", 6, 4.0), torch.tensor([207, 360]), ids, seed=3)

    x = KeyedStream.of(3, "latent", ids, CPU).normal(4, 8, 8)
    monkeypatch.setattr(pipeline_dit, "randn_tensor", lambda *_, **__: x)
    pipe = DiTPipeline.from_pretrained(latent)
    pipe.set_progress_bar_config(disable=True)
    want = pipe([207, 360], guidance_scale=4.0, num_inference_steps=6, output_type="pt").images
    (latents,) = decode.call_args.args
    found = (backbone.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert latents.std() > 0.1 and want.std() > 0.01
    torch.testing.assert_close(found, want, rtol=0, atol=1e-4)


def test_the_first_published_config_loads(latent, tmp_path):
    """DiT-XL/2 was saved under an older class with keys of its own."""
    copy = shutil.copytree(latent, tmp_path / "copy")
    path = copy / "transformer" / "config.json"
    older = {"_class_name": "Transformer2DModel", "use_linear_projection": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | older))
    backbone = DiT(str(copy)).load(CPU, torch.float32)
    assert backbone.skeleton().config.num_layers == len(backbone.denoiser.transformer_blocks) == 2


def test_components_of_different_models_are_refused(latent, tmp_path):
    other = dit(tmp_path, in_channels=3, out_channels=6, num_layers=1)
    with pytest.raises(BiGainError, match=r"vae gives latents of 4 channels, but .* takes 3"):
        DiT(str(other)).load(CPU, torch.float32)

"""The DiT backbone: schedule and errors in float32, and damaged folders refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bigain.backbones import DiT
from bigain.errors import BiGainError

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
    assert backbone.alphas_cumprod.dtype == torch.float32
    torch.testing.assert_close(backbone.alphas_cumprod.double(), want, rtol=1e-5, atol=0)
    noise = backbone.predict_noise(
        torch.zeros(2, 1, 8, 8), torch.tensor([25, 975]), torch.ones(2).long()
    )
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

"""The text-to-image model that ships: Stable Diffusion's code loads it, prompts steer it."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bigain.backbones import StableDiffusion
from bigain.compression import select_blocks
from bigain.datasets import FashionMNIST

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "assets" / "sd_fashion"


@pytest.fixture(scope="module")
def backbone():
    cfg = OmegaConf.load(REPOSITORY / "configs" / "model" / "sd_fashion.yaml")
    loader = instantiate({"_target_": cfg._target_, "path": str(FOLDER)})
    assert type(loader) is StableDiffusion
    return loader.load(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def data():
    return FashionMNIST(str(REPOSITORY / "assets" / "fashion_mnist"))


@pytest.fixture(scope="module")
def latents(backbone, data):
    """Of 100 test images."""
    return backbone.encode(torch.stack([data[i].image for i in range(100)]))


def test_it_is_small():
    """At most 40 MB, which a clone can bear."""
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 40e6


def test_the_highest_resolution_has_256_tokens(backbone):
    assert backbone.latent_shape == (4, 16, 16)
    highest = select_blocks(backbone.denoiser, "default")
    assert {block.place for block in highest} == {1} and len(highest) == 3


def test_latents_have_unit_deviation_and_keep_the_image(backbone, data, latents):
    assert latents.mean().abs() < 0.1 and 0.9 < latents.std() < 1.1
    images = torch.stack([data[i].image for i in range(10)])
    error = (backbone.decode(latents[:10]) - images).square().mean()
    assert 10 * (4 / error).log10() > 35


@torch.no_grad()
def test_the_right_prompt_explains_noise_best(backbone, data, latents):
    """Over four noises per image, as a classifier sums them, against the next class's prompt."""
    prompts = backbone.condition(data)
    labels = torch.tensor([data.labels(i)[0] for i in range(len(latents))])
    g = torch.Generator().manual_seed(0)
    right, wrong = torch.zeros(2, len(latents))
    for time in (200, 400, 600, 800):
        noise = torch.randn(latents.shape, generator=g)
        t = torch.full((len(latents),), time)
        a = backbone.schedule.alphas_cumprod[time]
        x = a.sqrt() * latents + (1 - a).sqrt() * noise
        for total, y in ((right, labels), (wrong, (labels + 1) % 10)):
            total += (backbone.predict(x, t, prompts[y]) - noise).square().mean((1, 2, 3))
    assert (right < wrong).float().mean() > 0.85


def test_diffusers_own_pipeline_draws_with_it():
    pipe = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a photo of a bag.", num_inference_steps=2, guidance_scale=2.0).images
    assert image.size == (32, 32)


def test_any_text_is_a_prompt(backbone):
    rows = backbone.texts.embed(["a photo of a bag.", "crème brûlée 猫", "", "bag " * 99])
    assert rows.shape == (4, 32, 64) and rows.isfinite().all()

"""The joint transformer that ships: Stable Diffusion 3's code loads it, prompts steer it."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from hydra.utils import instantiate
from omegaconf import OmegaConf

import bigain
from bigain.backbones import StableDiffusion3
from bigain.datasets import FashionMNIST

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "assets" / "sd3_fashion"


@pytest.fixture(scope="module")
def backbone():
    cfg = OmegaConf.load(REPOSITORY / "configs" / "model" / "sd3_fashion.yaml")
    loader = instantiate(
        {"_target_": cfg._target_, "path": str(FOLDER), "text_length": cfg.text_length}
    )
    assert type(loader) is StableDiffusion3
    return loader.load(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def data():
    return FashionMNIST(str(REPOSITORY / "assets" / "fashion_mnist"))


def test_it_is_small():
    """At most 15 MB, which a clone can bear."""
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 15e6


def test_text_and_256_tokens_attend_to_each_other(backbone):
    assert backbone.latent_shape == (4, 16, 16)
    with bigain.compress(backbone.denoiser, bigain.ToMe(0.5), blocks="all") as handle:
        assert len(handle.blocks) == 6
        assert all(b.parts("self_attention")[0].joint for b in handle.blocks)
        handle.used = True  # nothing is drawn here


@torch.no_grad()
def test_the_right_prompt_explains_velocities_best(backbone, data):
    """Over four noises per image, as a classifier sums them, against the next class's prompt."""
    latents = backbone.encode(torch.stack([data[i].image for i in range(60)]))
    prompts = backbone.condition(data)
    labels = torch.tensor([data.labels(i)[0] for i in range(len(latents))])
    g = torch.Generator().manual_seed(0)
    right, wrong = torch.zeros(2, len(latents))
    schedule = backbone.schedule
    for place in (200, 400, 600, 800):
        noise = torch.randn(latents.shape, generator=g)
        t = schedule.timesteps([place] * len(latents))
        x, target = schedule.noised(latents, noise, t), schedule.target(latents, noise)
        for total, y in ((right, labels), (wrong, (labels + 1) % 10)):
            total += (backbone.predict(x, t, prompts[y]) - target).square().mean((1, 2, 3))
    assert (right < wrong).float().mean() > 0.85


def test_diffusers_own_pipeline_draws_with_it():
    chosen = {"text_encoder_3": None, "tokenizer_3": None, "torch_dtype": torch.float32}
    pipe = StableDiffusion3Pipeline.from_pretrained(FOLDER, local_files_only=True, **chosen)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "max_sequence_length": 16, "guidance_scale": 2.0}
    (image,) = pipe("a photo of a bag.", height=32, width=32, **settings).images
    assert image.size == (32, 32)


def test_any_text_is_a_prompt(backbone):
    rows = backbone.texts.embed(["a photo of a bag.", "crème brûlée 猫", "", "bag " * 99])
    assert len(rows) == 4 and rows.isfinite().all()

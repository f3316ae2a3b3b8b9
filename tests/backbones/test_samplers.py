"""Every sampler against a denoiser that knows the answer."""

from typing import ClassVar

import pytest
import torch

from bigain.backbones import SAMPLERS, SPACINGS, build_sampler
from bigain.errors import BiGainError
from bigain.tasks.generate import Generate, generate

ONE_PIXEL = 1 / 127.5


class Oracle:
    """Predicts the noise that leads to its class's image, whatever the timestep."""

    latent_shape = (1, 4, 4)
    noise_schedule: ClassVar = {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "clip_sample": False,
        "variance_type": "learned_range",  # as DiT-XL/2's
        "timestep_spacing": "leading",
    }

    def __init__(self) -> None:
        betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
        self.alphas_cumprod = (1 - betas).cumprod(0).float()
        draws = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.images = (draws - 0.5) / 2  # of classes 0, 1, 2 and of no class
        self.seen: list[tuple[list, list]] = []

    def predict_noise(self, x, t, condition):
        self.seen.append((t.tolist(), condition.tolist()))
        between = t.double()
        low, part = between.floor().long(), (between - between.floor()).view(-1, 1, 1, 1)
        logs = self.alphas_cumprod.log()
        a = torch.lerp(logs[low], logs[(low + 1).clamp(max=999)], part.flatten().float()).exp()
        a = a.view(-1, 1, 1, 1)
        return (x - a.sqrt() * self.images[condition]) / (1 - a).sqrt()

    def unconditional(self):
        return torch.tensor([3])

    def decode(self, latents):
        return latents


def pixels(images):
    return torch.stack([torch.from_numpy(image)[:, :, 0] for image in images]).float() / 127.5 - 1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", [None, *SPACINGS])
def test_every_sampler_arrives_at_the_class(sampler, spacing):
    oracle = Oracle()
    protocol = Generate(sampler, steps=20, guidance=1, spacing=spacing)
    images, evaluations = generate(oracle, protocol, torch.tensor([0, 1, 2]), list("abc"), 0)
    found = pixels(images)
    # Euler's steps between timesteps interpolate noise levels in another way than the oracle
    assert (found - oracle.images[:3, 0]).abs().max() < 2 * ONE_PIXEL
    assert evaluations == len(oracle.seen) == 20


@pytest.mark.parametrize("guidance", [0, 0.5, 1, 1.75])
def test_guidance_extrapolates_from_no_class(guidance):
    """Noise is linear in the image here, so the image is guided by the same formula."""
    oracle = Oracle()
    protocol = Generate("ddim", steps=10, guidance=guidance)
    images, evaluations = generate(oracle, protocol, torch.tensor([0, 2]), list("ab"), 0)
    without, with_class = oracle.images[3], oracle.images[[0, 2]]
    want = without + guidance * (with_class - without)
    assert (pixels(images) - want[:, 0]).abs().max() < ONE_PIXEL
    assert evaluations == (10 if guidance == 1 else 20)
    assert {tuple(c) for _, c in oracle.seen} == {(0, 2) if guidance == 1 else (0, 2, 3, 3)}


def test_steps_are_those_asked_for():
    oracle = Oracle()
    generate(oracle, Generate("ddim", steps=5, guidance=1), torch.tensor([0]), ["a"], 0)
    assert [t for (t,), _ in oracle.seen] == [800, 600, 400, 200, 0]
    trailing = build_sampler("ddim", Oracle.noise_schedule, 5, "trailing", "cpu")
    assert trailing.timesteps.tolist() == [999, 799, 599, 399, 199]


def test_ddpm_ends_without_noise_and_differs_by_image():
    """Its noise is each image's own."""
    schedule = {**Oracle.noise_schedule, "clip_sample": False}
    sampler = build_sampler("ddpm", schedule, 1000, None, "cpu")
    assert sampler.config.variance_type == "fixed_small"
    x = torch.zeros(2, 1, 4, 4)
    draws = [torch.Generator().manual_seed(i) for i in (1, 2)]
    noisy = sampler.step(x, sampler.timesteps[500], x, generator=draws).prev_sample
    assert (noisy[0] - noisy[1]).abs().max() > 1e-3
    last = sampler.step(x, sampler.timesteps[-1], x, generator=draws).prev_sample
    assert torch.equal(last[0], last[1])


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(BiGainError, match="more than the model's 1000"):
        build_sampler("ddim", Oracle.noise_schedule, 1001, None, "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "dim"}, "ddim, ddpm, euler"),
        ({"steps": 0}, "whole number from 1"),
        ({"steps": 2.5}, "whole number from 1"),
        ({"guidance": -1}, "at least 0"),
        ({"guidance": "high"}, "at least 0"),
        ({"spacing": "even"}, "leading, linspace, trailing"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Generate(**settings)

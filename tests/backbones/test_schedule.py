"""Schedules in float32, and noise recovered from v-predictions."""

import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from bigain.backbones import SAMPLERS, build_sampler
from bigain.backbones.checkpoint import Checkpoint
from bigain.backbones.schedule import NoiseSchedule
from bigain.backbones.scheduler_config import FILE
from bigain.errors import BiGainError

CPU = torch.device("cpu")
SD = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@pytest.fixture
def load(tmp_path):
    def loaded(latent=True, **changes):
        return read(tmp_path, {**SD, **changes}, latent)

    return loaded


def read(folder, config, latent=True):
    path = folder / "scheduler" / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config))
    return NoiseSchedule.load(Checkpoint(str(folder), ("scheduler",)), CPU, latent=latent)


def test_stable_diffusion_s_betas(load):
    found = load().alphas_cumprod
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), (1 - betas).cumprod(0), rtol=2e-5, atol=0)


@pytest.mark.parametrize("t", [[1, 500, 999], [0.25, 500.5, 998.75]])
def test_noise_is_recovered_from_v(load, t):
    schedule = load(prediction_type="v_prediction")
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor(t)
    a = schedule.at(times).view(-1, 1, 1, 1)
    x = a.sqrt() * x0 + (1 - a).sqrt() * noise
    v = a.sqrt() * noise - (1 - a).sqrt() * x0
    torch.testing.assert_close(schedule.noise(v, x, times), noise, rtol=0, atol=2e-6)
    half = schedule.noise(v.bfloat16(), x, times)
    assert half.dtype == torch.float32 and (half - noise).abs().max() < 0.02


def test_noise_predictions_are_left_alone(load):
    output = torch.randn(2, 4, 8, 8)
    assert torch.equal(load().noise(output, torch.zeros(2, 4, 8, 8), torch.tensor([1, 2])), output)


def test_between_timesteps_as_in_euler_s_steps(load):
    schedule = load()
    euler = EulerDiscreteScheduler.from_config(SD, timestep_spacing="linspace")
    euler.set_timesteps(7)
    sigma = euler.sigmas[:-1]
    assert (euler.timesteps % 1).any()
    torch.testing.assert_close(schedule.at(euler.timesteps), 1 / (1 + sigma**2))
    whole = torch.tensor([0.0, 25, 999])
    assert torch.equal(schedule.at(whole), schedule.alphas_cumprod[whole.long()])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_take_noise_and_never_clip_latents(load, sampler):
    config = load(prediction_type="v_prediction").config
    found = build_sampler(sampler, config, 10, None, CPU).config
    assert found.prediction_type == "epsilon"
    assert not found.get("clip_sample")
    assert found.beta_schedule == "scaled_linear"
    if sampler == "ddim":
        assert (found.set_alpha_to_one, found.steps_offset) == (False, 1)
    assert load(latent=False, clip_sample=True).config["clip_sample"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "sample"}, "epsilon or v_prediction, got sample"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"beta_schedule": "unheard"}, "cannot be used"),
    ],
)
def test_schedules_that_cannot_be_used(load, changes, message):
    with pytest.raises(BiGainError, match=message):
        load(**changes)


@pytest.mark.parametrize("length", [0, "many", 10.5, None, True])
def test_a_length_that_cannot_be(length):
    with pytest.raises(BiGainError, match=f"whole number from 1, got {length!r}"):
        build_sampler("ddim", {**SD, "num_train_timesteps": length}, 5, None, CPU)


def test_a_schedule_without_betas(tmp_path):
    with pytest.raises(BiGainError, match="no beta_schedule"):
        read(tmp_path, {"shift": 3.0})

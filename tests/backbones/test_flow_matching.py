"""Noise levels, errors and samplers of models that predict velocities."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from bigain.backbones.checkpoint import Checkpoint
from bigain.backbones.flow_matching import FlowMatching
from bigain.backbones.samplers import build_sampler, check_sampler
from bigain.backbones.scheduler_config import FILE
from bigain.errors import BiGainError, NotFiniteError
from bigain.tasks.classify import Classify
from bigain.tasks.generate import Generate, generate
from bigain.tasks.trials import LOSSES, denoising_errors

CPU = torch.device("cpu")
SD3 = {"num_train_timesteps": 1000, "shift": 3.0}
FLUX = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
DDPM = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}


@pytest.fixture
def load(tmp_path):
    def loaded(config, tokens=1024):
        path = tmp_path / "scheduler" / FILE
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(config))
        checkpoint = Checkpoint(str(tmp_path), ("scheduler",))
        return FlowMatching.load(checkpoint, CPU, tokens=tokens)

    return loaded


def test_the_levels_are_the_scheduler_s(load):
    schedule = load(SD3)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SD3)
    assert len(schedule) == 1000
    assert torch.equal(schedule.sigmas, scheduler.sigmas.flip(0))
    assert torch.equal(schedule.timesteps(range(1000)), scheduler.timesteps.flip(0))
    # a quarter of the way up the grid, the shift by 3 leaves half of the noise
    assert float(schedule.sigmas[249]) == pytest.approx(3 * 0.25 / (1 + 2 * 0.25))


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_levels_follow_the_resolution(load, tokens, kind):
    """As diffusers' pipeline of Flux shifts them."""
    config = {**FLUX, "time_shift_type": kind}
    schedule = load(config, tokens)
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(sigmas=(torch.arange(1000, 0, -1) / 1000).tolist(), mu=mu)
    torch.testing.assert_close(schedule.sigmas, scheduler.sigmas[:-1].flip(0))
    sampler = schedule.sampler("flow_euler", 7, "trailing", CPU)
    scheduler.set_timesteps(sigmas=[1 - i / 7 for i in range(7)], mu=mu)
    torch.testing.assert_close(sampler.timesteps, scheduler.timesteps)


def test_without_a_spacing_steps_are_the_scheduler_s_own(load):
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SD3)
    scheduler.set_timesteps(28)
    sampler = load(SD3).sampler("flow_euler", 28, None, CPU)
    assert torch.equal(sampler.timesteps, scheduler.timesteps)
    assert torch.equal(sampler.sigmas, scheduler.sigmas)


def test_latents_are_noised_as_by_the_scheduler(load):
    schedule = load(SD3)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SD3)
    clean, noise = torch.randn(2, 3, 4, 8, 8)
    t = schedule.timesteps([0, 250, 999])
    torch.testing.assert_close(
        schedule.noised(clean, noise, t), scheduler.scale_noise(clean, t, noise)
    )
    assert torch.equal(schedule.noised(clean, noise, t)[2], noise[2])
    # and the target is what leads from one to the other
    later = schedule.noised(clean, noise, t) + (1000 - t).view(-1, 1, 1, 1) / 1000 * (
        schedule.target(clean, noise)
    )
    torch.testing.assert_close(later, noise)


class Wrong:
    """Predicts the velocity, plus its class."""

    latent_shape = (1, 4, 4)

    def __init__(self, schedule, clean, noise=0.0):
        self.schedule, self.clean, self.noise = schedule, clean, noise
        self.times = []

    def predict(self, x, t, condition):
        self.times.append(t.tolist())
        sigma = (t / 1000).view(-1, 1, 1, 1)
        return (x - self.clean) / sigma + condition.view(-1, 1, 1, 1)

    def batch(self, classes, groups, keys, together):
        return classes

    def decode(self, latents):
        return latents


@pytest.mark.parametrize(("loss", "want"), [("l2", 4.0), ("l1", 2.0), ("norm", 2.0)])
def test_the_error_is_that_of_the_velocity(load, loss, want):
    schedule = load(SD3)
    clean, noise = torch.randn(2, 5, 1, 4, 4)
    model, t = Wrong(schedule, clean), schedule.timesteps([25, 225, 525, 725, 975])
    classes = torch.tensor([2, 2, 2, 2, 0])
    found = denoising_errors(model, model, loss, clean, noise, t, classes, None, None)
    assert found.tolist() == pytest.approx([want] * 4 + [0], abs=1e-4)


def test_the_published_grid_of_timesteps(load):
    """Evenly spaced places of the scheduler's own list, as in the released code of the study."""
    published = [65.965576171875, 151.0791473388672, 226.65536499023438, 294.21221923828125]
    schedule = load(SD3)
    assert schedule.timesteps([22, 55, 88, 121]).tolist() == pytest.approx(
        [3000 * (p + 1) / (1000 + 2 * (p + 1)) for p in (22, 55, 88, 121)]
    )
    assert schedule.timesteps([22, 55, 88, 121]).tolist() == pytest.approx(published, rel=1e-5)
    times = Classify([5, 20]).times(schedule)
    assert times.is_floating_point() and len(times) == 20
    assert times.max() == schedule.timesteps([975])[0]


def test_norm_is_the_root_of_the_mean_square():
    one, two = torch.randn(2, 3, 4, 8, 8)
    want = (one - two).flatten(1).norm(dim=1) / 256**0.5
    torch.testing.assert_close(LOSSES["norm"](one, two), want)


def test_generation_arrives_at_the_image(load):
    clean = torch.rand(2, 1, 4, 4) - 0.5
    model = Wrong(load(FLUX), clean)
    protocol = Generate("flow_euler", 5, 1, "trailing")
    images, evaluations = generate(model, protocol, torch.zeros(2), ["a", "b"], 0)
    found = torch.stack([torch.from_numpy(image)[:, :, 0] for image in images]) / 127.5 - 1
    assert (found - clean[:, 0]).abs().max() < 1 / 127.5
    assert evaluations == len(model.times) == 5 and model.times[0] == [1000, 1000]


def test_what_is_not_finite_is_refused(load):
    model = Wrong(load(SD3), torch.full((1, 1, 4, 4), torch.nan))
    with pytest.raises(NotFiniteError):
        generate(model, Generate("flow_euler", 2, 1), torch.zeros(1), ["a"], 0)


@pytest.mark.parametrize(
    ("sampler", "config", "steps", "spacing", "message"),
    [
        ("ddim", SD3, 5, None, r"takes predictions of noise.*set task\.sampler=flow_euler"),
        ("flow_euler", DDPM, 5, None, "predictions of velocities.*choose one of ddim, ddpm"),
        ("flow_euler", SD3, 5, "linspace", r"task\.spacing=linspace is not defined"),
        ("flow_euler", FLUX, 1001, "trailing", "more than the model's 1000 timesteps"),
        ("flow_euler", {**SD3, "stochastic_sampling": True}, 5, None, "stochastic_sampling=true"),
        ("flow_euler", {**SD3, "shift_terminal": 0.1}, 5, None, r"shift_terminal=0\.1 is not"),
        ("flow_euler", {**SD3, "shift": "3"}, 5, None, "shift must be"),
        ("flow_euler", {**SD3, "shift": -1.0}, 5, None, "no noise levels that rise"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_the_model_is_loaded(
    sampler, config, steps, spacing, message
):
    with pytest.raises(BiGainError, match=message):
        Generate(sampler, steps, 1, spacing).revision(config)
    with pytest.raises(BiGainError, match=message):
        check_sampler(sampler, config, steps, spacing)


def test_no_earlier_version_drew_other_images():
    assert Generate("flow_euler", 28, 7.0).revision(SD3) == {}
    assert Generate("flow_euler", 28, 7.0, "trailing").revision(FLUX) == {}
    with pytest.raises(BiGainError, match="predicts noise"):
        build_sampler("flow_euler", DDPM, 5, None, "cpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DDPM, "has no shift"),
        ({**FLUX, "max_image_seq_len": 256}, "above base_image_seq_len=256, got 256"),
        ({**FLUX, "base_shift": None}, "needs base_shift and max_shift"),
        ({**FLUX, "time_shift_type": "x"}, "cannot be used"),
        ({**SD3, "use_karras_sigmas": True}, "use_karras_sigmas=true is not supported"),
    ],
)
def test_a_schedule_that_is_none_is_refused(load, config, message):
    with pytest.raises(BiGainError, match=message):
        load(config)


def test_stages_ask_for_places_of_the_schedule(load):
    protocol = Classify([2, 4], keep=[2, 1])
    places = [protocol.timesteps(1000)[p] for stage in protocol.stages() for p in stage]
    model = SimpleNamespace(schedule=load(SD3))
    assert torch.equal(protocol.times(model.schedule), model.schedule.timesteps(places))

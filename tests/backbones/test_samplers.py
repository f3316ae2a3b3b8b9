"""Every sampler against a denoiser that knows the answer."""

import warnings
from typing import ClassVar

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers import scheduling_ddpm

from bigain.backbones import SAMPLERS, SPACINGS, build_sampler
from bigain.backbones.samplers import corrected
from bigain.backbones.schedule import NoiseSchedule
from bigain.errors import BiGainError, NotFiniteError
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
        self.schedule = NoiseSchedule(self.noise_schedule, (1 - betas).cumprod(0).float())
        draws = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.images = (draws - 0.5) / 2  # of classes 0, 1, 2 and of no class
        self.seen: list[tuple[list, list]] = []

    def predict(self, x, t, condition):
        self.seen.append((t.tolist(), condition.tolist()))
        between = t.double()
        low, part = between.floor().long(), (between - between.floor()).view(-1, 1, 1, 1)
        logs = self.schedule.alphas_cumprod.log()
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


class Witness(Oracle):
    """Predicts the noise that leads to one image, and writes down each sample that it is handed.

    Every sample is u times that image plus v times the noise that the first one held, and u and v
    reveal the level of its noise.
    """

    # no sample's image can be lost in rounding: the schedule ends at an alpha of 0.0047
    SCHEDULE: ClassVar = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    }

    def __init__(self, **changes):
        made = DDIMScheduler.from_config({**self.SCHEDULE, **changes})
        self.schedule = NoiseSchedule({**self.SCHEDULE, **changes}, made.alphas_cumprod)
        self.image = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
        self.times: list[float] = []
        self.samples: list[torch.Tensor] = []

    def level(self, t):
        """The alpha at a timestep; in between, the ratio of noise to image is linear."""
        a = self.schedule.alphas_cumprod.double()
        ratio = ((1 - a) / a).sqrt()
        low = int(t)
        part = t - low
        between = (1 - part) * ratio[low] + part * ratio[min(low + 1, len(a) - 1)]
        return 1 / (1 + between**2)

    def predict(self, x, t, condition):
        self.times.append(float(t[0]))
        self.samples.append(x[0].double())
        a = self.level(self.times[-1])
        return ((x - a.sqrt() * self.image) / (1 - a).sqrt()).float()

    def shares(self):
        """The levels that were asked for, and u and v of each sample, float64 [S] each."""
        a = torch.stack([self.level(t) for t in self.times])
        noise = (self.samples[0] - a[0].sqrt() * self.image) / (1 - a[0]).sqrt()
        basis = torch.stack([self.image.double().flatten(), noise.flatten()], 1)
        seen = torch.stack([x.flatten() for x in self.samples], 1)
        u, v = torch.linalg.lstsq(basis, seen).solution
        return a, u, v


def impossible(sampler, spacing, steps):
    """Leading spacing then starts far below noise; the multistep samplers need one more step."""
    multistep = sampler in ("dpmsolver++", "unipc")
    if spacing == "leading":
        return steps == 300 or (steps == 1000 and multistep)
    return spacing == "linspace" and steps == 1000 and multistep


# 61 trailing steps are 62 in diffusers, the last at t = -1
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 30, 61, 300, 999, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.filterwarnings("ignore:.*starts from pure noise")
def test_each_sample_has_the_noise_of_its_timestep(sampler, spacing, steps, monkeypatch):
    # the noise that DDPM adds is unrelated to that of its first sample
    still = lambda shape, **_: torch.zeros(shape)  # noqa: E731
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", still)
    witness = Witness()
    protocol = Generate(sampler, steps, guidance=1, spacing=spacing)
    if impossible(sampler, spacing, steps):
        with pytest.raises(BiGainError, match=r"set task\.spacing=trailing"):
            generate(witness, protocol, torch.tensor([0]), ["a"], 0)
        return
    images, evaluations = generate(witness, protocol, torch.tensor([0]), ["a"], 0)
    assert evaluations == len(witness.times) == steps
    assert all(0 <= t <= 999 for t in witness.times)
    a, u, v = witness.shares()
    torch.testing.assert_close(u, a.sqrt(), rtol=1e-3, atol=1e-5)
    if sampler != "ddpm":
        torch.testing.assert_close(v, (1 - a).sqrt(), rtol=1e-3, atol=1e-5)
    assert (pixels(images)[0] - witness.image[0]).abs().max() < ONE_PIXEL


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", [None, *SPACINGS])
@pytest.mark.parametrize("steps", [39, 40])
def test_about_as_many_steps_as_timesteps(sampler, spacing, steps):
    """Stable Diffusion's offset of 1 would lead past the last timestep."""
    witness = Witness(num_train_timesteps=40, steps_offset=1)
    try:
        generate(witness, Generate(sampler, steps, 1, spacing), torch.tensor([0]), ["a"], 0)
    except NotFiniteError:
        raise
    except BiGainError as error:
        assert spacing != "trailing"
        assert "; ask for fewer steps, or set task.spacing=trailing" in str(error)
    assert all(0 <= t <= 39 for t in witness.times)


def test_steps_past_the_last_timestep_are_named():
    schedule = {**Witness.SCHEDULE, "steps_offset": 1}
    message = (
        "task.sampler=euler task.steps=1000 task.spacing=leading asks the model at t=1000, and "
        "its timesteps are 0 to 999; ask for fewer steps"
    )
    with pytest.raises(BiGainError, match=message):
        build_sampler("euler", schedule, 1000, "leading", "cpu")
    with pytest.raises(BiGainError, match="takes the same timestep more than once"):
        build_sampler("unipc", schedule, 1000, "linspace", "cpu")


@pytest.mark.parametrize("kind", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("sampler", ["euler", "dpmsolver++", "unipc"])
@pytest.mark.parametrize("betas", ["squaredcos_cap_v2", "scaled_linear"])
@pytest.mark.parametrize("steps", [10, 300])
def test_levels_of_other_kinds_give_images(kind, sampler, betas, steps):
    """Many first timesteps then round to the same one."""
    witness = Witness(**{"beta_schedule": betas, f"use_{kind}_sigmas": True})
    protocol = Generate(sampler, steps, 1, "trailing")
    images, _ = generate(witness, protocol, torch.tensor([0]), ["a"], 0)
    assert (pixels(images)[0] - witness.image[0]).abs().max() < ONE_PIXEL


@pytest.mark.parametrize("sampler", ["dpmsolver++", "unipc"])
def test_levels_of_another_family_are_refused(sampler):
    schedule = {**Witness.SCHEDULE, "use_flow_sigmas": True}
    with pytest.raises(BiGainError, match=r"not those of its timesteps \(use_flow_sigmas"):
        build_sampler(sampler, schedule, 20, None, "cpu")


def test_a_config_that_a_sampler_cannot_use():
    schedule = {**Witness.SCHEDULE, "use_karras_sigmas": True, "use_beta_sigmas": True}
    with pytest.raises(BiGainError, match=r"cannot use .*Only one of.*; choose another"):
        build_sampler("euler", schedule, 20, None, "cpu")


@pytest.mark.parametrize(
    ("sampler", "steps", "first"),
    [("dpmsolver++", 250, 751), ("unipc", 400, 801), ("ddim", 600, 600), ("ddim", 150, 895)],
)
def test_leading_chains_that_start_far_below_noise_are_refused(sampler, steps, first):
    schedule = {**Witness.SCHEDULE, "steps_offset": 1}
    with pytest.raises(BiGainError, match=rf"starts from pure noise at t={first}.*trailing"):
        build_sampler(sampler, schedule, steps, "leading", "cpu")


def test_chains_of_few_steps_that_start_low_are_warned_of():
    with pytest.warns(UserWarning, match="starts from pure noise at t=800, but"):
        build_sampler("ddim", Witness.SCHEDULE, 5, "leading", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps in (20, 50, 100, 250, 1000):
            build_sampler("ddim", Witness.SCHEDULE, steps, "leading", "cpu")


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("change", [{}, {"set_alpha_to_one": False, "steps_offset": 1}])
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [("leading", 50), ("leading", 30), ("trailing", 50), ("trailing", 20), ("linspace", 1000)],
)
def test_ddim_is_diffusers_own_where_that_was_right(clip, change, spacing, steps):
    """Bit for bit, so runs of these settings keep their identity."""
    schedule = {**Witness.SCHEDULE, **change, "clip_sample": clip}
    assert not corrected("ddim", schedule, steps, spacing)
    ours = build_sampler("ddim", schedule, steps, spacing, "cpu")
    theirs = DDIMScheduler.from_config(schedule, timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    draws = torch.Generator().manual_seed(0)
    x = y = torch.randn(2, 1, 4, 4, generator=draws)
    for t in ours.timesteps:
        noise = torch.randn(2, 1, 4, 4, generator=draws)
        x = ours.step(noise, t, x).prev_sample
        y = theirs.step(noise, t, y, return_dict=False)[0]
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("sampler", "spacing", "steps", "changes"),
    [
        ("ddim", "linspace", 50, True),
        ("ddim", "trailing", 30, True),
        ("ddim", "trailing", 300, True),
        ("ddim", None, 50, False),
        ("ddpm", "linspace", 250, False),
        ("euler", "linspace", 50, False),
        ("euler", "trailing", 30, False),
        ("euler", "trailing", 61, True),
        ("dpmsolver++", "leading", 20, False),
    ],
)
def test_only_settings_that_drew_other_images_are_corrected(sampler, spacing, steps, changes):
    assert corrected(sampler, Witness.SCHEDULE, steps, spacing) == changes


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("guidance", [1, 1.5])
def test_what_is_not_finite_is_not_clipped_away(sampler, value, guidance):
    class Broken(Oracle):
        noise_schedule: ClassVar = {**Oracle.noise_schedule, "clip_sample": True}

        def predict(self, x, t, condition):
            found = super().predict(x, t, condition)
            if len(self.seen) == 3:
                found[0, 0, 1, 2] = value
            return found

    protocol = Generate(sampler, steps=10, guidance=guidance, spacing="trailing")
    with pytest.raises(NotFiniteError):
        generate(Broken(), protocol, torch.tensor([0, 1]), ["a", "b"], 0)


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

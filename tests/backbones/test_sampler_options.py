"""Every option that diffusers' schedulers have, in a model's config: images, or one line."""

import inspect
from itertools import product

import pytest
import torch

from bigain.backbones import SAMPLERS, build_sampler
from bigain.backbones.schedule import NoiseSchedule
from bigain.errors import BiGainError
from bigain.tasks.generate import Generate, generate

BASE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "clip_sample": False}
# values of options that take texts; those of other samplers and unknown ones among them
TEXTS = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "x"),
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction", "x"),
    "timestep_spacing": ("leading", "linspace", "trailing", "x"),
    "variance_type": ("fixed_small", "fixed_large", "learned", "learned_range", "x"),
    "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "x"),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "x"),
    "final_sigmas_type": ("zero", "sigma_min", "x"),
    "interpolation_type": ("linear", "log_linear", "x"),
    "timestep_type": ("discrete", "continuous", "x"),
    "time_shift_type": ("exponential", "linear", "x"),
}


def options() -> list[tuple[str, object]]:
    """Every option of any sampler with the values that it may be given."""
    found: dict[str, object] = {}
    for kind in SAMPLERS.values():
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if parameter.default is not parameter.empty:
                found[name] = parameter.default
    pairs: list[tuple[str, object]] = []
    for name, default in found.items():
        values: tuple[object, ...] = (None, "x", -1, 0, 1, 2, 3, 0.5, [], [0.1], {}, 10**7)
        if name in TEXTS:
            values = (*TEXTS[name], None, 3)
        elif isinstance(default, bool):
            values = (True, False)
        pairs += [(name, value) for value in values]
    return pairs


class Still:
    """Predicts no noise."""

    latent_shape = (1, 4, 4)

    def __init__(self, schedule):
        self.schedule = NoiseSchedule(schedule, torch.ones(1))

    def predict(self, x, t, condition):
        return torch.zeros_like(x)

    def decode(self, latents):
        return latents


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.filterwarnings("ignore")
def test_any_option_gives_images_or_one_line(sampler):
    drawn = 0
    for place, (name, value) in enumerate(options()):
        schedule = {**BASE, name: value}
        for steps, spacing in list(product((1, 2, 5), (None, "trailing")))[place % 3 :: 3]:
            protocol = Generate(sampler, steps, 1, spacing)
            try:
                images, _ = generate(Still(schedule), protocol, torch.tensor([0]), ["a"], 0)
            except BiGainError as error:
                assert "\n" not in str(error)
                continue
            assert images[0].shape == (4, 4, 1)
            drawn += 1
        for steps in (999, 1000)[place % 2 :: 2]:
            try:
                build_sampler(sampler, schedule, steps, "trailing", "cpu")
            except BiGainError as error:
                assert "\n" not in str(error)
    assert drawn > 100

"""diffusers' schedulers by name, set up for noise predictions in float32.

The sample that a step is handed has the noise level of that step's timestep, whatever the sampler,
the spacing and the number of steps. Settings for which that cannot be are refused.
"""

import warnings
from itertools import pairwise
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from bigain.backbones.flow_matching import FLOW_SAMPLER, build_flow_sampler, is_flow
from bigain.backbones.scheduler_config import FILE, check_alphas, check_settings, timesteps
from bigain.errors import BiGainError, reason_of

# A chain starts from pure noise. One that starts further than this share of the schedule below
# its end gives a warning, as its model expects part of the signal there.
FAR = 0.05


class DDIM(DDIMScheduler):
    """DDIM (Song et al. 2021), each step of which leads to the next timestep listed.

    diffusers steps from t to t - T // steps, which is not the next timestep of its own list under
    linspace spacing, nor under trailing spacing where the steps do not divide T.
    """

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool = True
    ) -> Any:
        """The sample at the next timestep: equation 12 of the paper without its noise.

        Args:
            model_output: the noise in ``sample``, [B, ...].
            timestep: one of ``timesteps``.
            sample: [B, ...].
            return_dict: return diffusers' DDIMSchedulerOutput; else the sample and the image that
                it predicts.
        """
        a, following = self._levels(timestep)
        clean = (sample - (1 - a) ** 0.5 * model_output) / a**0.5
        if self.config.thresholding:
            clean = self._threshold_sample(clean)
        elif self.config.clip_sample:
            clean = clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        found = following**0.5 * clean + (1 - following) ** 0.5 * model_output
        return DDIMSchedulerOutput(found, clean) if return_dict else (found, clean)

    def _levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The cumulative alphas of a timestep and of the next."""
        now = self.alphas_cumprod[timestep]
        following = int((self.timesteps == timestep).nonzero()[0, 0]) + 1
        if following == len(self.timesteps):
            return now, self.final_alpha_cumprod
        return now, self.alphas_cumprod[self.timesteps[following]]


SAMPLERS: dict[str, Any] = {
    "ddim": DDIM,
    "ddpm": DDPMScheduler,  # Ho et al. 2020
    "euler": EulerDiscreteScheduler,  # Karras et al. 2022
    "dpmsolver++": DPMSolverMultistepScheduler,  # Lu et al. 2022
    "unipc": UniPCMultistepScheduler,  # Zhao et al. 2023
}
EVERY_SAMPLER = (*SAMPLERS, FLOW_SAMPLER)  # the last for flow matching


def build_sampler(
    name: str,
    noise_schedule: dict[str, Any],
    steps: int,
    spacing: str | None,
    device: torch.device | str,
) -> Any:
    """A scheduler with its timesteps set; make a new one per batch, as schedulers keep state.

    A chain of few steps that starts far below pure noise gives a warning.

    Args:
        name: one of `SAMPLERS`.
        noise_schedule: the scheduler config that comes with the model.
        steps: number of sampling steps.
        spacing: spacing of the timesteps, one of `SPACINGS`, or None for the model's own.

    Raises:
        BiGainError: if the schedule has fewer timesteps than ``steps``, or the sampler cannot make
            so many steps under this spacing, or only from far below pure noise.
    """
    if name not in SAMPLERS:
        raise BiGainError(
            f"task.sampler={name} takes predictions of velocities (flow matching), but the model "
            f"predicts noise; choose one of {', '.join(SAMPLERS)}"
        )
    length = timesteps(noise_schedule)
    if steps > length:
        raise BiGainError(
            f"task.steps={steps} is more than the model's {length} timesteps; ask for fewer"
        )
    sampler = _build(name, noise_schedule, steps, spacing, device)
    _keep(sampler, steps)
    if hasattr(sampler, "set_begin_index"):  # else a first timestep that comes twice is left out
        sampler.set_begin_index(0)
    given = f"task.sampler={name} task.steps={steps} task.spacing={sampler.config.timestep_spacing}"
    _check_timesteps(sampler, given, length)
    _check_start(sampler, given, length)
    return sampler


def check_sampler(name: str, config: dict[str, Any], steps: int, spacing: str | None) -> bool:
    """Refuse what a model cannot be sampled with, before it is loaded.

    Args:
        config: of the scheduler that comes with the model.
        name, steps, spacing: as for `bigain.backbones.schedule.Schedule.sampler`.

    Returns:
        Whether `corrected`.

    Raises:
        BiGainError: if it cannot be sampled so.
    """
    if is_flow(config):
        build_flow_sampler(name, config, steps, spacing, "cpu", mu=0.0)  # no shift is refused
        return False
    build_sampler(name, config, steps, spacing, "cpu")
    return corrected(name, config, steps, spacing)


def corrected(name: str, noise_schedule: dict[str, Any], steps: int, spacing: str | None) -> bool:
    """Whether diffusers alone would take other steps, and so draw other images.

    Args:
        name, noise_schedule, steps, spacing: as for `build_sampler`, which accepts them.
    """
    sampler = _build(name, noise_schedule, steps, spacing, "cpu")
    times = sampler.timesteps
    if len(times) != steps:
        return True
    if name != "ddim":
        return False

    def level(t: int) -> Tensor:
        return sampler.alphas_cumprod[t] if t >= 0 else sampler.final_alpha_cumprod

    stride = sampler.config.num_train_timesteps // steps
    pairs = pairwise([*times.tolist(), -1])
    return any(level(t - stride) != level(following) for t, following in pairs)


def _build(
    name: str,
    noise_schedule: dict[str, Any],
    steps: int,
    spacing: str | None,
    device: torch.device | str,
) -> Any:
    """The scheduler with the timesteps that diffusers gives it."""
    # the backbone always returns plain noise: it converts v-predictions and drops learned variances
    options: dict[str, Any] = {"prediction_type": "epsilon"}
    if spacing is not None:
        options["timestep_spacing"] = spacing
    if name == "ddpm":
        options["variance_type"] = "fixed_small"
    mend = "copy the model with its own"
    check_settings(noise_schedule, FILE, mend)
    keep = {k: v for k, v in noise_schedule.items() if k not in ("variance_type", "solver_order")}
    try:
        sampler = SAMPLERS[name].from_config(keep, **options)
        sampler.set_timesteps(steps, device=device)
    except Exception as error:  # schedulers raise many kinds of errors on configs of others
        reason = reason_of(error)
        raise BiGainError(
            f"task.sampler={name} cannot use the model's scheduler_config.json ({reason}); choose "
            f"another of {', '.join(SAMPLERS)}"
        ) from error
    check_alphas(sampler.alphas_cumprod, noise_schedule, FILE, mend)
    return sampler


def _keep(sampler: Any, steps: int) -> None:
    """Drop a timestep of -1, which rounding adds to trailing spacing at some numbers of steps."""
    if len(sampler.timesteps) == steps:
        return
    sampler.timesteps = sampler.timesteps[:steps]
    sampler.num_inference_steps = steps
    if hasattr(sampler, "sigmas"):
        sampler.sigmas = torch.cat([sampler.sigmas[:steps], sampler.sigmas[-1:]])


def _check_timesteps(sampler: Any, given: str, length: int) -> None:
    """Refuse timesteps that the model does not know, that repeat or that belong to other levels."""
    times = sampler.timesteps.double().cpu()
    mend = "ask for fewer steps, or set task.spacing=trailing"
    if not len(times):
        raise BiGainError(
            f"{given} has no timesteps with the model's scheduler_config.json; copy the model with "
            "its own"
        )
    if times.min() < 0 or times.max() > length - 1:
        wrong = times.max() if times.max() > length - 1 else times.min()
        raise BiGainError(
            f"{given} asks the model at t={wrong:g}, and its timesteps are 0 to {length - 1}; "
            f"{mend}"
        )
    sigmas = getattr(sampler, "sigmas", None)
    falling = times if sigmas is None else sigmas[:-1].double()
    if not (falling.diff() < 0).all():
        raise BiGainError(f"{given} takes the same timestep more than once; {mend}")
    if sigmas is None:
        return
    a = sampler.alphas_cumprod.double().cpu()
    known = ((1 - a) / a).sqrt()
    # Karras', exponential and beta levels are rounded to whole timesteps, hence the neighbours
    low = known[(times.floor().long() - 1).clamp(min=0)]
    high = known[(times.ceil().long() + 1).clamp(max=length - 1)]
    levels = sigmas[:-1].double()
    if (
        len(levels) != len(times)
        or (levels < low * (1 - 1e-5)).any()
        or (levels > high * (1 + 1e-5)).any()
    ):
        kinds = [key for key, value in sampler.config.items() if key.startswith("use_") and value]
        because = f" ({', '.join(kinds)} in scheduler_config.json)" if kinds else ""
        raise BiGainError(
            f"{given} has noise levels that are not those of its timesteps{because}; set "
            "task.sampler=ddim, or copy the model with its own scheduler_config.json"
        )


def _check_start(sampler: Any, given: str, length: int) -> None:
    """Refuse, or for few steps warn of, a chain that starts far below pure noise."""
    first = float(sampler.timesteps[0])
    gap = length - 1 - first
    if gap <= FAR * length:
        return
    said = (
        f"{given} starts from pure noise at t={first:g}, but the model's schedule ends at "
        f"t={length - 1}, and at t={first:g} the model expects part of the image already; "
        "set task.spacing=trailing, which starts at the end"
    )
    # one step is what few steps are apart; more is lost where leading spacing rounds down
    if gap > FAR * length + length / len(sampler.timesteps):
        raise BiGainError(said)
    warnings.warn(said, stacklevel=2)

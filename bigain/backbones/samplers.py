"""diffusers' schedulers by name, set up for noise predictions in float32."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from bigain.errors import BiGainError

SAMPLERS: dict[str, Any] = {
    "ddim": DDIMScheduler,  # Song et al. 2021
    "ddpm": DDPMScheduler,  # Ho et al. 2020
    "euler": EulerDiscreteScheduler,  # Karras et al. 2022
    "dpmsolver++": DPMSolverMultistepScheduler,  # Lu et al. 2022
    "unipc": UniPCMultistepScheduler,  # Zhao et al. 2023
}
SPACINGS = ("leading", "linspace", "trailing")


def build_sampler(
    name: str,
    noise_schedule: dict[str, Any],
    steps: int,
    spacing: str | None,
    device: torch.device | str,
) -> Any:
    """A scheduler with its timesteps set; make a new one per batch, as schedulers keep state.

    Args:
        name: one of `SAMPLERS`.
        noise_schedule: the scheduler config that comes with the model.
        steps: number of sampling steps.
        spacing: spacing of the timesteps, one of `SPACINGS`, or None for the model's own.

    Raises:
        BiGainError: if the schedule has fewer timesteps than ``steps``.
    """
    length = noise_schedule.get("num_train_timesteps", 1000)
    if steps > length:
        raise BiGainError(
            f"task.steps={steps} is more than the model's {length} timesteps; ask for fewer"
        )
    # the backbone always returns plain noise: it converts v-predictions and drops learned variances
    options: dict[str, Any] = {"prediction_type": "epsilon"}
    if spacing is not None:
        options["timestep_spacing"] = spacing
    if name == "ddpm":
        options["variance_type"] = "fixed_small"
    keep = {k: v for k, v in noise_schedule.items() if k not in ("variance_type", "solver_order")}
    sampler = SAMPLERS[name].from_config(keep, **options)
    sampler.set_timesteps(steps, device=device)
    return sampler

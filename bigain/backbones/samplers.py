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
    """A scheduler, its timesteps set; a new one for every batch, as schedulers keep state.

    Args:
        name: of `SAMPLERS`.
        noise_schedule: the scheduler config that comes with the model.
        steps: evaluations of the denoiser.
        spacing: of the timesteps, of `SPACINGS`, or None for the model's own.

    Raises:
        BiGainError: if the schedule has fewer timesteps than ``steps``.
    """
    length = noise_schedule.get("num_train_timesteps", 1000)
    if steps > length:
        raise BiGainError(
            f"task.steps={steps} is more than the model's {length} timesteps; ask for fewer"
        )
    # what the backbone returns is always noise alone: v-predictions are converted, learned
    # variances dropped
    options: dict[str, Any] = {"prediction_type": "epsilon"}
    if spacing is not None:
        options["timestep_spacing"] = spacing
    if name == "ddpm":
        options["variance_type"] = "fixed_small"
    keep = {k: v for k, v in noise_schedule.items() if k not in ("variance_type", "solver_order")}
    sampler = SAMPLERS[name].from_config(keep, **options)
    sampler.set_timesteps(steps, device=device)
    return sampler

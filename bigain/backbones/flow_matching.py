"""Flow matching on straight paths: x_t = (1 - sigma) x_0 + sigma noise (Liu et al. 2022).

The model is told t = sigma T and predicts the velocity noise - x_0. Its noise levels are those of
diffusers' FlowMatchEulerDiscreteScheduler, shifted towards noise as its config says (Esser et al.
2024, arXiv 2403.03206, section 5.3.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from bigain.backbones.checkpoint import Checkpoint
from bigain.backbones.scheduler_config import FILE, timesteps
from bigain.errors import BiGainError, reason_of
from bigain.utils.setting_types import check_types, shown

FLOW_SAMPLER = "flow_euler"
# of the settings that are read here; those of dynamic shifting are a model's that uses it
TYPES: dict[str, Any] = {
    "shift": float,
    "use_dynamic_shifting": bool,
    "base_shift": float | None,
    "max_shift": float | None,
    "base_image_seq_len": int,
    "max_image_seq_len": int,
    "time_shift_type": str,
}
# what other schedules the scheduler can make, which no model here was trained on
REFUSED = (
    "invert_sigmas",
    "shift_terminal",
    "stochastic_sampling",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_karras_sigmas",
)


@dataclass(frozen=True)
class FlowMatching:
    """The schedule of a model that was trained by flow matching.

    Attributes:
        config: of the model's FlowMatchEulerDiscreteScheduler.
        sigmas: the noise levels, rising to 1, float32 [T].
        mu: the shift by resolution; None for a model that is shifted by a constant.
    """

    config: dict[str, Any]
    sigmas: Tensor
    mu: float | None

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: torch.device, *, tokens: int) -> "FlowMatching":
        """Read the schedule from the scheduler of a pipeline.

        Args:
            tokens: of an image, on which the shift of some models depends.

        Raises:
            BiGainError: if the scheduler is another one, or damaged.
        """
        where = str(checkpoint.folder / "scheduler" / FILE)
        config = checkpoint.config("scheduler", FILE)
        if not is_flow(config):
            raise BiGainError(
                f"{where} has no shift; the scheduler of a flow matching model is needed, which "
                f"is a FlowMatchEulerDiscreteScheduler; {checkpoint.mend}"
            )
        scheduler = _scheduler(config, where, checkpoint.mend)
        length = timesteps(config)
        mu = None
        if scheduler.config.use_dynamic_shifting:
            mu = _mu(scheduler.config, tokens, where, checkpoint.mend)
            equal = torch.arange(1, length + 1, dtype=torch.float32) / length
            sigmas = scheduler.time_shift(mu, 1.0, equal)
        else:
            sigmas = scheduler.sigmas.flip(0)
        _check_levels(sigmas, where, checkpoint.mend)
        return cls(config, sigmas.to(device, torch.float32), mu)

    def __len__(self) -> int:
        return len(self.sigmas)

    def timesteps(self, places: Sequence[int]) -> Tensor:
        return self.sigmas[list(places)] * len(self)

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sigma = (t / len(self)).view(-1, *[1] * (clean.ndim - 1))
        return (1 - sigma) * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return noise - clean

    def sampler(self, name: str, steps: int, spacing: str | None, device: torch.device) -> Any:
        return build_flow_sampler(name, self.config, steps, spacing, device, self.mu)


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config describes flow matching, and not a DDPM noise schedule."""
    return "shift" in config and "beta_schedule" not in config


def build_flow_sampler(
    name: str,
    config: Mapping[str, Any],
    steps: int,
    spacing: str | None,
    device: torch.device | str,
    mu: float | None,
) -> Any:
    """`FlowEuler` with its timesteps set.

    Args:
        config: of the model's scheduler.
        spacing: None for that of the scheduler, whose last step is from its lowest noise level, as
            in diffusers' pipeline of Stable Diffusion 3; or "trailing" for equal steps of sigma
            before it is shifted, the last of which ends at 0, as in that of Flux.
        mu: the shift by resolution, where the config asks for it.

    Raises:
        BiGainError: if the model cannot be sampled in this way.
    """
    length = timesteps(config)
    if name != FLOW_SAMPLER:
        raise BiGainError(
            f"task.sampler={name} takes predictions of noise, but the model predicts velocities "
            f"(flow matching); set task.sampler={FLOW_SAMPLER}"
        )
    if spacing not in (None, "trailing"):
        raise BiGainError(
            f"task.spacing={spacing} is not defined for flow matching; set it to null for the "
            "scheduler's own, or to trailing"
        )
    if steps > length:
        raise BiGainError(
            f"task.steps={steps} is more than the model's {length} timesteps; ask for fewer"
        )
    sampler = _scheduler(config, FILE, "copy the model with its own")
    if spacing == "trailing":
        equal = np.linspace(1.0, 1 / steps, steps)
        sampler.set_timesteps(sigmas=list(equal), device=device, mu=mu)
    else:
        sampler.set_timesteps(steps, device=device, mu=mu)
    _check_levels(sampler.sigmas[:-1].flip(0), FILE, "copy the model with its own")
    sampler.set_begin_index(0)
    return sampler


class FlowEuler(FlowMatchEulerDiscreteScheduler):
    """diffusers' scheduler, with the two members that its other schedulers have as well."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample


def _scheduler(config: Mapping[str, Any], where: str, mend: str) -> FlowEuler:
    check_types(where, config, TYPES, mend)
    if chosen := [name for name in REFUSED if config.get(name)]:
        raise BiGainError(
            f"{where}: {chosen[0]}={shown(config[chosen[0]])} is not supported; choose a model "
            "without it"
        )
    try:
        found: FlowEuler = FlowEuler.from_config(dict(config))
    except Exception as error:  # damaged configs raise many kinds of errors
        reason = reason_of(error)
        raise BiGainError(f"{where} cannot be used ({reason}); {mend}") from error
    return found


def _check_levels(sigmas: Tensor, where: str, mend: str) -> None:
    """Refuse noise levels that do not rise towards 1."""
    if not (sigmas.diff() > 0).all() or not 0 < sigmas[0] <= sigmas[-1] <= 1 + 1e-6:
        raise BiGainError(f"{where}: its shift gives no noise levels that rise towards 1; {mend}")


def _mu(config: Any, tokens: int, where: str, mend: str) -> float:
    """The shift for an image of so many tokens, linear between two sizes."""
    low, high = config.base_image_seq_len, config.max_image_seq_len
    if low >= high or config.base_shift is None or config.max_shift is None:
        raise BiGainError(
            f"{where}: use_dynamic_shifting needs base_shift and max_shift, and a "
            f"max_image_seq_len above base_image_seq_len={low}, got {high}; {mend}"
        )
    slope = (config.max_shift - config.base_shift) / (high - low)
    return float(config.base_shift + slope * (tokens - low))

"""The noise schedule of a model's training, in float32 whatever the model's type (trap 4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from bigain.backbones.checkpoint import Checkpoint
from bigain.errors import BiGainError
from bigain.utils.setting_types import check_types

FILE = "scheduler_config.json"
SPACINGS = ("leading", "linspace", "trailing")
MOST = 1_000_000  # timesteps
# of the settings that samplers here read
TYPES: dict[str, Any] = {
    "beta_start": float,
    "beta_end": float,
    "beta_schedule": str,
    "trained_betas": list[float] | None,
    "clip_sample": bool,
    "clip_sample_range": float,
    "thresholding": bool,
    "dynamic_thresholding_ratio": float,
    "sample_max_value": float,
    "set_alpha_to_one": bool,
    "steps_offset": int,
    "timestep_spacing": str,
    "rescale_betas_zero_snr": bool,
    "disable_corrector": list[int],
}


def timesteps(config: Mapping[str, Any]) -> int:
    """T, the length of the schedule that a scheduler's config describes.

    Raises:
        BiGainError: if the config gives no whole number.
    """
    found = config.get("num_train_timesteps", 1000)  # diffusers' default
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise BiGainError(
            f"{FILE}: num_train_timesteps must be a whole number from 1, got {found!r}; copy the "
            "model with its own"
        )
    if found > MOST:
        raise BiGainError(
            f"{FILE}: num_train_timesteps must be at most {MOST}, as tables have an entry for "
            f"each; got {found}; copy the model with its own"
        )
    return found


def check_settings(config: Mapping[str, Any], where: str, mend: str) -> None:
    """Refuse a scheduler's config with settings of other types, or unknown spacing."""
    check_types(where, config, TYPES, mend)
    timesteps(config)
    spacing = config.get("timestep_spacing", SPACINGS[0])
    if spacing not in SPACINGS:
        raise BiGainError(
            f"{where}: timestep_spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}; "
            f"{mend}"
        )


def check_alphas(alphas: Tensor, config: Mapping[str, Any], where: str, mend: str) -> None:
    """Refuse cumulative alphas that do not form a noise schedule."""
    length = timesteps(config)
    falls = alphas.shape == (length,) and bool((alphas.diff() < 0).all())
    if not falls or not 0 < alphas[-1] <= alphas[0] <= 1:
        raise BiGainError(
            f"{where}: the betas do not form a noise schedule: there must be {length}, whose "
            f"cumulative alphas fall from 1 towards 0; {mend}"
        )


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.

    Attributes:
        config: config of a DDIM scheduler with these betas, from which other samplers are built.
        alphas_cumprod: a, float32 [T].
    """

    config: dict[str, Any]
    alphas_cumprod: Tensor

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: torch.device, *, latent: bool) -> "NoiseSchedule":
        """Read the schedule from the scheduler of a pipeline, whatever its class.

        Args:
            latent: whether the model works on latents. These have no range to clip to, so samplers
                never clip them, as in diffusers' Stable Diffusion pipelines, although the default
                of some configs would.

        Raises:
            BiGainError: if the schedule is not given by betas, or no sampler here can use what the
                model predicts.
        """
        folder = checkpoint.folder / "scheduler"
        path = folder / FILE
        found = checkpoint.config("scheduler", FILE)
        check_settings(found, str(path), checkpoint.mend)
        kind = found.get("prediction_type", "epsilon")
        if "beta_schedule" not in found:
            raise BiGainError(
                f"{path} has no beta_schedule; a model with a DDPM noise schedule is needed"
            )
        if kind not in ("epsilon", "v_prediction"):
            raise BiGainError(
                f"{path}: prediction_type must be epsilon or v_prediction, got {kind}; such a "
                "model cannot be used here"
            )
        if found.get("rescale_betas_zero_snr"):
            raise BiGainError(
                f"{path}: rescale_betas_zero_snr leaves no signal at the last timestep, from which "
                "no noise prediction leads back; choose a model without it"
            )
        try:
            scheduler = DDIMScheduler.from_pretrained(
                folder, **({"clip_sample": False} if latent else {})
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BiGainError(f"{path} cannot be used ({reason}); {checkpoint.mend}") from error
        alphas = scheduler.alphas_cumprod.to(device, torch.float32)
        check_alphas(alphas, found, str(path), checkpoint.mend)
        return cls(dict(scheduler.config), alphas)

    def at(self, t: Tensor) -> Tensor:
        """a at timesteps t [B]; in between, sqrt((1 - a) / a) is linear, as in Euler's steps."""
        a = self.alphas_cumprod
        if not t.is_floating_point():
            return a[t]
        low = t.floor().long()
        part = (t - low).float()
        high = (low + 1).clamp(max=len(a) - 1)
        sigma = ((1 - a) / a).sqrt()
        between = torch.lerp(sigma[low], sigma[high], part)
        return torch.where(part == 0, a[low], 1 / (1 + between**2))

    def noise(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise in x in float32, from the model's output for x [B, ...] at t [B].

        A v-prediction is v = sqrt(a) noise - sqrt(1 - a) x_0 (Salimans and Ho 2022).
        """
        output = output.float()
        if self.config["prediction_type"] == "epsilon":
            return output
        a = self.at(t).view(-1, *[1] * (x.ndim - 1))
        return a.sqrt() * output + (1 - a).sqrt() * x

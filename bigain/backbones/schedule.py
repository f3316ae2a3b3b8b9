"""The noise schedule of a model's training, in float32 whatever the model's type (trap 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from bigain.backbones.checkpoint import Checkpoint
from bigain.backbones.samplers import build_sampler
from bigain.backbones.scheduler_config import FILE, check_alphas, check_settings
from bigain.errors import BiGainError, reason_of


class Schedule(Protocol):
    """How a model's training mixes images with noise, and what the model predicts of the mixture.

    Its length is T, the number of its noise levels, which rise from place 0 to place T - 1.
    """

    def __len__(self) -> int: ...

    def timesteps(self, places: Sequence[int]) -> Tensor:
        """What the model is told at these places of the schedule, one number for each."""

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t: clean latents [B, ...] with noise of the same shape at timesteps t [B], float32."""

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What a perfect model predicts from the mixture of the two, [B, ...]."""

    def sampler(self, name: str, steps: int, spacing: str | None, device: torch.device) -> Any:
        """A scheduler of diffusers with its timesteps set, for the predictions of such a model.

        Schedulers keep state, so make a new one per batch.

        Args:
            name: one of `bigain.backbones.SAMPLERS`, or "flow_euler" for flow matching.
            steps: number of sampling steps.
            spacing: of the timesteps, or None for the model's own.

        Raises:
            BiGainError: if the model cannot be sampled in this way.
        """


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, of which models here predict the noise.

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
            reason = reason_of(error)
            raise BiGainError(f"{path} cannot be used ({reason}); {checkpoint.mend}") from error
        alphas = scheduler.alphas_cumprod.to(device, torch.float32)
        check_alphas(alphas, found, str(path), checkpoint.mend)
        return cls(dict(scheduler.config), alphas)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def timesteps(self, places: Sequence[int]) -> Tensor:
        return torch.tensor(places, device=self.alphas_cumprod.device)

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.at(t).view(-1, *[1] * (clean.ndim - 1))
        return a.sqrt() * clean + (1 - a).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return noise

    def sampler(self, name: str, steps: int, spacing: str | None, device: torch.device) -> Any:
        return build_sampler(name, self.config, steps, spacing, device)

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

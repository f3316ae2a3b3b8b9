"""What a pipeline's scheduler_config.json must look like for the samplers here."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bigain.errors import BiGainError
from bigain.utils.setting_types import check_types, fits

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
    if not fits(found, int) or found < 1:
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


def bounded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without infinite settings, by which diffusers writes that there is no bound.

    Each is the default of its scheduler, and a run's identity cannot hold it.
    """
    return {
        key: value
        for key, value in config.items()
        if not (isinstance(value, float) and math.isinf(value))
    }


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

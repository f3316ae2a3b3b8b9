"""IE-KVD, interpolate-extrapolate key/value downsampling (BiGain_TD; arXiv 2603.12240)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bigain.compressors import downsample
from bigain.compressors.base import Compressor, Plan, plain_numbers, strength
from bigain.compressors.tokens import TokenGrid
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice, check_number


@dataclass(frozen=True)
class LinearAlpha:
    """An alpha that is linear in each sample's own timestep.

    Args:
        noise: alpha at t = timesteps, where x is pure noise.
        clean: alpha at t = 0.
        timesteps: T, the length of the model's noise schedule. `IEKVD.scheduled` sets it, which
            runs and `bigain.compress` call where they know the schedule; a denoiser alone has none.
    """

    noise: float = 0.8
    clean: float = 1.2
    timesteps: int = 1000

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name in ("noise", "clean", "timesteps"):
            check_number("LinearAlpha", name, getattr(self, name))

    def __call__(self, t: Tensor) -> Tensor:
        """The alpha of each sample, float32 [B], at its timestep t [B]."""
        return self.clean + (self.noise - self.clean) * t.float() / self.timesteps


CONSTANT = 0.9  # the paper's alpha for classification
# Its alpha for generation. The published code draws with a constant on all models but the U-Net
# (docs/fidelity.md, trap 18).
SCHEDULES = {"unet": LinearAlpha(noise=0.8, clean=1.2)}


@dataclass(frozen=True)
class IEKVD(Compressor):
    """D(Z) = alpha * nearest(Z) + (1 - alpha) * mean(cell of Z), on keys and values only.

    Args:
        factor: side of a coarse cell in tokens, or one for each height of the token grid, as in
            :class:`bigain.ToDo`; 1 changes nothing.
        alpha: 1 gives ToDo's "nearest", 0 its "mean", and values above 1 extrapolate. The paper
            classifies with 0.9, and generates on the U-Net with LinearAlpha(noise=0.8, clean=1.2),
            whose fields may also be given as a mapping. "task" lets `suited` choose between these
            two.
        place: which token of each cell counts as the nearest, as in :class:`bigain.ToDo`.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.IEKVD(2)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    factor: int | Mapping[int, int] = strength(2)
    alpha: float | LinearAlpha | Mapping[str, float] | str = CONSTANT
    place: str = "fixed"

    def __post_init__(self) -> None:
        plain_numbers(self)
        object.__setattr__(self, "factor", downsample.checked_factor("IEKVD", self.factor))
        check_choice("IEKVD", "place", self.place, downsample.PLACES)
        if isinstance(self.alpha, Mapping):
            object.__setattr__(self, "alpha", LinearAlpha(**dict[str, Any](self.alpha)))
        elif not isinstance(self.alpha, int | float | LinearAlpha) and self.alpha != "task":
            raise ValueError(
                "IEKVD: alpha must be a number, a schedule {noise: ..., clean: ...}, or task, "
                f"got {self.alpha!r}"
            )
        elif isinstance(self.alpha, int | float):
            check_number("IEKVD", "alpha", self.alpha)

    def suited(self, purpose: str, family: str) -> "IEKVD":
        if self.alpha != "task":
            return self
        generated = purpose == "generation"
        return replace(self, alpha=SCHEDULES.get(family, CONSTANT) if generated else CONSTANT)

    def scheduled(self, timesteps: int) -> "IEKVD":
        if not isinstance(self.alpha, LinearAlpha):
            return self
        return replace(self, alpha=replace(self.alpha, timesteps=timesteps))

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"keys_values"})

    @property
    def content_dependent(self) -> bool:
        return False

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        grid.check(x)
        factor = downsample.factor_at("IEKVD", self.factor, grid)
        if self.alpha == "task":
            raise ValueError("IEKVD: alpha=task is chosen by IEKVD.suited(purpose); call it first")
        alpha: float | Tensor
        if isinstance(self.alpha, LinearAlpha):
            if t is None:
                raise ValueError(
                    "IEKVD: an alpha schedule needs each sample's timestep t, got None"
                )
            alpha = self.alpha(t).to(x.device).view(-1, 1, 1)
        else:
            alpha = float(self.alpha)  # type: ignore[arg-type]
        index = downsample.taken(self.place, x, grid, factor, rng, block)

        def keys_values(y: Tensor) -> Tensor:
            coarse = downsample.mean(y, grid, factor)
            fine = downsample.pick(y, index)
            weight = alpha.to(y.dtype) if isinstance(alpha, Tensor) else alpha
            return torch.lerp(coarse, fine, weight)

        return Plan(keys_values=keys_values, key_tokens=index)

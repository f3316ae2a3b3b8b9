"""Textures in a narrow band of spatial frequencies, and garments laid over them.

Every texture is a mean of cosine waves: one makes a grating, two at a right angle make soft checks,
and many make noise. Its band is therefore known without a filter, and it has no sharp edges, whose
overtones would leave the band.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bigain.errors import BiGainError
from bigain.preparation.texture_kinds import KINDS, WAVES
from bigain.utils.randomness import KeyedStream

# Cycles per pixel. A token of both reference models is two pixels wide, so the band lies between a
# quarter of a cycle per token, where experiments/spectrum.yaml separates low from high frequencies,
# and half a cycle, the highest frequency that tokens can represent.
BAND = (1 / 8, 1 / 4)
# A garment is opaque where it is brighter than the second of these levels (of 255), and transparent
# where it is darker than the first.
SOFT = (8, 40)


@dataclass(frozen=True)
class Texture:
    """One image's background.

    Attributes:
        kind: a key of `WAVES`.
        frequencies: frequencies of the waves in cycles per pixel, float64 [waves].
        angles: directions of the waves in radians, float64 [waves].
        phases: phases of the waves in radians, float64 [waves].
    """

    kind: str
    frequencies: NDArray[np.float64]
    angles: NDArray[np.float64]
    phases: NDArray[np.float64]

    def draw(self, size: int) -> NDArray[np.float64]:
        """The texture as float64 [size, size], scaled to fill [-1, 1]; all 0 if it is flat."""
        if not len(self.frequencies):
            return np.zeros((size, size))
        y, x = np.mgrid[:size, :size].astype(np.float64)
        along = np.multiply.outer(np.cos(self.angles), x) + np.multiply.outer(
            np.sin(self.angles), y
        )
        turns = 2 * math.pi * self.frequencies[:, None, None] * along
        waves = np.cos(turns + self.phases[:, None, None]).sum(0)
        found: NDArray[np.float64] = waves / np.abs(waves).max()
        return found


def texture(seed: int, index: int, kinds: Sequence[str] = KINDS) -> Texture:
    """The texture behind test image ``index``; it does not depend on which other images are made.

    Raises:
        BiGainError: if a kind is unknown, or no kind is given.
    """
    if not kinds or not set(kinds) <= set(WAVES):
        raise BiGainError(f"kinds must be some of {', '.join(WAVES)}; got {', '.join(kinds)}")
    stream = KeyedStream.of(seed, "fashion_textured", [index])
    kind = kinds[int(stream.fork(0).integers(len(kinds), 1))]
    n = WAVES[kind]
    u = stream.fork(1).uniform(3, max(WAVES.values()))[0, :, :n].numpy()
    # the squares are uniform, so that noise fills the ring of the band evenly
    low, high = (f * f for f in BAND)
    frequencies = np.sqrt(low + (high - low) * u[0])
    angles = 2 * math.pi * u[1]
    if kind == "checks":
        frequencies[1] = frequencies[0]
        angles[1] = angles[0] + math.pi / 2
    return Texture(kind, frequencies, angles, 2 * math.pi * u[2])


def compose(garment: torch.Tensor, behind: Texture, amplitude: float) -> NDArray[np.uint8]:
    """Lay a garment over a texture that ranges from black to ``amplitude``, a share of white.

    Args:
        garment: uint8 [size, size] on black.

    Returns:
        The image, uint8 [size, size], rounded only once.
    """
    front = garment.numpy().astype(np.float64)
    low, high = SOFT
    cover = ((front - low) / (high - low)).clip(0, 1)
    back = 255 * amplitude * (1 + behind.draw(len(front))) / 2
    found: NDArray[np.uint8] = np.rint(cover * front + (1 - cover) * back).astype(np.uint8)
    return found

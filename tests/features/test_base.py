"""Features come in the order of the images, whatever the batches, and never with NaN."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import Tensor

from bigain.errors import BiGainError
from bigain.features.base import Features, as_rgb, extract


class Mean:
    """The mean of each channel, and the sizes of the batches it saw."""

    name = "mean"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def load(self, device: torch.device) -> Self:
        return self

    def prepare(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(as_rgb(image)).float()

    def __call__(self, batch: Tensor) -> Features:
        self.batches.append(len(batch))
        mean = batch.mean((1, 2))
        return Features(mean, logits=mean[:, :2])


def pictures(n: int) -> Iterator[np.ndarray]:
    """One value each, decoded one at a time."""
    return (np.full((2, 3, 1), i, np.uint8) for i in range(n))


@pytest.mark.parametrize(("size", "batches"), [(3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_in_order_in_batches(size: int, batches: list[int]) -> None:
    network = Mean()
    found = extract(network, pictures(7), size, 7)
    assert network.batches == batches
    assert len(found) == 7
    assert found.pooled.tolist() == [[i, i, i] for i in range(7)]
    assert found.logits is not None
    assert found.logits[:, 0].tolist() == list(range(7))
    assert found.spatial is None


def test_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mean, "__call__", lambda self, b: Features(b.mean((1, 2)) * torch.nan))
    with pytest.raises(BiGainError, match="mean returned NaN"):
        extract(Mean(), pictures(2), 2, 2)


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert np.array_equal(as_rgb(grey), np.concatenate([grey] * 3, 2))
    colour = as_rgb(grey)
    assert as_rgb(colour) is colour

"""Rows as task=trace writes them, and the figures that are made."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure


@pytest.fixture
def traced() -> Callable[..., pd.DataFrame]:
    """Random rows of images 0, 1, ... with the given columns in place of the random ones."""

    def make(images: int = 3, **given: Any) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        about: dict[str, Any] = {
            "timesteps": [100, 500],
            "blocks": [1, 4, 5],
            "heights": [4, 4, 2],
            "widths": [6, 6, 3],
            "fields": ["queries"],
            "pruned": False,
            "image_shape": [8, 12, 3],
        }
        about |= {key: value for key, value in given.items() if key in about}
        times, blocks = len(about["timesteps"]), len(about["blocks"])
        fields, bands = len(about["fields"]), 10
        tokens = times * sum(h * w for h, w in zip(about["heights"], about["widths"], strict=True))
        rows = []
        for i in range(images):
            row = {
                "image_id": str(i),
                "labels": [i],
                **about,
                "slots": rng.integers(0, 6, tokens),
                "roles": rng.integers(0, 3, tokens),
                "before": rng.uniform(1, 2, times * blocks * bands),
                "after": rng.uniform(1, 2, times * blocks * fields * bands),
                "product": rng.uniform(0, 1, times * blocks * fields * bands),
                "image": rng.integers(0, 256, int(np.prod(about["image_shape"]))),
            }
            rows.append({**row, **given})
        return pd.DataFrame(rows)

    return make


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is made."""
    made: list[Figure] = []
    original = Figure.__init__

    def remember(self: Figure, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "__init__", remember)
    return made

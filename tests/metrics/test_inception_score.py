"""The Inception Score against torchmetrics and at its ends."""

import numpy as np
import pytest
import torch
from torchmetrics.image.inception import InceptionScore as TheirScore

from bigain.metrics.inception_score import inception_score
from bigain.utils.randomness import key_of


def test_equals_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 3
    shuffle = np.random.RandomState(key_of(0, "inception score") % 2**32)
    monkeypatch.setattr("torch.randperm", lambda n: torch.from_numpy(shuffle.permutation(n)))
    theirs = TheirScore(feature=torch.nn.Identity(), splits=10)
    theirs.update(logits)
    mean, deviation = theirs.compute()
    found = inception_score(logits, seed=0)
    assert found.value == pytest.approx(mean.item(), rel=1e-5)
    assert found.error == pytest.approx(deviation.item() * (9 / 10) ** 0.5, rel=1e-4)  # n, not n-1


def test_ends() -> None:
    sure = torch.eye(5).repeat(200, 1) * 100
    assert inception_score(sure, 0).value == pytest.approx(5, rel=0.05)
    assert inception_score(torch.zeros(100, 5), 0).value == pytest.approx(1)


def test_too_few() -> None:
    with pytest.raises(ValueError, match="10 images"):
        inception_score(torch.zeros(9, 5), 0)

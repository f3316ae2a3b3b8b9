"""Precision, recall, density and coverage against the prdc package and by hand."""

import pytest
import torch
from prdc import compute_prdc
from torch import Tensor

from bigain.metrics import manifold
from bigain.metrics.manifold import density_coverage, precision_recall


def sets(n: int = 150, m: int = 120, d: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g) * 0.7 + 0.6, torch.randn(m, d, generator=g)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [32, 1000])
def test_equal_prdc(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "BLOCK", block)
    generated, reference = sets()
    expected = compute_prdc(reference.numpy(), generated.numpy(), k)
    pr, dc = (f(generated, reference, k) for f in (precision_recall, density_coverage))
    found = {
        "precision": pr.precision,
        "recall": pr.recall,
        "density": dc.density,
        "coverage": dc.coverage,
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(set(found.values())) == 4
    assert all(0.1 < value < 1.5 for value in found.values())


def test_by_hand() -> None:
    reference = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # balls of 1, 1, 1 and 8
    generated = torch.tensor([[0.5], [1.5], [30.0]])  # balls of 1, 1 and 28.5
    assert precision_recall(generated, reference, 1).precision == pytest.approx(2 / 3)
    assert precision_recall(generated, reference, 1).recall == pytest.approx(1.0)
    found = density_coverage(generated, reference, 1)
    assert found.density == pytest.approx((2 + 2) / 3)
    assert found.coverage == pytest.approx(3 / 4)


def test_same_and_apart() -> None:
    reference = sets()[1]
    same = precision_recall(reference, reference, 3)
    assert (same.precision, same.recall) == (1, 1)
    apart = density_coverage(reference + 100, reference, 5)
    assert (apart.density, apart.coverage) == (0, 0)


def test_too_few() -> None:
    generated, reference = sets(3, 4)
    with pytest.raises(ValueError, match=r"1\.\.2"):
        precision_recall(generated, reference, 3)
    density_coverage(generated, reference, 3)  # takes any number of generated images
    with pytest.raises(ValueError, match=r"1\.\.3"):
        density_coverage(generated, reference, 4)

"""KID against clean-fid and torchmetrics on one subset of all images."""

import cleanfid.fid
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from bigain.metrics.kernel import kernel_distance


def sets(n: int = 60) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 8, generator=g) + 0.5, torch.randn(n, 8, generator=g)


def test_equals_others_on_all_images() -> None:
    x, y = sets()
    found = kernel_distance(x, y, subsets=1, subset_size=60, seed=0)
    assert found.error == 0
    theirs = cleanfid.fid.kernel_distance(y.double().numpy(), x.double().numpy(), num_subsets=1)
    assert found.value == pytest.approx(theirs, rel=1e-9)
    assert found.value == pytest.approx(poly_mmd(x.double(), y.double()).item(), rel=1e-9)
    assert found.value > 0.1


def test_subsets() -> None:
    x, y = sets()
    found = [kernel_distance(x, y, 400, 20, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    whole = kernel_distance(x, y, 1, 60, 0).value
    assert all(abs(f.value - whole) < 4 * f.error for f in found)
    spread = torch.tensor([kernel_distance(x, y, 25, 20, s).value for s in range(40)]).std()
    assert kernel_distance(x, y, 25, 20, 99).error == pytest.approx(spread.item(), rel=0.5)


def test_too_few() -> None:
    x, y = sets()
    with pytest.raises(ValueError, match="subset size"):
        kernel_distance(x, y, 1, 61, 0)

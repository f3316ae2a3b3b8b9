"""Ranking metrics against torchmetrics and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torchmetrics.functional.classification import multilabel_ranking_average_precision

from bigain.metrics.ranking import (
    average_precision,
    finalists_first,
    mean,
    mean_difference,
    winner_first,
)


def test_average_precision_is_torchmetrics():
    rng = np.random.default_rng(0)
    errors = rng.random((50, 9))
    target = rng.random((50, 9)) < 0.3
    target[:, 4] |= ~target.any(1)
    labels = [np.flatnonzero(line).tolist() for line in target]
    ours = average_precision(np.argsort(errors), labels)
    theirs = multilabel_ranking_average_precision(
        torch.from_numpy(-errors), torch.from_numpy(target).long(), num_labels=9
    )
    assert ours.mean() == pytest.approx(float(theirs), abs=1e-6)
    assert ours.std() > 0.1


def test_finalists_come_first_whatever_their_error():
    errors = [[0.9, 0.1, 0.8, 0.2], [0.3, 0.3, 0.2, 0.1]]
    samples = [[20, 5, 20, 5], [5, 5, 20, 20]]
    assert finalists_first(errors, samples).tolist() == [[2, 0, 1, 3], [3, 2, 0, 1]]
    assert winner_first(errors, [2, 3]).tolist() == [[2, 1, 3, 0], [3, 2, 0, 1]]
    assert winner_first(errors, [0, 1]).tolist() == [[0, 1, 3, 2], [1, 3, 2, 0]]


def test_an_image_without_labels_is_refused():
    with pytest.raises(ValueError, match="image 1 has no label"):
        average_precision(np.array([[0, 1], [1, 0]]), [[0], []])


def test_means_and_their_paired_difference():
    rng = np.random.default_rng(1)
    x = rng.random(40)
    y = x - 0.1 + 0.05 * rng.standard_normal(40)
    found = mean(x)
    assert (found.low + found.high) / 2 == pytest.approx(found.value) == pytest.approx(x.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * x.std(ddof=1) / 40**0.5)
    gain = mean_difference(x, y)
    d = x - y
    assert gain.value == pytest.approx(d.mean())
    statistic = d.mean() / (d.std(ddof=1) / 40**0.5)
    assert gain.p == pytest.approx(2 * student.sf(abs(statistic), 39), rel=1e-6)
    assert mean_difference(x, x).p == 1

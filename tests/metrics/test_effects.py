"""Effects on cases whose answer is known."""

import numpy as np
import pytest

from bigain.metrics.effects import class_spread, correlation, interaction, kept_above


def test_changes_that_add_up_do_not_interact():
    neither = np.ones(8, dtype=bool)
    first, second = neither.copy(), neither.copy()
    first[:2], second[2:5] = False, False
    both = first & second
    assert interaction(neither, first, second, both).value == 0
    found = interaction(neither, first, second, first)
    assert found.value == pytest.approx(100 * 3 / 8) and found.low < found.value < found.high


def test_changes_that_lose_more_together():
    neither = np.ones(100, dtype=bool)
    found = interaction(neither, neither, neither, ~neither)
    assert found == (-100, -100, -100)


def test_what_is_kept_above_chance():
    theirs = np.array([True] * 90 + [False] * 10)
    ours = np.array([True] * 50 + [False] * 50)
    found = kept_above(ours, theirs, 0.1)
    assert found.value == pytest.approx(0.5) and found.low < 0.5 < found.high
    assert kept_above(theirs, theirs, 0.1) == (1, 1, 1)


def test_what_all_classes_share_cancels():
    generator = np.random.default_rng(0)
    plain = generator.normal(size=(20, 5, 3))
    shared = generator.normal(size=(20, 1, 3))
    assert class_spread(plain + shared, plain).value == pytest.approx(0, abs=1e-25)
    own = generator.normal(size=plain.shape)
    found = class_spread(plain + own, plain)
    assert found.low < 1 < found.high
    assert class_spread(plain + 2 * own, plain).value == pytest.approx(4 * found.value)


def test_correlation_is_of_ranks():
    x = np.arange(12.0)
    found = correlation(x, -np.exp(x))
    assert found.value == pytest.approx(-1) and found.high == pytest.approx(-1)
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(2, 40))
    low, high = correlation(a, b)[1:]
    assert low < 0 < high

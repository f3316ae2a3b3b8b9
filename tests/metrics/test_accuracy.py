"""Intervals and tests of accuracy against published examples."""

import itertools
import math

import numpy as np
import pytest

from bigain.metrics.accuracy import hits, paired, top1

Z = 1.959963984540054  # the normal's 97.5% point


def outcomes(both, wins, losses, neither):
    """Two classifiers with these counts."""
    ours = [True] * (both + wins) + [False] * (losses + neither)
    theirs = [True] * both + [False] * wins + [True] * losses + [False] * neither
    return ours, theirs


def test_top1_counts_matches():
    right = hits([1, 2, 3, 4], [[1], [0, 2], [0, 4], np.array([4])])
    assert right.tolist() == [True, True, False, True]
    result = top1(right)
    assert (result.n, result.correct, result.value) == (4, 3, 0.75)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (7, 10), (10, 10), (842, 1000)])
def test_interval_is_wilsons_formula(correct, n):
    p = correct / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    result = top1([True] * correct + [False] * (n - correct))
    assert result.low == pytest.approx(centre - half, abs=1e-12)
    assert result.high == pytest.approx(centre + half, abs=1e-12)


def test_none_of_ten_right_has_the_known_interval():
    result = top1([False] * 10)
    assert (result.value, result.low) == (0.0, 0.0)
    assert result.high == pytest.approx(0.2775, abs=5e-5)


def test_paired_gives_newcombes_published_interval():
    # Newcombe (1998), the table 36, 12, 2, 0: method 10 gives 0.0569 to 0.3404
    result = paired(*outcomes(36, 12, 2, 0))
    assert (result.wins, result.losses, result.difference) == (12, 2, pytest.approx(20.0))
    assert (result.low, result.high) == (
        pytest.approx(5.69, abs=0.006),
        pytest.approx(34.04, abs=0.006),
    )


def test_paired_gives_the_textbook_example():
    # Bentur et al. (2009) in Fagerland, Lydersen and Laake (2014): 1, 1, 7, 12 of 21;
    # exact McNemar P = 0.0703, Newcombe's square-and-add interval -0.507 to -0.026
    result = paired(*outcomes(1, 1, 7, 12))
    assert result.p == pytest.approx(2 * (1 + 8) / 2**8)  # both tails of Binomial(8, 1/2)
    assert result.difference == pytest.approx(-600 / 21)
    assert (result.low, result.high) == (
        pytest.approx(-50.7, abs=0.05),
        pytest.approx(-2.6, abs=0.05),
    )


def test_swapping_the_two_mirrors_the_result():
    ours, theirs = outcomes(50, 9, 4, 37)
    there, back = paired(ours, theirs), paired(theirs, ours)
    assert (there.wins, there.losses, there.p) == (back.losses, back.wins, back.p)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))


def test_two_that_never_differ_have_p_one_and_a_width():
    result = paired(*outcomes(60, 0, 0, 40))
    assert (result.p, result.difference) == (1.0, 0.0)
    assert result.low < 0 < result.high


def test_interval_holds_the_difference_and_stays_within_bounds():
    for counts in itertools.product(range(4), repeat=4):
        if sum(counts):
            result = paired(*outcomes(*counts))
            bounds = [-100 - 1e-9, result.low, result.difference, result.high, 100 + 1e-9]
            assert bounds == sorted(bounds), counts
            assert 0 < result.p <= 1


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    shares = [0.5, 0.2, 0.1, 0.2]
    draws = rng.multinomial(80, shares, size=400)
    intervals = [paired(*outcomes(*counts)) for counts in draws]
    covered = np.mean([i.low <= 10 <= i.high for i in intervals])  # 100 * (0.2 - 0.1)
    assert 0.92 < covered < 0.98


@pytest.mark.parametrize("correct", [[], [[True]], True, [1, 0]])
def test_accuracy_of_nothing_is_refused(correct):
    with pytest.raises(ValueError, match="at least one image"):
        top1(correct)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([True], [True, False]), ([[True]], [[True]]), (True, True)]
)
def test_empty_or_mismatched_lists_are_refused(x, y):
    with pytest.raises(ValueError, match="two lists of one length"):
        paired(x, y)


def test_paired_refuses_what_is_not_bool():
    with pytest.raises(ValueError, match="bool"):
        paired([3, 4], [3, 5])

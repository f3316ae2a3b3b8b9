"""Differences, ratios and contrasts of FID, paired by their replicates."""

import pytest

from bigain.errors import BiGainError
from bigain.tasks.generate_columns import fid_contrast, fid_difference, fid_ratio

ALIKE = {"features": "f", "network": "n", "reference": "r", "n": 8}


def scores(fid, *replicates, **changes):
    return {"fid": fid, "fid_replicates": list(replicates), **ALIKE, **changes}


ONE, OTHER = scores(4.0, 3.8, 4.2, 4.0), scores(2.0, 1.9, 2.1, 2.0)


def test_differences_are_of_the_same_replicates():
    value, low, high = fid_difference("x", ONE, OTHER)
    assert value == 2 and (low + high) / 2 == pytest.approx(2)
    assert high - low == pytest.approx(2 * 1.96 * 0.1)


def test_a_ratio_whose_replicates_keep_it_is_certain():
    assert fid_ratio("x", ONE, OTHER) == pytest.approx((2, 2, 2))
    value, low, high = fid_ratio("x", ONE, scores(2.0, 2.1, 1.9, 2.0))
    assert value == 2 and low < 1.8 and high == pytest.approx(4 / low)


def test_a_contrast_of_what_adds_up_is_nothing():
    both = scores(5.0, 4.7, 5.3, 5.0)
    none = scores(1.0, 1.0, 1.0, 1.0)
    assert fid_contrast("x", {1: [none, both], -1: [ONE, OTHER]})[0] == 0


@pytest.mark.parametrize("key", ALIKE)
@pytest.mark.parametrize("of", [fid_difference, fid_ratio])
def test_scores_of_other_kinds_are_refused(of, key):
    with pytest.raises(BiGainError, match=f"x was scored with {key}"):
        of("x", ONE, scores(2.0, 1.9, 2.1, 2.0, **{key: "other"}))

"""Key/value selection: the tokens that the published code keeps, in its order."""

import pytest
import torch
from safetensors.torch import load_file

from bigain.compressors import KVSelect, TokenGrid

CASES = {"16x16_r0.5": (16, 16), "24x16_r0.7": (24, 16), "32x32_r0.3": (32, 32)}
KEEP = {"high": "highest", "low": "lowest"}
# the published code's names of its scores, and ours
SCORES = {
    "2d_conv_amplitude": "laplacian_l1",
    "1d_dft_amplitude": "dft_amplitude",
    "original_l2norm": "l2_norm",
}


@pytest.fixture(scope="module")
def scores(golden_folder):
    return load_file(golden_folder / "scores.safetensors")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", SCORES)
def test_one_token_per_cell(operators, scores, case, keep, factor, name):
    x, grid = operators[f"{case}.x"], TokenGrid(*CASES[case])
    plan = KVSelect(factor, keep=KEEP[keep], score=SCORES[name]).plan(x, grid)
    assert plan.queries is None and plan.keys_values is not None
    assert torch.equal(plan.keys_values(x), scores[f"{case}.kv_blockwise.{name}.{keep}.s{factor}"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_a_share_of_all_tokens(operators, scores, case, keep, ratio):
    x, grid = operators[f"{case}.x"], TokenGrid(*CASES[case])
    plan = KVSelect(ratio=ratio, keep=KEEP[keep]).plan(x, grid)
    assert plan.keys_values is not None
    assert torch.equal(plan.keys_values(x), scores[f"{case}.kv_global.2d_conv.{keep}.r{ratio}"])


def test_what_decides_need_not_be_what_is_kept(operators):
    x, y = operators["16x16_r0.5.x"], operators["16x16_r0.5.y"]
    plan = KVSelect(2).plan(x, TokenGrid(16, 16))
    assert plan.keys_values is not None
    kept = plan.keys_values(y)
    assert all((y[b] == token).all(-1).any() for b in range(2) for token in kept[b])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratio": 1.0}, r"ratio must lie in \[0, 1\)"),
        ({"ratio": "x"}, "ratio must be a number"),
        ({"factor": 0}, "factor must be a whole number"),
        ({"keep": "high"}, "highest, lowest"),
        ({"score": "x"}, "laplacian_l1"),
    ],
)
def test_what_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        KVSelect(**settings)


def test_a_grid_without_a_cell():
    with pytest.raises(ValueError, match="holds no 4x4 cell"):
        KVSelect(4).plan(torch.zeros(1, 6, 2), TokenGrid(2, 3))

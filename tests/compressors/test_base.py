"""Settings that every method refuses, and how."""

from collections.abc import Callable

import pytest
import torch

from bigain.compressors import ABM, IEKVD, LGTM, Compressor, SiTo, ToDo, TokenGrid, ToMe

RATIO: dict[str, Callable[..., Compressor]] = {
    "ToMe": ToMe,
    "SiTo": SiTo,
    "LGTM": LGTM,
    "ABM": lambda ratio, stride=2: ABM(ratio, stride=stride),
}
FACTOR: dict[str, Callable[..., Compressor]] = {"ToDo": ToDo, "IEKVD": IEKVD}


@pytest.mark.parametrize("name", RATIO)
@pytest.mark.parametrize(
    ("ratio", "stride", "most"),
    [
        (0.76, 2, "0.75"),
        (-0.1, 2, "0.75"),
        (1.0, 2, "0.75"),
        (float("nan"), 2, "0.75"),
        ("0.5", 2, "0.75"),
        (0.9, 3, "0.8889"),
    ],
)
def test_ratio(name, ratio, stride, most):
    message = rf"{name}: ratio must lie in \[0, {most}\] at stride {stride} .*got {ratio!r}"
    with pytest.raises(ValueError, match=message):
        RATIO[name](ratio, stride=stride)
    RATIO[name](1 - 1 / stride**2, stride=stride)


@pytest.mark.parametrize("name", RATIO)
@pytest.mark.parametrize("stride", [1, 0, -2, 2.5, "2"])
def test_stride(name, stride):
    message = f"{name}: stride must be a whole number of at least 2, got {stride!r}"
    with pytest.raises(ValueError, match=message):
        RATIO[name](0.0, stride=stride)


@pytest.mark.parametrize("name", FACTOR)
@pytest.mark.parametrize("factor", [0, -1, 1.5, "2"])
def test_factor(name, factor):
    message = f"{name}: factor must be a whole number of at least 1, got {factor!r}"
    with pytest.raises(ValueError, match=message):
        FACTOR[name](factor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ToMe(0.5, destinations="last"),
            "ToMe: destinations .* random, first, cycle, unpaired; got 'last'",
        ),
        (lambda: LGTM(0.5, cells="ours"), "LGTM: cells .* paper, official; got 'ours'"),
        (
            lambda: LGTM(0.5, destinations="first"),
            "LGTM: destinations .* lowest, highest, cycle; got",
        ),
        (lambda: LGTM(0.5, score="l3"), "LGTM: score .* laplacian_l1, .*mean_cosine; got 'l3'"),
        (lambda: ToDo(2, "max"), "ToDo: pool must be one of nearest, mean; got 'max'"),
        (lambda: IEKVD(2, "linear"), "IEKVD: alpha must be a number, a schedule .*'linear'"),
    ],
)
def test_choices(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", RATIO)
@pytest.mark.parametrize("grid", [TokenGrid(1, 8), TokenGrid(8, 1), TokenGrid(2, 2)])
def test_grid_without_a_cell(name, grid):
    with pytest.raises(ValueError, match="holds no 3x3 cell; lower the stride"):
        RATIO[name](0.5, stride=3).plan(torch.randn(1, grid.tokens, 4), grid)


def test_base_is_abstract():
    x, grid = torch.zeros(1, 4, 1), TokenGrid(2, 2)
    with pytest.raises(NotImplementedError):
        Compressor().plan(x, grid)

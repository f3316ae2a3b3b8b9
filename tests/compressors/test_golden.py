"""Every method against its published implementation (golden/README.md); SiTo is in test_sito."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compressors import ABM, IEKVD, LGTM, ToDo, TokenGrid, ToMe, matching
from bigain.compressors.spectrum import laplacian_l1

CASES = ("16x16_r0.5", "16x16_r0.7", "24x16_r0.7", "32x32_r0.3")


def parse(case: str) -> tuple[TokenGrid, float]:
    grid, ratio = case.split("_r")
    height, width = map(int, grid.split("x"))
    return TokenGrid(height, width), float(ratio)


class Drawn:
    """A stream that returns what another generator drew."""

    def __init__(self, drawn: Tensor) -> None:
        self.drawn = drawn

    def integers(self, high: int, *shape: int) -> Tensor:
        assert self.drawn.max() < high and self.drawn.numel() == torch.Size(shape).numel()
        return self.drawn.view(1, *shape)


def test_no_case_is_left_out(operators):
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in operators} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_laplacian(operators, case):
    grid, _ = parse(case)
    score = laplacian_l1(operators[f"{case}.x"], grid)
    assert_close(score, operators[f"{case}.laplacian_l1"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["tome", "tome_random", "lgtm", "lgtm_official", "abm"])
def test_merging(operators, case, method):
    grid, ratio = parse(case)
    compressor = {
        "tome": ToMe(ratio, destinations="first"),
        "tome_random": ToMe(ratio),
        "lgtm": LGTM(ratio),
        "lgtm_official": LGTM(ratio, cells="official"),
        "abm": ABM(ratio),
    }[method]
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randint(4, (grid.height // 2, grid.width // 2, 1), generator=generator)
    queries = compressor.plan(operators[f"{case}.x"], grid, rng=Drawn(drawn)).queries
    reduced = queries.apply(operators[f"{case}.y"])
    norms = reduced.norm(dim=-1).sort(-1).values
    want = operators[f"{case}.{method}.reduced_sorted_norms"]
    assert_close(norms, want, rtol=0, atol=1e-5)
    want = operators[f"{case}.{method}.restored"]
    assert_close(queries.undo(reduced), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(
    ("method", "kind", "setting", "tolerance"),
    [
        ("todo_nearest", ToDo, "nearest", 0),
        ("todo_avg", ToDo, "mean", 1e-6),
        ("iekvd_0.9", IEKVD, 0.9, 1e-6),
        ("iekvd_1.2", IEKVD, 1.2, 1e-6),
    ],
)
def test_downsampling(operators, case, factor, method, kind, setting, tolerance):
    grid, _ = parse(case)
    x = operators[f"{case}.x"]
    coarse = kind(factor, setting).plan(x, grid).keys_values(x)
    assert_close(coarse, operators[f"{case}.{method}.s{factor}"], rtol=0, atol=tolerance)


MODEL_CASES = {
    "tome_0.5": ToMe(0.5, destinations="first"),
    "lgtm_0.5": LGTM(0.5),
    "lgtm_0.7": LGTM(0.7),
    "lgtm_official_0.5": LGTM(0.5, cells="official"),
    "abm_0.5": ABM(0.5),
    "todo_2": ToDo(2),
    "iekvd_2_0.9": IEKVD(2, 0.9),
    "iekvd_4_1.2": IEKVD(4, 1.2),
}


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_no_model_case_is_left_out(name, request):
    outputs = set(request.getfixturevalue(name).outputs)
    assert outputs == {"none", "sito_0.5", *MODEL_CASES}


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_plain_model(name, request):
    golden = request.getfixturevalue(name)
    assert_close(golden(), golden.outputs["none"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", MODEL_CASES)
def test_unet(unet, case):
    with compress(unet.model, MODEL_CASES[case]):
        out = unet()
    assert_close(out, unet.outputs[case], rtol=0, atol=1e-4)
    assert (out - unet()).abs().max() > 0.02  # the golden output is not the plain one


# These outputs were made from decisions on the block's input. Those of the published code, which
# decides on attention's, are in tests/compression/test_decide_on.py.
DECIDED: dict[str, str] = {"blocks": "all", "decide_on": "block_input"}


@pytest.mark.parametrize("case", MODEL_CASES)
def test_dit(dit, case):
    with compress(dit.model, MODEL_CASES[case], **DECIDED):
        out = dit()
    want = dit.outputs[case]
    if case == "lgtm_official_0.5":  # sample 1 has a tie: the next test
        assert_close(out[[0, 2]], want[[0, 2]], rtol=0, atol=1e-5)
    else:
        assert_close(out, want, rtol=0, atol=1e-4)
    assert (out - dit()).abs().max() > 0.02


def test_dit_official_differs_by_a_tie_alone(dit, monkeypatch):
    """In block 2 of sample 1 a source's two best destinations differ by 1.8e-7 in cosine.

    Which one wins depends on the kernel. One of the two must give the golden output.
    """
    ties = []

    def runner_up(
        x: Tensor, sources: Tensor, destinations: Tensor, barred: None
    ) -> tuple[Tensor, Tensor]:
        x = torch.nn.functional.normalize(x, dim=-1)
        similarity = matching.take(x, sources) @ matching.take(x, destinations).mT
        best, match = similarity.topk(2, dim=-1)
        tie = best[..., 0] - best[..., 1] < 1e-6
        ties.append(tie.sum(1).tolist())
        match = torch.where(tie, match[..., 1], match[..., 0])
        return best[..., 0], destinations.gather(1, match)

    compressor, want = LGTM(0.5, cells="official"), dit.outputs["lgtm_official_0.5"]
    with compress(dit.model, compressor, **DECIDED):
        outs = [dit()]
        monkeypatch.setattr(matching, "nearest_destination", runner_up)
        outs.append(dit())
    assert ties == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    best = min(outs, key=lambda out: (out - want).abs().max())
    assert_close(best, want, rtol=0, atol=1e-4)

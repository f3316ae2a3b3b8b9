"""compile= changes no result beyond rounding, and compiles once a stage."""

import shutil

import pytest
import torch

from bigain.compression import compilation
from bigain.errors import BiGainError
from tests.runs import assert_same


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(cache_size_limit=8, fail_on_cache_limit_hit=False):
        yield torch._dynamo
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize(
    ("compressor", "strategy"), [("none", "staged"), ("lgtm", "staged"), ("lgtm", "race")]
)
def test_a_compiled_run(compressor, strategy, overrides, run, tmp_path, dynamo, monkeypatch):
    """The trials of neither stage fill a whole number of batches, nor do those of a race."""
    chosen = [*overrides, f"compressor={compressor}", "batch_size=7", "device=cpu"]
    if strategy == "race":
        chosen = [o for o in chosen if not o.startswith("task.keep")] + ["task.strategy=race"]
    plain = run([*chosen, f"results={tmp_path}/plain"])
    dynamo.utils.counters.clear()
    # one a stage, and one for a whole race
    monkeypatch.setattr(compilation, "SHAPES", 2 if strategy == "staged" else 1)
    compiled = run([*chosen, "compile=default"])
    assert dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert plain.path.name == compiled.path.name
    assert_same(plain.rows(), compiled.rows())
    assert compiled.read_record("sessions")["sessions"][0]["compile"] == "default"


class Small(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x).relu()
        return result


def compiled(shapes: int) -> int:
    """How many graphs three models of one class have after these batch sizes."""
    torch._dynamo.utils.counters.clear()
    models = [Small(width).eval().requires_grad_(False) for width in (3, 4, 5)]
    for model in models:
        compilation.compile_denoiser(model, "default")
    with torch.no_grad():
        for model in models:
            for size in range(2, 2 + shapes):
                model(torch.zeros(size, 4))
    found: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_no_shape_goes_uncompiled(dynamo, monkeypatch):
    """Models of one class count together, and torch gives up after eight shapes in silence."""
    assert compiled(4) == 12
    monkeypatch.setattr(compilation, "SHAPES", 8)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        compiled(4)


def test_an_unknown_mode_is_refused(overrides, run):
    with pytest.raises(BiGainError, match="reduce-overhead"):
        run([*overrides, "compile=fast"])

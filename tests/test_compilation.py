"""compile= changes no result beyond rounding, and compiles once a stage."""

import shutil

import pytest
import torch

from bigain.errors import BiGainError
from tests.runs import assert_same


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("compressor", ["none", "lgtm"])
def test_a_compiled_run(compressor, overrides, run, tmp_path, dynamo):
    """Its cells fill no whole number of batches in either stage."""
    chosen = [*overrides, f"compressor={compressor}", "batch_size=7", "device=cpu"]
    plain = run([*chosen, f"results={tmp_path}/plain"])
    dynamo.utils.counters.clear()
    once_a_stage = {"recompile_limit": 2, "fail_on_recompile_limit_hit": True}
    with dynamo.config.patch(once_a_stage):
        compiled = run([*chosen, "compile=default"])
    assert dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert plain.path.name == compiled.path.name
    assert_same(plain.rows(), compiled.rows())
    assert compiled.read_record("sessions")["sessions"][0]["compile"] == "default"


def test_an_unknown_mode_is_refused(overrides, run):
    with pytest.raises(BiGainError, match="reduce-overhead"):
        run([*overrides, "compile=fast"])

"""What a visit to a GPU measures next, and that nothing is lost or repeated when it is killed."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from bigain.benchmarks import compiled, extremes, gpu_tests, visit
from bigain.benchmarks.forwards import skeleton_of
from bigain.benchmarks.report import Report
from bigain.benchmarks.visit_items import Item, items
from bigain.compressors import kernels
from bigain.errors import BiGainError
from bigain.utils.hardware import hardware
from bigain.utils.paths import REPOSITORY

CPU = torch.device("cpu")
HERE = hardware("cpu")


def configured(*overrides: str) -> Any:
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
        return compose("gpu", list(overrides))


def rehearse(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    given = ["visit=rehearsal", "device=cpu", f"results={folder}", *overrides]
    visit.visit(configured(*given))
    return visit.read(folder / HERE / visit.RESULTS)


def item(key: str, seconds: float = 10) -> Item:
    return Item(key, seconds, "operators")


def begun(key: str) -> dict[str, Any]:
    return {"key": key, "begun": 0.0}


def done(key: str, *ratios: float, seconds: float = 1.0) -> dict[str, Any]:
    measured = [{"seconds": {"base": [1.0] * len(ratios), "other": list(ratios)}}]
    report = {"tables": {}, "bars": [], "measurements": measured if ratios else []}
    return {"key": key, "seconds": seconds, "error": None, "report": report}


def failed(key: str) -> dict[str, Any]:
    return {"key": key, "seconds": 1.0, "error": "no", "report": None}


# --- what comes next


def test_in_order_and_then_again_what_failed_or_was_cut_off():
    listed = [item("a"), item("b"), item("c"), item("d")]
    records: list[dict[str, Any]] = []
    for expected in "abcd":
        following = visit.following(listed, records, 100)
        assert following is not None and following.key == expected
        records.append(begun(expected))
        if expected != "b":  # which was cut off
            records.append(failed("c") if expected == "c" else done(expected))
    following = visit.following(listed, records, 100)
    assert following is not None and following.key == "b"
    following = visit.following(listed, [*records, begun("b")], 100)
    assert following is not None and following.key == "c"


def test_nothing_starts_that_would_not_end():
    listed = [item("long", 50), item("short", 5)]
    following = visit.following(listed, [], 20)
    assert following is not None and following.key == "short"
    assert visit.following(listed, [], 4) is None
    # what an item took counts more than the guess
    slow = [begun("short"), done("short", 1, 2, seconds=30)]
    assert visit.following(listed[1:], slow, 30) is None
    assert visit.following(listed[1:], slow, 40) is not None


def test_the_noisiest_ratio_gets_more_rounds_until_others_are_noisier():
    listed = [item("quiet"), item("noisy"), item("without times")]
    records = [done("quiet", 1, 1.1), done("noisy", 1, 2), done("without times")]
    rounds = []
    for _ in range(200):
        following = visit.following(listed, records, 100)
        assert following is not None
        rounds.append(following.key)
        records.append(done("quiet", 1, 1.1) if following.key == "quiet" else done("noisy", 1, 2))
    assert rounds[0] == "noisy" and "quiet" in rounds and "without times" not in rounds
    # noise falls with the root of the number of rounds
    assert rounds.count("noisy") > 10 * rounds.count("quiet")


def test_ratios_are_pooled_over_visits():
    first, second = done("a", 2, 2), done("a", 4, 4, 4)
    beside = {"seconds": {"x": [1.0, 1.0], "y": [6.0]}, "uncompressed_beside": {"y": [3.0]}}
    (_, (name, rounds, ratio)) = visit._ratios([first, second])
    assert (name, rounds, ratio.median) == ("other", 5, 4)
    third = {**first, "report": {**first["report"], "measurements": [beside]}}
    assert [r.median for *_, r in visit._ratios([third])] == [1, 2]


def test_the_whole_order():
    """Kernels first, every key once, and DiT-XL/2 and SD-2.0 at all sizes."""
    keys = [i.key for i in items(configured(), "cuda")]
    assert len(set(keys)) == len(keys)
    assert "test_kernels.py" in keys[0]
    kinds = list(dict.fromkeys(key.partition(":")[0] for key in keys))
    assert kinds == [
        "tests",
        "operators",
        "forwards",
        "classification",
        "generation",
        "extremes",
        "compiled",
        "forwards, every method",
    ]
    for shape in ("1024 tokens", "4096 tokens", "9216 tokens", "16384 tokens"):
        for dtype in ("bfloat16", "float16"):
            found = [k for k in keys if k.startswith(f"operators: {shape}") and dtype in k]
            assert {k.rpartition(", ")[2] for k in found} == {"torch", "kernels"}
    for model in ("sd2", "sd2 at 768 pixels", "sd2 at 1024 pixels", "dit_xl2_256", "dit_xl2_512"):
        for kind in ("forwards", "forwards, every method", "compiled"):
            for batch in (1, 16):
                assert f"{kind}: {model}, batch {batch}, bfloat16" in keys
    assert {"classification: sd2", "generation: dit_xl2_512"} < set(keys)


# --- a rehearsal


def test_a_rehearsal_measures_everything(tmp_path, capsys, monkeypatch):
    """Once: more rounds are tested above."""
    monkeypatch.setattr(visit, "_noise", lambda results: 0.0)
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert True\n")
    tests = f"visit.tests=[[{tmp_path}/test_it.py]]"
    keys = [i.key for i in items(configured("visit=rehearsal", tests), "cpu")]
    records = rehearse(tmp_path, "budget=1000", tests)
    measured = [r["key"] for r in records if "begun" not in r]
    assert [r["error"] for r in records if "begun" not in r] == [None] * len(keys)
    assert measured == keys
    page = (tmp_path / HERE / visit.PAGE).read_text()
    assert all(f"## {key}\n" in page for key in keys)
    assert f"{len(keys)} of {len(keys)} items are measured" in capsys.readouterr().out


def test_a_visit_without_time_says_what_is_missing(tmp_path, capsys):
    assert rehearse(tmp_path, "budget=0") == []
    out = capsys.readouterr().out
    assert "0 of 7 items are measured" in out and "\n  generation: dit_fashion" in out
    assert "not reached" in (tmp_path / HERE / visit.PAGE).read_text()


@pytest.fixture
def stand_in(monkeypatch):
    """Suites that fail as told, or take no time."""
    calls: list[str] = []
    errors: dict[str, Exception] = {}

    def run(item: Item, *_: Any) -> Report:
        calls.append(item.key)
        if item.suite in errors:
            raise errors[item.suite]
        return Report("A", "note", {"table": [["x"], ["1"]]}, [])

    monkeypatch.setattr(visit, "_run", run)
    return calls, errors


def test_a_failure_is_recorded_and_tried_again_by_the_next_visit_only(tmp_path, stand_in):
    calls, errors = stand_in
    errors["forwards"] = RuntimeError("CUDA error:\n  out of it")
    records = rehearse(tmp_path)
    assert len(calls) == len(set(calls)) == 7
    error = "RuntimeError: CUDA error: out of it"
    assert [r["error"] for r in records if r.get("suite") == "forwards"] == [error] * 2
    assert error in (tmp_path / HERE / visit.PAGE).read_text()
    del errors["forwards"]
    calls.clear()
    rehearse(tmp_path)
    assert [key.split(":")[0] for key in calls] == ["forwards", "forwards, every method"]


def test_a_killed_visit_loses_only_its_current_item(tmp_path, stand_in):
    calls, errors = stand_in
    errors["generation"] = KeyboardInterrupt()  # as a kill, it leaves the item begun
    with pytest.raises(KeyboardInterrupt):
        rehearse(tmp_path)
    before, path = list(calls), tmp_path / HERE / visit.RESULTS
    with path.open("a") as file:
        file.write('{"key": "half a li')
    del errors["generation"]
    calls.clear()
    records = rehearse(tmp_path)
    assert not set(calls) & set(before[:-1]) and calls[-1] == before[-1]
    assert len([r for r in records if r.get("report")]) == 7


def test_kernels_are_used_once_their_tests_have_passed(monkeypatch):
    gpu = torch.device("cuda")
    test = {"key": "tests: test_kernels.py", "suite": "gpu_tests", "error": None}
    monkeypatch.delenv("BIGAIN_KERNELS", raising=False)
    assert visit._kernels_passed([test], gpu) and not visit._kernels_passed([test], CPU)
    assert not visit._kernels_passed([], gpu)
    assert not visit._kernels_passed([test, {**test, "error": "one failed"}], gpu)
    monkeypatch.setenv("BIGAIN_KERNELS", "0")
    assert not visit._kernels_passed([test], gpu)
    before = kernels.ASKED
    with kernels.used(not before):
        assert kernels.ASKED is not before
    assert kernels.ASKED is before


# --- its own suites


def test_failing_and_skipped_tests_are_errors(tmp_path):
    def run(body: str, timeout: float = 100) -> Report:
        (tmp_path / "test_it.py").write_text(f"import pytest, time\n\ndef test_it():\n    {body}\n")
        cfg = configured()
        cfg = {"arguments": [str(tmp_path / "test_it.py")], "timeout": timeout}
        return gpu_tests.run(_Settings(gpu_tests=_Settings(**cfg)), CPU)

    assert "1 passed" in run("assert True").tables["Outcome"][1][0]
    with pytest.raises(BiGainError, match=r"FAILED.*test_it"):
        run("assert False")
    with pytest.raises(BiGainError, match="1 skipped"):
        run("pytest.skip('no')")
    with pytest.raises(BiGainError, match="longer than 1 s"):
        run("time.sleep(60)", 1)


class _Settings:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def test_extremes_are_the_least_and_the_most_realised():
    measured = {
        "model": "m",
        "sample_size": None,
        "dtype": "float32",
        "batch_size": 2,
        "flops": {"Uncompressed": 100, "a": 50, "b": 50, "c": 90, "d": 100},
        "seconds": {"Uncompressed": [2.0], "a": [1.9], "b": [1.2], "c": [3.0], "d": [1.0]},
        "uncompressed_beside": {key: [2.0] for key in ("Uncompressed", "a", "b", "c", "d")},
    }
    found = extremes.find([measured])
    assert (found["Least"]["title"], found["Most"]["title"]) == ("c", "b")
    assert extremes.find([]) == {}


def test_a_compiled_forward_is_beside_the_eager_one_and_tomesds_patch(monkeypatch):
    """With the compiler's place taken, whose work is tested elsewhere."""
    asked: list[str] = []
    monkeypatch.setattr(compiled, "compile_denoiser", lambda model, mode: asked.append(mode))
    own: dict[str, Any] = {
        "model": "sd_fashion",
        "sample_size": None,
        "dtype": "float32",
        "batch_size": 1,
    }
    own |= {"methods": ["none", "lgtm@0.5"], "compile": "default", "repeats": 2}
    cfg = _Settings(compiled=_Own(own), seed=0)
    (only,) = compiled.run(cfg, CPU).measurements
    assert list(only["seconds"]) == [
        "Uncompressed",
        "Uncompressed, compile",
        "L-GTM 0.5",
        "L-GTM 0.5, compile",
        compiled.PATCH,
    ]
    assert asked == ["default"] * 2
    assert only["flops"]["L-GTM 0.5"] < only["flops"]["Uncompressed"]


class _Own(dict):
    __getattr__ = dict.__getitem__


def test_a_model_may_have_another_size():
    assert skeleton_of("sd2").config.sample_size == 64
    larger = skeleton_of("sd2", 128)
    assert larger.config.sample_size == 128 and larger.device.type == "meta"


def test_the_command_survives_a_kill(tmp_path):
    """A real process, killed as soon as its first result is on disk."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "gpu.py"), "visit=rehearsal"]
    command += ["device=cpu", f"results={tmp_path}", "visit.tests=[]"]
    path = tmp_path / HERE / visit.RESULTS
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not any(r.get("report") for r in visit.read(path)) and time.monotonic() < until:
            time.sleep(0.05)
        process.kill()
    first, *_ = (r for r in visit.read(path) if r.get("report"))
    assert first["key"].startswith("operators") and json.dumps(first)

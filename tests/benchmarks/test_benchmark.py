"""Every suite end to end on the smallest shapes, and what its report says."""

import json
import logging
import sys
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from bigain.benchmarks import classification, forwards, generation, scaling, tables
from bigain.benchmarks.methods import methods
from bigain.benchmarks.repeating import repeating
from bigain.benchmarks.report import Bar, Report, summary, text
from bigain.benchmarks.suites import adapt_to_device, measured_hardware, run_suites
from bigain.compression import architecture_of, select_blocks
from bigain.errors import BiGainError
from bigain.experiments.targets import build
from bigain.metrics.ratio import Ratio, ratio
from bigain.profiling.flops import count
from bigain.profiling.timing import alone, forward_side, in_turn, random_forward
from bigain.tasks.trials import Scores
from bigain.utils.hardware import hardware

REPOSITORY = Path(__file__).parents[2]
CPU = torch.device("cpu")
TINY = [
    "warmup=0",
    "repeats=2",
    "operators.dtypes=[float32]",
    "operators.shapes=[{tokens: 64, channels: 64, batch: 2}]",
    "~forwards.cases",
    "+forwards.cases.dit_fashion="
    "{model: dit_fashion, dtype: float32, batch_size: {cpu: 1}, methods: null, "
    "whole: [lgtm@0.5]}",
    "forwards.repeats=2",
    "forwards.repeats_of_blocks=3",
    "classification.dtypes=[float32]",
    "classification.models.cpu=[dit_fashion]",
    "classification.images.cpu=2",
    "classification.samples=[1,2]",
    "classification.methods=[none,lgtm@0.5]",
    "classification.compile=null",
    "classification.repeats=1",
    "generation.dtype=bfloat16",
    "generation.models.cpu=[sd_fashion]",
    "generation.images.cpu=2",
    "generation.steps=2",
    "generation.methods=[none,iekvd@2]",
    "generation.repeats=1",
    "generation.compile=null",
    "efficiency.models=[dit_fashion]",
    "efficiency.images=2",
    "efficiency.samples=[1,2]",
    "efficiency.methods=[lgtm@0.5]",
    "efficiency.batch_sizes=[2,4]",
    "efficiency.repeats=1",
    "~flops.cases",
    "+flops.cases.dit_fashion=[256]",
    "flops.methods=[lgtm@0.5,todo@2]",
    "scaling.models=[dit_fashion]",
    "scaling.images=1",
    "scaling.samples=[1,2]",
    "scaling.compile=null",
    "scaling.repeats=1",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/benchmark.py"])

    def call(*overrides: str) -> Path:
        with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
            cfg = compose("benchmark", [*TINY, "device=cpu", f"results={tmp_path}", *overrides])
        run_suites(cfg)
        return tmp_path

    return call


def found(folder: Path, suite: str) -> dict:
    content: dict = json.loads((folder / hardware("cpu") / f"{suite}.json").read_text())
    assert {"device", "threads", "torch", "command"} <= content["conditions"].keys()
    return content


def test_operators(run):
    (only,) = found(run("suites=[operators]"), "operators")["measurements"]
    seconds = only["seconds"]
    assert {"tomesd 0.1.3, ToMe 0.5", "L-GTM 0.5", "IE-KVD 2", "self-attention"} <= seconds.keys()
    assert "attention of 32 queries on 32 keys" in seconds
    assert "attention of 64 queries on 16 keys" in seconds
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())


def test_forwards(run):
    folder = run("suites=[forwards]")
    (only,) = found(folder, "forwards")["measurements"]
    assert only["seconds"].keys() == {"Uncompressed", "L-GTM 0.5"}
    assert only["seconds_of_blocks"].keys() == {m.title for m in methods()}
    assert {len(times) for times in only["seconds"].values()} == {2}
    assert len(only["seconds_of_blocks"]["L-GTM 0.5"]) == 3
    assert only["flops"]["L-GTM 0.5"] < only["flops"]["Uncompressed"]
    shown = (folder / hardware("cpu") / "forwards.md").read_text()
    assert "## dit_fashion: 256 tokens, batch 1, float32" in shown and "Realised" in shown


def test_a_whole_forward_is_of_a_method_of_the_case(run):
    case = "forwards.cases.dit_fashion"
    with pytest.raises(BiGainError, match=r"whole names lgtm@0\.5, which methods lacks"):
        run("suites=[forwards]", f"{case}.methods=[none,tome@0.5]")


def test_a_method_is_beside_the_baseline_of_its_rounds():
    order: list[str] = []
    sides = {name: alone(partial(order.append, name)) for name in "abxcdefgh"}
    seconds, beside = forwards._timed(sides, "x", CPU, repeats=2)
    assert order == [*"xabcdef", *"xabcdef", *"xgh", *"xgh"]
    assert beside["a"] == seconds["x"][:2] and beside["h"] == seconds["x"][2:]
    assert seconds.keys() == beside.keys() == set("abxcdefgh")


@pytest.mark.parametrize("name", ["dit_fashion", "sd_fashion"])
@pytest.mark.parametrize("method", ["none", "lgtm_cached@0.5"])
def test_all_but_the_blocks_repeats_itself(name, method):
    (chosen,) = methods([method])
    skeleton = build(chosen.configured(f"model={name}"), "model").skeleton()
    model, inputs = random_forward(skeleton, 2, CPU, torch.float32, 0)
    compressor = chosen.compressor(f"model={name}", "task=classify")
    blocks = [block.module for block in select_blocks(model, "default")]
    calls: list[nn.Module] = []

    def note(module: nn.Module, args: tuple) -> None:
        if "forward" not in vars(module):  # replaced
            calls.append(module)

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_pre_hook(note)
    given: list[torch.Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda m, args, output: given.append(output))
    side = forward_side(model, inputs, compressor)

    def forward() -> tuple[list[torch.Tensor], set[nn.Module]]:
        given.clear()
        calls.clear()
        with side() as work:
            work()
        return list(given), set(calls)

    with torch.inference_mode():
        expected, everything = forward()
        with repeating(model, inputs, but=blocks):
            found = [forward() for _ in range(2)]
        restored, again = forward()
    wanted = {module for block in blocks for module in block.modules()}
    if name == "dit_fashion":  # its end asks the first block for an embedding
        wanted |= set(model.transformer_blocks[0].norm1.emb.modules())
    for outputs, called in found:
        assert called == everything & wanted
        assert [output.shape for output in outputs] == [output.shape for output in expected]
        # the first block's input is the same with a compressor and without
        assert torch.equal(outputs[0], expected[0])
        if compressor is None:
            assert all(map(torch.equal, outputs, expected))
    assert again == everything and all(map(torch.equal, restored, expected))


@pytest.mark.parametrize(
    ("fast", "dtype", "dtypes", "cases"),
    [
        (True, "bfloat16", ["float32", "bfloat16"], {"sd2", "sd2, float32"}),
        (False, "float32", ["float32"], {"sd2, float32"}),
    ],
)
def test_half_precision_where_the_hardware_has_it(monkeypatch, fast, dtype, dtypes, cases):
    monkeypatch.setattr("bigain.benchmarks.suites.multiplies", lambda d, _: fast or d == "float32")
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
        cfg = compose("benchmark", ["operators.dtypes=[bfloat16]"])
    adapt_to_device(cfg, "cpu")
    assert {cfg[name].dtype for name in ("generation", "efficiency", "scaling", "tables")} == {
        dtype
    }
    assert cfg.classification.dtypes == dtypes and cfg.operators.dtypes == ["bfloat16"]
    assert {name for name in cfg.forwards.cases if name.startswith("sd2")} == cases


def test_columns_are_of_the_hardware_that_was_measured(tmp_path):
    for name in ("cpu-avx2", "cpu-amx_bf16", "elsewhere"):
        (tmp_path / name).mkdir()
    assert measured_hardware(tmp_path) == ["cpu-avx2", "cpu-amx_bf16", "cuda"]


def test_classification(run):
    content = found(run("suites=[classification]"), "classification")
    none, lgtm = content["measurements"]
    for way in (none, lgtm):
        assert way["differences"]["ours"]["errors"] < 1e-5
        assert way["differences"]["ours"]["predictions"] == 0
        assert way["differences"][classification.PADDED]["errors"] < 1e-5
    # what is not to agree with the plain loop is only timed
    assert classification.SHARED not in none["seconds"]
    assert len(lgtm["seconds"][classification.SHARED]) == 1
    for race in (classification.RACE, classification.RACE_PADDED):
        assert len(none["seconds"][race]) == 1
    assert lgtm["differences"].keys() == {"ours", classification.PADDED}
    assert len(content["bars"]) == 2


def test_generation(run):
    (only,) = found(run("suites=[generation]"), "generation")["measurements"]
    shared, alone = (only["rounding"][f"Uncompressed, guided{s}"] for s in ("", ", nothing shared"))
    assert 0 < shared < 2 and alone == pytest.approx(shared, abs=0.25)


def test_images_further_from_float32_are_another_result():
    """Compiled images must not be further from float32 than uncompiled ones."""

    def drawn(level: int) -> Any:
        return alone(partial(np.full, (2, 4, 4, 3), level, np.uint8))

    wanted = {"x": drawn(10)}
    found = generation._rounding({"x": drawn(6), "x, compile": drawn(15)}, wanted)
    assert found == {"x": 4, "x, compile": 5}
    with pytest.raises(BiGainError, match="x, compile: images are 6"):
        generation._rounding({"x": drawn(6), "x, compile": drawn(16)}, wanted)


def test_sharing_changes_no_image():
    """Not even if the change brings it closer to float32."""

    def drawn(level: int) -> Any:
        return alone(partial(np.full, (2, 4, 4, 3), level, np.uint8))

    title = "x, guided, nothing shared"
    sides = {"x, guided": drawn(6), title: drawn(7)}
    assert generation._rounding(sides, {"x, guided": drawn(10)})[title] == 3
    with pytest.raises(BiGainError, match="sharing changes a guided image by 2"):
        generation._rounding(sides | {title: drawn(8)}, {"x, guided": drawn(10)})


@pytest.mark.slow
def test_efficiency_and_scaling(run):
    folder = run("suites=[efficiency,scaling]")
    (only,) = found(folder, "efficiency")["measurements"]
    assert only["seconds"].keys() == {"run", "bare"} and only["evaluations"] == 2 * (10 + 3)
    assert only["seconds_by_batch_size"].keys() == {"2", "4"}
    assert only["peak_memory_mib"]["run"] > 0
    (only,) = found(folder, "scaling")["measurements"]
    assert len(only["seconds"]) == 5 and "two of one thread" in only["seconds"]
    assert only["peak_memory_mib"].keys() == only["seconds"].keys()
    assert all(peak > 0 for peak in only["peak_memory_mib"].values())
    bars = (folder / "bars.md").read_text()
    assert bars.count("\n") == 5 and "two of one thread, over one, dit_fashion" in bars


def test_flops(run):
    """The same on any hardware, and in default blocks what counting them alone gives."""
    folder = run("suites=[flops]")
    content = json.loads((folder / "flops.json").read_text())
    (only,) = content["measurements"]
    assert content["conditions"].keys() == {"torch", "diffusers", "command"}
    skeleton = forwards.skeleton_of("dit_fashion")
    plain = count(skeleton)
    assert only["parameters"] == sum(p.numel() for p in skeleton.parameters())
    assert only["pixels"] == 256 and only["flops"] == plain.total
    for method in methods(["lgtm@0.5", "todo@2"]):
        for blocks, share in only["saved"][method.title].items():
            alone = count(skeleton, method.compressor(), blocks=blocks)
            assert share == pytest.approx(1 - alone.total / plain.total, rel=1e-12)
    assert "| `dit_fashion`, 0.00 billion, 256 " in (folder / "flops.md").read_text()


@pytest.mark.parametrize("model", ["sdxl", "flux_dev"])
def test_flops_at_another_size(model, caplog, monkeypatch):
    """SDXL has a size of its own, and of Flux the backbone says it; diffusers warns of neither."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    small, large = (forwards.skeleton_of(model, side) for side in (16, 32))
    shape = architecture_of(small).latent_shape
    assert shape[1:] == (16, 16) and architecture_of(large).latent_shape[1:] == (32, 32)
    assert count(small).total < count(large).total / 1.3
    assert not caplog.records


def test_an_unknown_suite_is_refused(run):
    with pytest.raises(BiGainError, match="no suite speed; choose from operators"):
        run("suites=[speed]")


def test_an_unknown_method_is_refused(run):
    with pytest.raises(BiGainError, match="holds no method fast; it holds none, tome"):
        run("suites=[generation]", "generation.methods=[fast]")


def test_sides_are_timed_in_turn():
    order: list[str] = []
    sides = {name: alone(partial(order.append, name)) for name in "ab"}
    seconds = in_turn(sides, CPU, warmup=1, repeats=3)
    assert order == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_of_rounds():
    """A slow round slows both sides, and so does not change the ratio."""
    assert ratio([2, 20, 6], [1, 10, 2]) == Ratio(2, 2, 2.5)
    assert text(Ratio(1, 0.5, 2)) == "1.00 [0.50, 2.00]"


def test_a_dead_process_is_a_clear_error():
    here, there = Pipe()
    there.close()
    with pytest.raises(BiGainError, match="a process of the suite scaling died"):
        scaling._tell([here], "compute")


def test_another_class_is_another_result():
    """In float32 none, in half precision one image in eight."""

    def ways(changed: int) -> dict[str, Any]:
        right = torch.zeros(16, dtype=torch.int64)
        other = right.clone()
        other[:changed] = 1
        made = {"plain": right, "ours": other}
        return {k: alone(partial(Scores, torch.ones(16, 2, 1), v)) for k, v in made.items()}

    assert classification._compare(ways(2), torch.bfloat16)["ours"] == (0, 2)
    for changed, dtype in ((1, torch.float32), (3, torch.bfloat16)):
        with pytest.raises(BiGainError, match=f"{changed} images are classified otherwise"):
            classification._compare(ways(changed), dtype)


def test_bars_are_met_at_their_bound():
    found = Ratio(1.5, 1, 2)
    assert Bar.least("x", found, 1.5).met and not Bar.least("x", found, 1.6).met
    assert Bar.most("x", found, 1.5).met and not Bar.most("x", found, 1.4).met


def test_the_summary_marks_what_falls_short(tmp_path):
    bars = [Bar("speed", "at least 2", "1.5", False), Bar("memory", "at most 1", "0.9", True)]
    Report("T", "Note.", {"A": [["", "x"], ["a", "1"]]}, [], bars).write(tmp_path / "cpu", "s", {})
    shown = summary(tmp_path, ("cpu", "cuda"), ("s", "other"))
    assert [line.split("|")[3].strip() for line in shown.splitlines()[2:]] == ["**1.5**", "0.9"]
    assert [line.split("|")[4].strip() for line in shown.splitlines()[2:]] == ["–", "–"]


def test_what_compressions_are_worth():
    measured = {
        "model": "m",
        "dtype": "float32",
        "baseline": "base",
        "seconds": {"base": [2, 2], "half": [1.5, 1.5], "slow": [3, 3], "dearer": [9, 9]},
        "flops": {"base": 1, "half": 0.5, "slow": 0.5, "dearer": 1.5},
    }
    # a half and minus one of their savings; the one that saves no FLOPs does not count
    assert tables.worth(measured) == ["`m`, float32", "1 of 2", "-0.25", "1.50"]

"""task=profile: tables that add up, without data or weights, and measurements on request."""

import json

import pandas as pd
import pytest
import torch
from diffusers import DiTTransformer2DModel

from bigain.compression import architecture_of
from bigain.compressors import LGTM, Anchored, ToMe
from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.runner import execute
from bigain.experiments.targets import build
from bigain.profiling import timing
from bigain.profiling.flops import count
from bigain.profiling.timing import forward_side, fused_attention, in_turn, measure
from bigain.utils.paths import REPOSITORY

COMPRESSORS = sorted(p.stem for p in (REPOSITORY / "configs" / "compressor").glob("*.yaml"))


@pytest.fixture
def run(small_dit, tmp_path, configure, capsys):
    """Profiles the small DiT; gives what is printed and the files by suffix."""

    def profiled(*overrides: str):
        before = set((tmp_path / "profiles").glob("*"))
        where = [f"model.path={small_dit}", "dataset.root=/absent", f"results={tmp_path}"]
        assert execute(configure(["task=profile", "blocks=[1]", *where, *overrides])) is None
        paths = set((tmp_path / "profiles").glob("*")) - before
        return capsys.readouterr().out, {path.suffix: path for path in paths}

    return profiled


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_compressor(run, compressor):
    printed, files = run(f"compressor={compressor}")
    assert set(files) == {".md", ".csv"}
    assert files[".md"].read_text() in printed and str(files[".md"]) in printed
    frame = pd.read_csv(files[".csv"])
    assert frame["flops"].sum() > 0
    if compressor == "none":
        assert frame["flops_compressed"].isna().all() and not frame["compressed"].any()
        assert "Saved" not in printed and "2 blocks (64 tokens)" in printed
        return
    rows = frame[frame["flops"] != frame["flops_compressed"]]
    assert set(rows["kind"]) <= {"self_attention", "matching"} and set(rows["place"]) <= {1}
    assert set(frame.loc[frame["compressed"], "place"]) == {1}
    assert "1 compressed blocks (64 tokens)" in printed and "1 other blocks" in printed


def test_the_table_says_what_the_csv_holds(run, small_dit):
    printed, files = run("compressor=lgtm")
    frame = pd.read_csv(files[".csv"])
    model = DiTTransformer2DModel.from_pretrained(small_dit / "transformer")
    assert frame["flops"].sum() == count(model).total
    total = next(line for line in printed.splitlines() if line.startswith("| Total"))
    cells = [cell.strip() for cell in total.strip("|").split("|")]
    before, after = frame["flops"].sum(), frame["flops_compressed"].sum()
    assert [float(cell) for cell in cells[1:4]] == [
        pytest.approx(before / 1e9, rel=1e-4),
        100.0,
        pytest.approx(after / 1e9, rel=1e-4),
    ]
    assert float(cells[4].replace("−", "-")) == pytest.approx(100 * (1 - after / before), abs=0.006)
    widths = {len(line) for line in printed.split("\n\n")[2].splitlines()}
    assert len(widths) == 1, "the table is not aligned"
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in printed


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("sd2", ["865,910,724 parameters", "804.26", "725.40", "9.80", "1/1 (4096 tokens)"]),
        (
            "dit_xl2_512",
            ["749,826,464 parameters", "1049.17", "10 compressed blocks (1024 tokens)"],
        ),
    ],
)
def test_the_papers_models(model, words, configure, tmp_path, capsys):
    overrides = [f"model={model}", "compressor=tome", "dataset.root=/absent", f"results={tmp_path}"]
    execute(configure(["task=profile", *overrides]))
    printed = capsys.readouterr().out
    assert [word for word in words if word not in printed] == []


def test_files_are_named_by_what_changes_them(run):
    first = run("compressor=lgtm")[1]
    assert not run("compressor=lgtm", "seed=1", "batch_size=3", "dtype=bfloat16")[1]
    others = ("compressor.ratio=0.25", "blocks=[0]", "sites=[self_attention,mlp]")
    stems = {run("compressor=lgtm", change)[1][".md"].stem for change in others}
    assert len({first[".md"].stem, *stems}) == 4


def test_measuring_adds_to_the_record(run):
    chosen = ("compressor=lgtm", "task.measure=true", "task.repeats=3", "task.warmup=1")
    printed, files = run(*chosen, "batch_size=2", "device=cpu")
    assert "of the FLOPs" in printed and "of the time" in printed
    run(*chosen, "batch_size=1", "dtype=bfloat16", "device=cpu")
    first, second = json.loads(files[".json"].read_text())["measurements"]
    assert (first["batch_size"], first["dtype"]) == (2, "float32")
    assert (second["batch_size"], second["dtype"]) == (1, "bfloat16")
    for side in (first["uncompressed"], first["compressed"]):
        assert len(side["seconds"]) == 3 and min(side["seconds"]) > 0
        assert side["median_seconds"] == sorted(side["seconds"])[1]
    medians = [first[side]["median_seconds"] for side in ("uncompressed", "compressed")]
    assert first["time_saved_percent"] == pytest.approx(100 * (1 - medians[1] / medians[0]))
    assert first["flops_saved_percent"] != 0
    assert {"device", "torch", "diffusers", "python", "command"} <= set(first)


def test_anchored_steps_are_timed_as_their_mean(small_dit, monkeypatch):
    """From one anchor to the next: a block of the anchor attends twice."""
    model = DiTTransformer2DModel.from_pretrained(small_dit / "transformer").eval()
    anchored = Anchored(ToMe(0.5, destinations="cycle"), every=3)
    attended: list[None] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        attended.append(None)
        return attend(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    inputs = architecture_of(model).random_inputs(2)
    sides = {"anchored": forward_side(model, inputs, anchored, blocks=[1])}
    clock = iter([0.0, 6.0])
    monkeypatch.setattr(timing, "now", lambda device: next(clock))
    with torch.no_grad():
        assert in_turn(sides, model.device, warmup=0, repeats=1) == {"anchored": [2.0]}
    assert len(attended) == 3 * 2 + 1


def test_measuring_uncompressed(run):
    printed, files = run("task.measure=true", "task.repeats=1", "batch_size=1", "device=cpu")
    (only,) = json.loads(files[".json"].read_text())["measurements"]
    assert "compressed" not in only and "time_saved_percent" not in only
    assert "uncompressed:" in printed and "saved" not in printed.splitlines()[-3]


def test_measuring_a_unet(unet):
    """It leaves the global generator alone."""
    state = torch.get_rng_state()
    settings = {"device": torch.device("cpu"), "dtype": torch.float32, "repeats": 2, "warmup": 0}
    found = measure(unet.model, LGTM(0.5), blocks="all", **settings)
    assert all(len(found[side]["seconds"]) == 2 for side in ("uncompressed", "compressed"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["compressor=abm", "compressor.ratio=null", "compressor.threshold=1"], "depend on the"),
        (["compressor=lgtm", "blocks=[9]"], "block indices: [0, 1]"),
        (["task.repeats=0"], "repeats at least 1"),
        (["blocks=0"], "blocks must be default, all or a list such as [0, 1]; got 0"),
        (["blocks=1", "compressor=none"], "blocks must be default, all or a list"),
        (["blocks=null"], "got None"),
        (["sites=mlp"], "sites must be a list of some of self_attention, cross_attention, mlp"),
        (["sites=null"], "sites must be a list"),
        (["+task.samples=[1]"], "accepted: measure, name, repeats, warmup"),
        (["task.measure=true", "device=tpu"], "use auto or cpu"),
        (["task.measure=true", "device=cpu", f"batch_size={10**12}"], "as no device holds more"),
    ],
)
def test_refusals(run, change, message):
    with pytest.raises(BiGainError) as caught:
        run(*change)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_record_is_not_overwritten(run):
    chosen = ("task.measure=true", "task.repeats=1", "task.warmup=0", "batch_size=1", "device=cpu")
    path = run(*chosen)[1][".json"]
    path.write_text("{")
    with pytest.raises(BiGainError, match="is damaged"):
        run(*chosen)
    assert path.read_text() == "{"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_papers_models_in_bfloat16_under_every_compressor(configure):
    """One forward of each side, at full size; about 5 GB of GPU memory."""
    for name in ("sd2", "dit_xl2_256"):
        model = build(configure([f"model={name}"]), "model").skeleton()
        for chosen in COMPRESSORS:
            cfg = configure(["task=profile", f"compressor={chosen}"])
            found = measure(
                model,
                settings_of(cfg).setup.compressor,
                device=torch.device("cuda"),
                dtype=torch.bfloat16,
                warmup=1,
                repeats=1,
            )
            assert found["uncompressed"]["peak_memory_mib"] > 1000
            if chosen != "none":
                assert found["compressed"]["median_seconds"] > 0


def test_too_little_memory_is_told_with_what_to_lower():
    device = torch.device("cpu")
    with (
        pytest.raises(BiGainError, match="does not fit the memory of cpu; lower batch_size"),
        fused_attention(device, torch.float32),
    ):
        raise torch.OutOfMemoryError("out of memory")

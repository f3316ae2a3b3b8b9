"""Whole runs on a small random DiT: what they store, refuse, and never compute twice."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bigain.errors import BiGainError
from bigain.experiments import configuration, schema
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.experiments.targets import build
from bigain.store.runs import Run
from bigain.utils.paths import REPOSITORY
from tests.runs import RUN, assert_same, assert_same_table, call, finish, start


@pytest.mark.parametrize("group", schema.GROUPS)
def test_every_config_builds(group, configure):
    for file in sorted((REPOSITORY / "configs" / group).glob("*.yaml")):
        cfg = configure([f"{group}={file.stem}"])
        configuration.check(cfg)
        try:
            built = build(cfg, group)
        except BiGainError as error:  # data that is not on this machine
            mend = ("set dataset.root to", "run python scripts/prepare_")
            assert group == "dataset" and any(words in str(error) for words in mend)
            continue
        assert (built is None) == (file.stem == "none")


COMPRESSORS = sorted(p.stem for p in (REPOSITORY / "configs" / "compressor").glob("*.yaml"))


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_compressor_classifies(overrides, compressor, capsys, run):
    """Whatever has a config runs, is counted, and gives the same alone as in company."""
    chosen = [*overrides, f"compressor={compressor}", "limit=3"]
    together = run(chosen)
    assert together.read_record("cost")["gflops"] > 0
    alone = run([*chosen, f"results={together.path.parent.parent}/alone", "batch_size=1"])
    assert_same(together.rows(), alone.rows())
    assert "top-1" in capsys.readouterr().out


def test_the_report_compares_with_the_uncompressed_run(overrides, capsys, run):
    run([*overrides, "compressor=lgtm"])
    assert "the same command with compressor=none" in capsys.readouterr().out
    run(overrides)
    capsys.readouterr()
    run([*overrides, "compressor=lgtm"])
    out = capsys.readouterr().out
    assert "against uncompressed" in out and "McNemar p" in out
    assert re.search(r"of which [\d.]+ matching", out)


@pytest.mark.parametrize("compressor", ["tome", "sito", "lgtm", "iekvd"])
def test_batch_size_and_subset_change_nothing(overrides, compressor, run):
    chosen = [*overrides, f"compressor={compressor}"]
    whole = run(chosen).rows()
    for size in (1, 7, 64):
        elsewhere = f"results={Path(run(chosen).path).parent.parent}/b{size}"
        other = run([*chosen, elsewhere, f"batch_size={size}"])
        assert_same(whole, other.rows())
    few = run([*chosen, f"results={Path(run(chosen).path).parent.parent}/few", "limit=5"])
    assert_same(whole.head(5), few.rows())


def test_a_second_call_computes_nothing(overrides, capsys, run):
    path = run(overrides).path
    before = sorted(path.iterdir())
    capsys.readouterr()
    assert run([*overrides, "batch_size=3"]).path == path
    assert "nothing to compute" in capsys.readouterr().out
    assert sorted(path.iterdir()) == before


def test_more_images_extend_the_run(overrides, run):
    first = run(overrides)
    rows = first.rows()
    second = run([*overrides, "limit=20"])
    assert second.path == first.path and len(second.rows()) == 20
    assert_same(rows, second.rows().head(12))


@pytest.mark.parametrize(
    "change",
    ["seed=1", "dtype=bfloat16", "task.loss=l1", "compressor=tome", "task.samples=[1,4]"],
)
def test_what_changes_results_changes_the_run(overrides, change, job):
    assert job([*overrides, change]).run_path != job(overrides).run_path


@pytest.mark.parametrize(
    "change",
    ["batch_size=3", "device=cpu", "limit=2", "start=3", "blocks=[0]", "shards=5", "sweep=table4"],
)
def test_what_cannot_does_not(overrides, change, job):
    """Nor do the blocks of no compressor."""
    assert job([*overrides, change]).run_path == job(overrides).run_path


def test_other_weights_are_another_run(overrides, small_dit, tmp_path, run, job):
    other = tmp_path / "other"
    (other / "transformer").mkdir(parents=True)
    for file in ("transformer/config.json", "scheduler/scheduler_config.json"):
        (other / file).parent.mkdir(exist_ok=True)
        (other / file).write_text((small_dit / file).read_text())
    name = "transformer/diffusion_pytorch_model.safetensors"
    weights = load_file(small_dit / name)
    save_file({k: v + 1e-3 for k, v in weights.items()}, other / name)
    changed = job([*overrides, f"model.path={other}"])
    assert changed.run_path != job(overrides).run_path
    save_file({k: v * torch.nan for k, v in weights.items()}, other / name)
    with pytest.raises(BiGainError, match="NaN"):
        run([*overrides, f"model.path={other}"])
    (other / name).write_bytes((other / name).read_bytes()[:1000])
    with pytest.raises(BiGainError, match="its weights hold 1000 bytes; copy both"):
        run([*overrides, f"model.path={other}"])


def test_cost_is_recorded(overrides, run):
    cost = run([*overrides, "compressor=lgtm"]).read_record("cost")
    assert cost["gflops"] > cost["gflops_matching"] > 0
    assert cost["peak_memory_mib"] is None or cost["peak_memory_mib"] >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["compressor=lgtm", "compressor.ratio=0.8"], "ratio must lie in [0, 0.75]"),
        (
            ["compressor=lgtm", "+compressor.ratoi=0.5"],
            "accepted: cells, destinations, merge, name",
        ),
        (["compressor=lgtm", "compressor.score=lapl"], "laplacian_l1"),
        (["compressor=todo", "compressor.factor=9"], "at most 8 fits"),
        (["compressor=todo", "sites=[mlp]"], "remove mlp from sites"),
        (["compressor=tome", "sites=[cross_attention]"], "no cross_attention"),
        (["compressor=lgtm", "blocks=[7]"], "block indices: [0, 1]"),
        (["blocks=[7]", "sites=[attn]"], "self_attention, cross_attention, mlp"),
        (["dtype=half"], "float32, float16, bfloat16"),
        (["device=tpu"], "use auto or cpu"),
        (["limit=0"], "1..10000"),
        (["batch_size=0"], "at least 1"),
        (["experiment=demo"], "python run.py -m experiment=demo"),
        (["task.keep=[3]"], "one entry per stage"),
        (["task.samples=[3,20]"], "divide the last"),
        (["task.samples=[5,2000]", "limit=1"], "a schedule of 1000"),
        (["compressor=sito", "compressor.noise_alpha=abc"], "noise_alpha must be a number"),
        (["compressor=lgtm_cached", "+compressor.compressor.ratoi=1"], "accepted: cells"),
        (["compressor=lgtm_iekvd", "compressor._args_.0.ratio=0.9"], "[0, 0.75]"),
        (["model.path=/absent"], "transformer/config.json not found"),
        (["dataset.root=/absent"], "prepare_fashion_mnist.py"),
        (["compressor._target_=bigain.compressors.Absent"], "cannot be imported"),
    ],
)
def test_refusals(overrides, change, message, run):
    with pytest.raises(BiGainError) as caught:
        run([*overrides, *change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compressor=lgtn", "compressor=lgtn does not exist; did you mean lgtm? accepted: abm, "),
        ("compresor=lgtm", "did you mean compressor? accepted: batch_size, "),
        ("batch_size=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("compressor.ratio=0.5", "Key 'ratio' is not in struct; accepted: name"),
        ("compressor.ratio=[", "compressor.ratio=[ cannot be read: "),
        ("+result=x", "result is not a key; did you mean results? accepted: batch_size, "),
        ("results=", "results is empty, as an unset shell variable leaves it"),
        ("dataset.root=", "dataset.root is empty"),
    ],
)
def test_the_command_line_says_one_line(override, message):
    done = call(override)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_typing_mistake_is_answered_before_torch_is_imported():
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{RUN!r}, 'compressor=lgtn']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as error:\n    print(error)\n"
        "print([name for name in ('torch', 'diffusers', 'pandas') if name in sys.modules])\n"
    )
    done = call(entry=("-c", code))
    assert done.stdout.splitlines()[1:] == ["[]"], done.stderr
    assert "did you mean lgtm?" in done.stdout


def test_the_package_is_imported_without_torch():
    code = "import bigain, sys; print('torch' in sys.modules, 'compress' in dir(bigain))"
    assert call(entry=("-c", code)).stdout == "False True\n"


def test_a_tilde_is_the_home_directory(overrides, tmp_path, monkeypatch, configure):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = settings_of(configure([*overrides, "results='~/runs'", "evaluation.statistics='~'"]))
    assert settings.setup.results == tmp_path / "home" / "runs"
    assert settings.resolved["evaluation"]["statistics"] == str(tmp_path / "home")


def test_a_full_disk_is_one_line_and_loses_nothing(overrides, run):
    path = run([*overrides, "limit=8"]).path
    # no file may grow beyond 1 KiB, which a part does: the system's error is a full disk's
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", sys.executable, RUN]
    done = subprocess.run([*limited, *overrides], capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: " in done.stderr and "Traceback" not in done.stderr
    assert not list(path.glob(".*tmp*"))
    assert len(Run.open(path).rows()) == 8
    assert len(run(overrides).rows()) == 12


def test_sigterm_stops_the_sweep_and_is_no_failure(overrides, job, tmp_path):
    chosen = [*overrides, "limit=400", "batch_size=4"]
    first, second = (job([*chosen, f"seed={seed}"]).run_path for seed in (0, 1))
    output = tmp_path / "output"
    sweep = ("-m", *chosen, "seed=0,1", f"hydra.sweep.dir={tmp_path}/hydra")
    process = start(*sweep, folder=tmp_path, output=output)
    while not list(first.glob("part-*")):
        assert process.is_alive(), output.read_text()
        time.sleep(0.01)
    process.terminate()
    process.join()
    assert process.exitcode == 1
    assert output.read_text().endswith("the same command resumes\n")
    assert not second.exists()
    assert Run.open(first).finished() and not Run.open(first).records("failed")


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_nothing(overrides, tmp_path, run, job):
    chosen = [*overrides, "limit=240"]  # 30 parts, of which ten kills leave some to do
    path = job(chosen).run_path
    draw = random.Random(0)
    kept = 0
    for _ in range(10):
        process = start(*chosen, "batch_size=4", folder=tmp_path, output=tmp_path / "output")
        # while it starts, or within its first or second part
        parts = len(list(path.glob("part-*"))) + draw.randint(0, 2)
        while len(list(path.glob("part-*"))) < parts or not (path / "run.json").exists():
            assert process.is_alive(), (tmp_path / "output").read_text()
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
        finished = len(Run.open(path).finished())
        assert finished >= kept, "a finished image was lost"
        kept = finished
    assert 0 < kept < 240
    resumed = run(chosen)
    *killed, session = resumed.read_record("sessions")["sessions"]
    assert session["images"] == 240 - kept, "a finished image was computed again"
    assert all("device" in one and "finished" not in one for one in killed)
    assert_same_table(run([*chosen, f"results={tmp_path}/whole"]), resumed)


def test_an_experiment_sweeps_its_rows(overrides, tmp_path):
    done = finish("-m", "experiment=demo", *overrides, "limit=3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    abouts = [p.read_text() for p in (tmp_path / "runs").glob("*/run.json")]
    assert not any('"sweep"' in about or '"shard"' in about for about in abouts)
    names = sorted(p.name.rsplit("-", 2)[1] for p in (tmp_path / "runs").iterdir())
    assert names == sorted(["none", "tome", "tome", "sito", "todo", "lgtm", "iekvd"])


def test_a_session_s_command_holds_no_path_of_the_repository(overrides, tmp_path):
    inside = f"evaluation.statistics={REPOSITORY}/assets/statistics"
    done = finish(*overrides, "limit=1", inside, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (session,) = Run.open(next((tmp_path / "runs").iterdir())).read_record("sessions")["sessions"]
    assert "evaluation.statistics=assets/statistics" in session["command"]
    assert str(REPOSITORY) not in session["command"]


def test_draws_for_each_class_need_classes():
    chosen = ["compressor=tome", "compressor.destinations=unpaired", "task=generate"]
    with pytest.raises(BiGainError, match="task=generate compares no classes"):
        Job(settings_of(composed(chosen)))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["start=99999"], "start=99999 goes .* number 9999, counted from 0; lower start"),
        (["start=99999", "limit=4"], "start=99999 with limit=4 goes .*; lower start"),
        (["start=9998", "limit=4"], "start=9998 with limit=4 goes .*; lower limit"),
        (["start=3", "limit=0"], "limit must lie in 1..10000"),
    ],
)
def test_images_beyond_the_last(asked, message, job, overrides):
    with pytest.raises(BiGainError, match=message):
        job([*[o for o in overrides if not o.startswith("limit")], *asked])

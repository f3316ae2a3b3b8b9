"""Whole runs on a small random DiT: what they store, refuse, and never compute twice."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bigain import config
from bigain.errors import BiGainError
from bigain.job import Job
from bigain.results.accuracy import accuracy_row
from bigain.results.store import Run
from bigain.runner import execute

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def overrides(small_dit, tmp_path) -> list[str]:
    return [
        f"model.path={small_dit}",
        "blocks=all",
        f"results={tmp_path}",
        "task.samples=[1,2]",
        "task.keep=[2,1]",
        "limit=12",
    ]


@pytest.fixture
def run(configure):
    return lambda overrides: execute(configure(overrides))


@pytest.fixture
def job(configure):
    return lambda overrides: Job(configure(overrides))


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "run.py"), *overrides]


def call(*overrides: str, **keywords):
    return subprocess.run(command(*overrides), capture_output=True, text=True, **keywords)


def assert_same(left, right) -> None:
    """Equal predictions, and errors to 1e-5."""
    assert left["image_id"].tolist() == right["image_id"].tolist()
    assert left["prediction"].tolist() == right["prediction"].tolist()
    for a, b in zip(left["errors"], right["errors"], strict=True):
        torch.testing.assert_close(
            torch.tensor(list(a)), torch.tensor(list(b)), rtol=0, atol=1e-5, check_dtype=False
        )


@pytest.mark.parametrize("group", config.GROUPS)
def test_every_config_builds(group, configure):
    for file in sorted((REPOSITORY / "configs" / group).glob("*.yaml")):
        cfg = configure([f"{group}={file.stem}"])
        config.check(cfg)
        try:
            built = config.build(cfg, group)
        except BiGainError as error:  # data that is not on this machine
            assert group == "dataset" and "set dataset.root to" in str(error)
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
    assert "against uncompressed" in out and "McNemar p" in out and "for matching" in out


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
    with pytest.raises(BiGainError, match="cannot be loaded"):
        run([*overrides, f"model.path={other}"])


def test_cost_is_recorded(overrides, run):
    cost = run([*overrides, "compressor=lgtm"]).read_record("cost")
    assert cost["gflops"] > cost["gflops_matching"] > 0
    assert cost["peak_memory_mib"] is None or cost["peak_memory_mib"] >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["compressor=lgtm", "compressor.ratio=0.8"], "ratio must lie in [0, 0.75]"),
        (["compressor=lgtm", "+compressor.ratoi=0.5"], "accepted: cells, destinations, name"),
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
        (["task.keep=[3]"], "one entry a stage"),
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
        ("compressor=lgtn", "lgtm_cached"),
        ("compresor=lgtm", "accepted keys"),
        ("batch_size=many", "many"),
        ("compressor.ratio=0.5", "accepted keys"),
    ],
)
def test_the_command_line_says_one_line(override, message):
    done = call(override)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_full_disk_is_one_line_and_loses_nothing(overrides, tmp_path, run):
    path = run([*overrides, "limit=8"]).path
    # no file may grow beyond 1 KiB, which a part does: the system's error is a full disk's
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command(*overrides)]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: " in done.stderr and "Traceback" not in done.stderr
    assert not list(path.glob(".*tmp*"))
    assert len(Run.open(path).rows()) == 8
    assert len(run(overrides).rows()) == 12


def test_sigterm_stops_the_sweep_and_is_no_failure(overrides, job):
    chosen = [*overrides, "limit=400", "batch_size=4"]
    first, second = (job([*chosen, f"seed={seed}"]).run_path for seed in (0, 1))
    process = subprocess.Popen(
        command("-m", *chosen, "seed=0,1", f"hydra.sweep.dir={first.parent}/hydra"),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(first.glob("part-*")):
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.01)
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 1 and error.endswith("the same command goes on\n")
    assert not second.exists()
    assert Run.open(first).finished() and not Run.open(first).records("failed")


def table(run: Run) -> dict:
    """The run's row, less what differs between two timings."""
    cost = run.read_record("cost")
    row = accuracy_row("none", run.rows(), cost=cost, fingerprint=run.fingerprint)
    return {k: v for k, v in row.items() if k not in ("seconds", "peak_memory_mib")}


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_nothing(overrides, tmp_path, run, job):
    chosen = [*overrides, "limit=240"]  # 30 parts, of which ten kills leave some to do
    whole = run([*chosen, f"results={tmp_path}/whole"])
    path = job(chosen).run_path
    draw = random.Random(0)
    kept = 0
    for _ in range(10):
        process = subprocess.Popen(
            command(*chosen, "batch_size=4"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # while it starts, or within its first or second part
        parts = len(list(path.glob("part-*"))) + draw.randint(0, 2)
        while len(list(path.glob("part-*"))) < parts or not (path / "run.json").exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
        finished = len(Run.open(path).finished())
        assert finished >= kept, "a finished image was lost"
        kept = finished
    assert 0 < kept < 240
    resumed = run(chosen)
    assert_same(whole.rows(), resumed.rows())
    assert table(resumed) == table(whole)


def test_an_experiment_sweeps_its_rows(overrides, tmp_path):
    done = call("-m", "experiment=demo", *overrides, "limit=3")
    assert done.returncode == 0, done.stderr
    abouts = [p.read_text() for p in (tmp_path / "runs").glob("*/run.json")]
    assert not any('"sweep"' in about or '"shard"' in about for about in abouts)
    names = sorted(p.name.rsplit("-", 2)[1] for p in (tmp_path / "runs").iterdir())
    assert names == sorted(["none", "tome", "sito", "todo", "lgtm", "iekvd"])


def test_a_session_s_command_holds_no_path_of_the_repository(overrides, tmp_path):
    inside = f"evaluation.statistics={REPOSITORY}/assets/statistics"
    done = call(*overrides, "limit=1", inside, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (session,) = Run.open(next((tmp_path / "runs").iterdir())).read_record("sessions")["sessions"]
    assert "evaluation.statistics=assets/statistics" in session["command"]
    assert str(REPOSITORY) not in session["command"]

"""Sweeps through every launcher: which jobs there are, and that they end in the same tables."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

import hydra_plugins.experiment_sweeper as sweeper
from bigain import config, experiments
from bigain.errors import BiGainError
from bigain.job import Job
from bigain.results.store import Run
from bigain.runner import execute
from bigain.shards import Shard

LAUNCHERS = sorted(p.stem for p in (config.REPOSITORY / "configs/hydra/launcher").glob("*.yaml"))


# --- which jobs


def jobs(*overrides: str) -> list[list[str]]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return sweeper.ExperimentSweeper.split_arguments(parsed, None)[0]


def test_a_product_is_swept_as_ever():
    assert jobs("seed=0,1", "compressor=lgtm") == [
        ["seed=0", "compressor=lgtm"],
        ["seed=1", "compressor=lgtm"],
    ]


def test_an_experiment_is_swept_by_rows_each_of_which_knows_it():
    made = jobs("experiment=demo", "limit=3", "seed=0,1")
    assert len(made) == 2 * len(experiments.load("demo").rows)
    for job in made:
        assert job[0] == "sweep=demo" and "limit=3" in job and "limit=64" not in job
        assert not any(o.startswith("experiment=") for o in job)
    assert sum("compressor=lgtm" in job for job in made) == 2


def test_a_cell_of_two_experiments_runs_once_and_belongs_to_the_first():
    both = jobs("experiment=table1,table4", "scale=mini")
    apart = [jobs(f"experiment={name}", "scale=mini") for name in ("table1", "table4")]
    assert both[: len(apart[0])] == apart[0]
    assert len({tuple(o for o in job if "sweep=" not in o) for job in both}) == len(both)
    assert max(map(len, apart)) < len(both) < sum(map(len, apart))
    assert all("scale=mini" in job and "results=${repository:results}/mini" in job for job in both)


def test_a_job_becomes_its_shards_unless_it_names_one():
    assert jobs("seed=0,1", "shards=2") == [
        [f"seed={seed}", "shards=2", f"shard={shard}"] for seed in (0, 1) for shard in (0, 1)
    ]
    assert jobs("shards=2", "shard=1") == [["shards=2", "shard=1"]]
    assert jobs("shards=2", "shard=null") == [["shards=2", "shard=null"]]
    assert jobs("shards=1,2") == [["shards=1"], ["shards=2", "shard=0"], ["shards=2", "shard=1"]]
    assert jobs("shards=1") == [["shards=1"]]


def test_an_unknown_experiment_or_scale_is_refused():
    with pytest.raises(BiGainError, match="no experiment absent"):
        jobs("experiment=absent")
    with pytest.raises(BiGainError, match="no scale huge"):
        jobs("experiment=table4", "scale=huge")


# --- launchers


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_preset_names_a_launcher(name):
    with initialize_config_dir(str(config.REPOSITORY / "configs"), version_base=None):
        cfg = compose("config", [f"hydra/launcher={name}"], return_hydra_config=True)
    launcher: Any = OmegaConf.to_container(cfg.hydra.launcher)
    assert launcher["_target_"] in Plugins.instance().class_name_to_class


@pytest.mark.parametrize("name", LAUNCHERS)
def test_one_that_is_not_installed_names_its_extra(name, monkeypatch):
    monkeypatch.setattr(sweeper, "find_spec", lambda _: None)
    cfg = OmegaConf.create({"hydra": {"runtime": {"choices": {"hydra/launcher": name}}}})
    asked = sweeper.ExperimentSweeper(None)
    with pytest.raises(
        BiGainError, match=rf"hydra/launcher={name} is not installed: .*pip install"
    ):
        asked.setup(hydra_context=None, task_function=None, config=cfg)


class Fake:
    """A launcher of which every job fails whose overrides say so."""

    def launch(self, job_overrides, initial_job_idx):
        if ["broken"] in job_overrides:
            raise RuntimeError("no such cluster")
        returns = []
        for overrides in job_overrides:
            failed = "seed=1" in overrides
            job = JobReturn(
                overrides=overrides, status=JobStatus.FAILED if failed else JobStatus.COMPLETED
            )
            job.return_value = BiGainError("no GPU") if failed else None
            returns.append(job)
        return returns


def test_failures_are_kept_for_the_end():
    tally = sweeper._Tally(Fake())
    assert len(tally.launch([["seed=0"], ["seed=1"], ["seed=2"]], 0)) == 2
    assert (tally.jobs, tally.failures) == (3, ["seed=1: no GPU"])
    with pytest.raises(BiGainError, match="broke off: RuntimeError: no such cluster"):
        tally.launch([["broken"]], 0)


@pytest.fixture
def overrides(small_dit, tmp_path) -> list[str]:
    return [
        f"model.path={small_dit}",
        "blocks=all",
        f"results={tmp_path}",
        "task.samples=[1,2]",
        "task.keep=[2,1]",
        "compressor=lgtm",
        "limit=12",
    ]


@pytest.fixture
def expected(configure, overrides, tmp_path):
    """The run of ``overrides`` in one process, elsewhere."""
    return lambda *more: execute(configure([*overrides, *more, f"results={tmp_path}/alone"]))


@pytest.fixture
def command(overrides, tmp_path, monkeypatch):
    """A sweep as a shell calls it, from a folder that is not the repository."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two workers of all threads wait for each other

    def build(*more: str, entry: tuple[str, ...] = (str(config.REPOSITORY / "run.py"),)):
        folder = f"hydra.sweep.dir={tmp_path}/hydra"
        return [sys.executable, *entry, "-m", *overrides, folder, *more]

    return build


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def assert_same(left: Run, right: Run) -> None:
    """Equal predictions, and errors to 1e-5."""
    a, b = left.rows(), right.rows()
    assert a["image_id"].tolist() == b["image_id"].tolist()
    assert a["prediction"].tolist() == b["prediction"].tolist()
    for one, other in zip(a["errors"], b["errors"], strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_failing_job_does_not_stop_the_others(command, expected, tmp_path):
    done = call(command("compressor.ratio=0.4,0.9,0.5"), tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    *_, failed, last = done.stderr.strip().splitlines()
    assert failed.startswith("failed: ") and "compressor.ratio=0.9" in failed
    assert "ratio must lie in [0, 0.75]" in failed
    assert last.startswith("error: 1 of 3 jobs failed")
    assert len(list((tmp_path / "runs").iterdir())) == 2
    again = expected("compressor.ratio=0.5")
    assert_same(again, Run.open(tmp_path / "runs" / again.path.name))


@pytest.mark.slow
def test_joblib_with_two_processes(command, expected, tmp_path):
    done = call(command("hydra/launcher=joblib", "shards=2", "seed=0,1"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    for seed in (0, 1):
        alone = expected(f"seed={seed}")
        there = Run.open(tmp_path / "runs" / alone.path.name)
        assert_same(alone, there)
        sessions = there.read_record("sessions")["sessions"]
        assert sorted(s["shard"] for s in sessions) == ["shard 0 of 2", "shard 1 of 2"]
        assert all(f"seed={seed} shard=" in s["command"] for s in sessions)


def holders(path: Path) -> list[int]:
    """The processes that have a file open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(path):
                found.append(int(link.parts[2]))
        except OSError:  # not ours, or gone
            continue
    return found


@pytest.mark.slow
def test_ray_runs_the_task_of_a_killed_worker_again(
    command, configure, overrides, expected, tmp_path
):
    more = ["limit=100", "batch_size=2"]
    job = Job(configure([*overrides, *more]))
    folder, mine = job.run_path, set(Shard(2, 0).of(job.ids))
    ray = ["hydra/launcher=ray", "shards=2", "+hydra.launcher.ray.init.num_cpus=2"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            command(*ray, *more), cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT
        )
        killed: list[int] = []
        while not killed:
            said = (tmp_path / "output").read_text()
            assert process.poll() is None, f"it ended before the kill: {said}"
            time.sleep(0.01)
            if list(folder.glob("part-*")) and mine & Run.open(folder).finished():
                killed = holders(folder / ".lock-0-of-2")
        os.kill(killed[0], signal.SIGKILL)
        assert process.wait() == 0, (tmp_path / "output").read_text()
    run = Run.open(folder)
    assert_same(expected(*more), run)
    # the killed one left no session, and what it had finished was not computed again
    images = [s["images"] for s in run.read_record("sessions")["sessions"]]
    assert len(images) == 2 and sum(images) < 100
    assert killed[0] not in holders(folder / ".lock-0-of-2")


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "debug"])
def test_submitit(executor, command, expected, tmp_path):
    """``debug`` is submitit's own executor for tests, which runs jobs in the process itself."""
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[1:]; "
        "from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher; "
        f"LocalLauncher._EXECUTOR = '{executor}'; "
        "sys.argv[0] += '/run.py'; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    entry = ("-c", code, str(config.REPOSITORY))
    done = call(command("hydra/launcher=submitit_local", entry=entry), tmp_path)
    assert done.returncode == 0, done.stderr
    alone = expected()
    assert_same(alone, Run.open(tmp_path / "runs" / alone.path.name))

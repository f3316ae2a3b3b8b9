"""Sweeps through every launcher: which jobs there are, and that they end in the same tables."""

import importlib
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import OmegaConf
from submitit.core.utils import FailedJobError

from bigain.errors import BiGainError
from bigain.experiments import experiment_files, last_sweep
from bigain.experiments.plugins import register_plugins
from bigain.store.runs import Run
from bigain.store.shards import Shard
from bigain.utils.paths import REPOSITORY
from tests import gpu_job
from tests.runs import assert_same_table, call, finish, start

register_plugins()  # before the sweeper is imported, as in run.py
sweeper = importlib.import_module("bigain.experiments.sweeper")
LAUNCHERS = sorted(p.stem for p in (REPOSITORY / "configs/hydra/launcher").glob("*.yaml"))


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
    assert len(made) == 2 * len(experiment_files.load("demo").rows)
    for job in made:
        assert job[0] == "sweep=demo" and "limit=3" in job and "limit=100" not in job
        assert not any(o.startswith("experiment=") for o in job)
    assert sum("compressor=lgtm" in job for job in made) == 2


def test_an_entry_of_two_experiments_runs_once_and_belongs_to_the_first():
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
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
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
    with pytest.raises(BiGainError, match="the launcher failed: RuntimeError: no such cluster"):
        tally.launch([["broken"]], 0)


def test_a_sweep_that_cannot_be_remembered_still_prints_its_table(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(last_sweep, "FILE", blocked / "last_sweep.json")
    monkeypatch.setattr(
        sweeper.ExperimentSweeper, "compare", staticmethod(lambda runs: print(*runs))
    )
    sweeper.ExperimentSweeper(max_batch_size=None)._table(
        ["compressor=tome,lgtm"], ["one", "other"]
    )
    said = capsys.readouterr()
    assert said.out == "one other\n" and "--last will not know this sweep" in said.err


def test_slurm_takes_what_the_preset_asks_for(tmp_path, monkeypatch):
    """Through the launcher and submitit to the script that sbatch is called with."""
    for name, body in {"srun": "", "sbatch": f"cp $1 {tmp_path}/script; exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    chosen = [
        "hydra/launcher=submitit_slurm",
        f"hydra.sweep.dir={tmp_path}/hydra",
        "hydra.launcher.partition=gpu",
        "+hydra.launcher.additional_parameters.account=me",
        "hydra.launcher.setup=['module load cuda']",
    ]
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
        cfg = compose("config", chosen, return_hydra_config=True)
        cfg.hydra.runtime.output_dir = str(tmp_path)
        HydraConfig.instance().set_config(cfg)
        launcher = instantiate(cfg.hydra.launcher)
        launcher.setup(hydra_context=None, task_function=None, config=cfg)
        with pytest.raises(FailedJobError):
            launcher.launch([["seed=0"], ["seed=1"], ["seed=2"]], 0)
    script = (tmp_path / "script").read_text()
    for line in (
        "#SBATCH --array=0-2%3",
        "#SBATCH --job-name=bigain",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=240",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=32GB",
        "#SBATCH --account=me",
        "module load cuda",
    ):
        assert f"\n{line}\n" in script, script


# --- sweeps


@pytest.fixture
def overrides(overrides) -> list[str]:
    return [*overrides, "compressor=lgtm"]


@pytest.fixture
def alone(overrides, run, tmp_path):
    """The run of ``overrides`` in one process, elsewhere."""
    return lambda *more: run([*overrides, *more, f"results={tmp_path}/alone"])


@pytest.fixture
def sweep(overrides, tmp_path, monkeypatch) -> list[str]:
    """What a sweep gives to run.py."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two workers of all threads wait for each other
    return ["-m", *overrides, f"hydra.sweep.dir={tmp_path}/hydra"]


@pytest.fixture
def launch(sweep, tmp_path):
    """Starts a sweep in a folder that is not the repository, and says what it wrote so far."""
    output = tmp_path / "output"
    return (lambda *more: start(*sweep, *more, folder=tmp_path, output=output)), output.read_text


def holders(path: Path) -> set[int]:
    """The processes that have a file open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(path):
                found.add(int(link.parts[2]))
        except OSError:  # not ours, or gone
            continue
    return found


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


@pytest.mark.slow
def test_a_failing_job_does_not_stop_the_others(sweep, alone, tmp_path):
    done = finish(*sweep, "compressor.ratio=0.4,0.9,0.5", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    *_, failed, last = done.stderr.strip().splitlines()
    assert failed.startswith("failed: ") and "compressor.ratio=0.9" in failed
    assert "ratio must lie in [0, 0.75]" in failed
    assert last.startswith("error: 1 of 3 jobs failed")
    assert len(list((tmp_path / "runs").iterdir())) == 2
    again = alone("compressor.ratio=0.5")
    assert_same_table(again, Run.open(tmp_path / "runs" / again.path.name))


@pytest.mark.slow
def test_joblib_with_two_processes(sweep, alone, tmp_path):
    done = finish(*sweep, "hydra/launcher=joblib", "shards=2", "seed=0,1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    for seed in (0, 1):
        whole = alone(f"seed={seed}")
        there = Run.open(tmp_path / "runs" / whole.path.name)
        assert_same_table(whole, there)
        sessions = there.read_record("sessions")["sessions"]
        assert sorted(s["shard"] for s in sessions) == ["shard 0 of 2", "shard 1 of 2"]
        assert all(f"seed={seed} shard=" in s["command"] for s in sessions)


@pytest.mark.slow
def test_sigkill_of_a_sweep_of_two_workers_loses_nothing(launch, alone, overrides, job):
    begin, said = launch
    more = ["hydra/launcher=joblib", "shards=2", "limit=240"]
    folder = job([*overrides, "limit=240"]).run_path
    draw = random.Random(0)
    kept: dict[str, bytes] = {}
    for _ in range(2):
        process = begin(*more, "batch_size=1")  # slow enough for both to be at it: 15 parts each
        wanted = len(kept) + draw.randint(1, 4)
        while len(parts(folder)) < wanted or len(Run.open(folder).running()) < 2:
            assert process.is_alive(), said()
            time.sleep(0.005)
        workers = [holders(folder / f".lock-{shard}-of-2") for shard in (0, 1)]
        assert {os.getpgid(pid) for pid in set.union(*workers)} == {process.pid}
        assert all(workers) and not set.intersection(*workers), "two processes, a shard each"
        time.sleep(draw.random() * 0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
        while Run.open(folder).running():
            time.sleep(0.001)
        assert kept.items() <= parts(folder).items(), "a finished part was lost or changed"
        kept = parts(folder)
    before = Run.open(folder).rows()
    images = len(before)
    assert 0 < images < 240
    process = begin(*more)
    process.join()
    assert process.exitcode == 0, said()
    after = Run.open(folder).rows()  # in one part
    assert after[after["image_id"].isin(before["image_id"])].equals(
        before.set_index(after.index[after["image_id"].isin(before["image_id"])])
    ), "a finished row was lost or changed"
    resumed = Run.open(folder)
    sessions = resumed.read_record("sessions")["sessions"]
    assert sum(s.get("images", 0) for s in sessions) == 240 - images, "an image was computed again"
    assert_same_table(alone("limit=240"), resumed)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "debug"])
def test_submitit(executor, sweep, alone, tmp_path):
    """``debug`` is submitit's own executor for tests, which runs jobs in the process itself."""
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[1:]; "
        "from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher; "
        f"LocalLauncher._EXECUTOR = '{executor}'; "
        "sys.argv[0] += '/run.py'; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    entry = ("-c", code, str(REPOSITORY))
    done = call(*sweep, "hydra/launcher=submitit_local", entry=entry, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = alone()
    assert_same_table(whole, Run.open(tmp_path / "runs" / whole.path.name))


# --- Ray


def first_part_of(folder: Path, mine: set[str], lock: str, process, said) -> int:
    """The worker that holds ``lock``, once it has finished some of ``mine``."""
    while True:
        assert process.is_alive(), f"it ended before the kill: {said()}"
        if parts(folder) and mine & Run.open(folder).finished():
            (worker,) = holders(folder / lock)
            return worker
        time.sleep(0.01)


@pytest.mark.slow
def test_ray_runs_the_task_of_a_killed_worker_again(launch, alone, overrides, job):
    begin, said = launch
    more = ["limit=100", "batch_size=2"]
    asked = job([*overrides, *more])
    folder, mine = asked.run_path, set(Shard(2, 0).of(asked.ids))
    process = begin(*more, "hydra/launcher=ray", "shards=2", "+hydra.launcher.ray.init.num_cpus=2")
    killed = first_part_of(folder, mine, ".lock-0-of-2", process, said)
    os.kill(killed, signal.SIGKILL)
    process.join()
    assert process.exitcode == 0, said()
    resumed = Run.open(folder)
    assert_same_table(alone(*more), resumed)
    # the killed one's session has no end, and what it had finished was not computed again
    sessions = resumed.read_record("sessions")["sessions"]
    images = [session["images"] for session in sessions if "finished" in session]
    assert len(images) == 2 and sum(images) < 100


@pytest.mark.slow
def test_ray_gives_each_job_a_gpu_of_its_own(tmp_path, monkeypatch):
    """Of two that a machine declares, which needs no hardware."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    process = start(
        *("-m", "hydra/launcher=ray", "seed=0,1,2", f"results={tmp_path}"),
        *("+hydra.launcher.ray.init.num_gpus=2", "+hydra.launcher.ray.init.num_cpus=4"),
        f"hydra.sweep.dir={tmp_path}/hydra",
        script=str(Path(gpu_job.__file__)),
        folder=tmp_path,
        output=tmp_path / "output",
    )
    process.join()
    assert process.exitcode == 0, (tmp_path / "output").read_text()
    told = [json.loads((tmp_path / f"{seed}.json").read_text()) for seed in range(3)]
    first, second, third = sorted(told, key=lambda one: one["began"])
    assert second["began"] < first["ended"], "two run at once"
    assert {first["sees"], second["sees"]} == {"0", "1"}
    assert third["began"] >= min(first["ended"], second["ended"]), "no third one beside them"
    assert third["sees"] in ("0", "1")


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Starts a node of a Ray cluster, of one CPU, and returns its process and its output."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    started: list[subprocess.Popen] = []

    def begin(*arguments: str) -> tuple[subprocess.Popen, str]:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        path = tmp_path / f"node{len(started)}"
        with path.open("w") as output:
            process = subprocess.Popen(
                [*ray, *ports, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        while "block forever" not in path.read_text():
            assert process.poll() is None, path.read_text()
            time.sleep(0.05)
        return process, path.read_text()

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_node_leaves_the_ray_cluster_that_a_sweep_joined(node, launch, alone, overrides, job):
    begin, said = launch
    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="ray") as folder:
        free.bind(("", 0))
        port = free.getsockname()[1]
        free.close()
        # sockets lie in the folder, and tmp_path would be too long for their names
        head = ("--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")
        _, told = node(*head)
        address = re.search(rf"[\w.:]+:{port}", told)[0]
        leaving, _ = node(f"--address={address}", "--node-ip-address=127.0.0.2")
        more = ["limit=100", "batch_size=2"]
        asked = job([*overrides, *more])
        there = asked.run_path
        ray = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}", "shards=2"]
        process = begin(*more, *ray)
        nodes: dict[int, int] = {}
        for shard in (0, 1):
            mine = set(Shard(2, shard).of(asked.ids))
            worker = first_part_of(there, mine, f".lock-{shard}-of-2", process, said)
            raylet = int(Path(f"/proc/{worker}/stat").read_text().rsplit(") ", 1)[1].split()[1])
            nodes[os.getpgid(raylet)] = worker
        assert len(nodes) == 2, "a task on each node"
        os.killpg(leaving.pid, signal.SIGKILL)
        os.kill(nodes[leaving.pid], signal.SIGKILL)
        process.join()
        assert process.exitcode == 0, said()
    resumed = Run.open(there)
    assert_same_table(alone(*more), resumed)
    sessions = resumed.read_record("sessions")["sessions"]
    images = [session["images"] for session in sessions if "finished" in session]
    assert len(images) == 2 and sum(images) < 100, "what it had finished was computed again"


@pytest.mark.slow
def test_workers_of_a_killed_joblib_sweep_free_their_locks(sweep, job, overrides, tmp_path):
    """The sweep's own process alone is killed, so that nothing but its workers can notice."""
    folder = job([*overrides, "limit=240"]).run_path
    more = ["hydra/launcher=joblib", "shards=2", "limit=240", "batch_size=1"]
    command = [sys.executable, str(REPOSITORY / "run.py"), *sweep, *more]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    try:
        while not (folder / "run.json").exists() or len(Run.open(folder).running()) < 2:
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    killed = time.monotonic()
    while Run.open(folder).running():
        assert time.monotonic() - killed < 5, "workers outlive their sweep"
        time.sleep(0.01)
    assert len(Run.open(folder).finished()) < 240, "they ended because they were done"

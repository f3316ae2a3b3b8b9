"""The Ray launcher of hydra-ray-launcher, for sweeps that outlive their processes and nodes.

Its own stops the sweep at the first task that Ray gives up, sees no exception to retry, and cannot
join a running cluster (it always sets the size of the object store, which Ray then refuses).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from bigain.errors import BiGainError


class RayLauncher(Launcher):
    """One Ray task per job.

    Args:
        ray: ``init``, the arguments of ``ray.init``, and ``remote``, those of ``ray.remote``;
            ``num_gpus`` null is 1 in a cluster with GPUs and 0 in one without.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.settings = ray

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        import ray  # only here, as Hydra imports every plugin whether used or not
        from hydra_plugins.hydra_ray_launcher._launcher_util import start_ray

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        start_ray(self.settings.init)
        options: Any = OmegaConf.to_container(self.settings.remote, resolve=True)
        if options.get("num_gpus") is None:
            options["num_gpus"] = int(ray.cluster_resources().get("GPU", 0) > 0)
        task = ray.remote(**options)(run_task)
        loader = self.hydra_context.config_loader
        started = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            cfg = loader.load_sweep_config(self.config, list(overrides))
            with open_dict(cfg):
                cfg.hydra.job.id = str(number)
                cfg.hydra.job.num = number
            state = Singleton.get_state()
            started.append(task.remote(self.hydra_context, cfg, self.task_function, state))
        return [
            _result(task, overrides) for task, overrides in zip(started, job_overrides, strict=True)
        ]


def run_task(
    hydra_context: HydraContext, cfg: DictConfig, task_function: TaskFunction, state: dict[Any, Any]
) -> JobReturn:
    """One job in Ray's process.

    Raises:
        Exception: the job's own, for Ray to try again; an error that will come again, which are
            ours, is part of the result instead.
    """
    from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job

    done: JobReturn = _run_job(hydra_context, cfg, task_function, state)
    if done.status == JobStatus.FAILED and not isinstance(done._return_value, BiGainError):
        raise done._return_value
    return done


def _result(task: Any, overrides: Sequence[str]) -> JobReturn:
    """What a task returned; a failed job where Ray gave it up."""
    import ray

    try:
        done: JobReturn = ray.get(task)
        return done
    except Exception as error:
        cause = getattr(error, "cause", None) or error
        lost = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
        lost.return_value = cause
        return lost

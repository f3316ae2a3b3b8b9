"""Hydra's basic sweeper, which also sweeps experiments and shards and continues after failures.

python run.py -m experiment=table4 shards=4 hydra/launcher=ray
"""

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bigain.errors import BiGainError
from bigain.experiments import experiment_files
from bigain.experiments.forecast import (
    HERE,
    SECONDS,
    SECONDS_SMALL,
    forecast,
    headline,
    looks,
    outlook,
    paces,
)
from bigain.experiments.last_sweep import remember
from bigain.experiments.schema import explain
from bigain.utils.paths import REPOSITORY

# The package of each launcher beside basic, and the extra of pyproject.toml that installs it.
PACKAGES = {
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "ray": ("hydra_ray_launcher", "ray"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
}


class ExperimentSweeper(BasicSweeper):
    """One job for each row, task and shard of ``experiments/<experiment>.yaml``.

    Any other sweep multiplies them.

    Attributes:
        compare: is given the folders of a sweep's runs, to print a table of them.
    """

    compare: ClassVar[Callable[[Sequence[str]], None] | None] = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        chosen = config.hydra.runtime.choices["hydra/launcher"]
        package, extra = PACKAGES.get(chosen, (None, None))
        if package and find_spec(f"hydra_plugins.{package}") is None:
            raise BiGainError(
                f"hydra/launcher={chosen} is not installed: "
                f"python -m pip install -e '{REPOSITORY}[{extra}]'"
            )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job.

        Raises:
            BiGainError: once all have run, if some failed.
        """
        assert self.launcher is not None and self.config is not None
        chosen = self.config.hydra.runtime.choices["hydra/launcher"]
        tally = _Tally(self.launcher, chosen)
        self.launcher = tally
        returns = super().sweep(arguments)
        for line in tally.failures:
            print(f"failed: {line}", file=sys.stderr)
        self._table(arguments, tally.runs)
        if tally.failures:
            raise BiGainError(
                f"{len(tally.failures)} of {tally.jobs} jobs failed; finished images are kept, and "
                "the same command tries the rest again"
            )
        return returns

    def _table(self, arguments: Sequence[str], runs: Sequence[str]) -> None:
        """Remember the runs, and print their table, or the command that makes it."""
        if not runs:
            return
        try:
            remember(runs)
        except BiGainError as error:  # the runs themselves are complete
            print(f"table --last will not know this sweep: {error}", file=sys.stderr)
        parsed = OverridesParser.create().parse_overrides(list(arguments))
        if names := _values(parsed, "experiment"):
            for name in names:
                for scale in _values(parsed, "scale") or [""]:
                    more = f" --scale {scale}" if scale else ""
                    print(f"table: python -m bigain.reporting table {name}{more}")
        elif (compare := type(self).compare) is not None and len(runs) > 1:
            try:
                compare(runs)
            except BiGainError as error:  # here, too
                print(f"no table: {error}", file=sys.stderr)

    @staticmethod
    def split_arguments(
        overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        rest = [o for o in overrides if o.key_or_group not in ("experiment", "scale")]
        products = BasicSweeper.split_arguments(rest, None)[0]
        entries = _experiments(_values(overrides, "experiment"), _values(overrides, "scale"))
        jobs: dict[tuple[str, ...], list[str]] = {}
        for entry in entries:
            for product in products:
                # the command line comes last, and the later of two overrides of a key wins
                job = list({_key(override): override for override in [*entry, *product]}.values())
                for shard in _shards(job):
                    jobs.setdefault(_identity(shard), shard)
        return list(BasicSweeper.split_overrides_to_chunks([*jobs.values()], max_batch_size))


class _Tally(Launcher):
    """A launcher that collects failures instead of raising them, so that the sweep continues.

    Before the first job, it says what those of an experiment are about to do.

    Args:
        launcher: what it passes the jobs to.
        name: the launcher's name.

    Attributes:
        jobs: number of jobs that have run.
        runs: the folders of the runs that they belong to.
        failures: one line for each job that failed.
    """

    def __init__(self, launcher: Launcher, name: str = "basic") -> None:
        self._launcher, self._name = launcher, name
        self.jobs = 0
        self.failures: list[str] = []
        self.runs: list[str] = []

    def setup(self, **_: Any) -> None:
        """Do nothing: the launcher has already been set up."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        if initial_job_idx == 0:
            _foretell(job_overrides, self._name)
        try:
            returns = self._launcher.launch(job_overrides, initial_job_idx)
        except BiGainError:
            raise
        except Exception as error:  # it lost a process, or cannot reach its cluster
            first = (str(error).splitlines() or [""])[0]  # Ray's messages continue with a traceback
            raise BiGainError(
                f"the launcher failed: {type(error).__name__}: {first}; "
                "finished images are kept, and the same command resumes"
            ) from error
        self.jobs += len(returns)
        failed = [r for r in returns if r.status != JobStatus.COMPLETED]
        for job in failed:
            self.failures.append(f"{' '.join(job.overrides or [])}: {explain(job._return_value)}")
        done = [r for r in returns if r.status == JobStatus.COMPLETED]
        self.runs = list(
            dict.fromkeys([*self.runs, *(r.return_value for r in done if r.return_value)])
        )
        return done


def _foretell(jobs: Sequence[Sequence[str]], launcher: str) -> None:
    """Print what the jobs of each experiment are about to do."""
    swept: dict[tuple[str, str | None], dict[tuple[str, ...], None]] = {}
    for job in jobs:
        given = dict(o.split("=", 1) for o in job if "=" in o)
        if name := given.get("sweep"):
            about = ("sweep", "scale", "shards", "shard")  # which are no part of an entry
            run = tuple(o for o in job if _key(o) not in about)
            swept.setdefault((name, given.get("scale")), {})[run] = None
    if not swept:
        return
    from bigain.experiments.entry_memory import EntryMemory  # only now: pandas takes a second

    elsewhere = "" if launcher in HERE else f"hydra/launcher={launcher} runs on other devices"
    running = GlobalHydra.instance().hydra  # which composing entries clears
    with EntryMemory().kept() as memory:
        for (name, scale), runs in swept.items():
            entries = [experiment_files.Entry(list(run)) for run in runs]
            found = forecast(looks(entries, memory))
            title = f"{name} ({scale})" if scale else name
            seconds = SECONDS if scale == "paper" else SECONDS_SMALL
            known = paces(found.shares, seconds, elsewhere) if found.shares else []
            print(*headline(title, found), *outlook(found, known), sep="\n", flush=True)
    GlobalHydra.instance().hydra = running


def _values(overrides: Sequence[Override], key: str) -> list[str]:
    """What the last override of ``key`` gives, or sweeps over."""
    found = [o for o in overrides if o.key_or_group == key]
    if not found:
        return []
    if found[-1].is_sweep_override():
        return list(found[-1].sweep_string_iterator())
    return [found[-1].get_value_element_as_str()]


def _experiments(names: Sequence[str], scales: Sequence[str]) -> list[list[str]]:
    """The overrides of every entry of all experiments at all scales; none without a name."""
    given: list[str | None] = [*scales] or [None]
    if not names:
        return [[] if scale is None else [f"scale={scale}"] for scale in given]
    return [
        [f"sweep={name}", *([] if scale is None else [f"scale={scale}"]), *entry.overrides]
        for name in names
        for scale in given
        for row in experiment_files.load(name, scale).rows
        for entry in row.entries.values()
    ]


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _identity(job: Sequence[str]) -> tuple[str, ...]:
    """What two experiments that share an entry have in common; its run belongs to the first."""
    return tuple(o for o in job if _key(o) != "sweep")


def _shards(job: list[str]) -> list[list[str]]:
    """The job once for each of its shards, unless it names one."""
    given = dict(override.split("=", 1) for override in job if "=" in override)
    count = given.get("shards", "1")
    if "shard" in given or not count.isdecimal():  # anything else is refused by the job
        return [job]
    return [[*job, f"shard={i}"] for i in range(int(count))] if int(count) > 1 else [job]

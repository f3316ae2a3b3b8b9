"""The candidates of ``task=tune``, each run as ordinary jobs, and the config of the best.

Nothing is kept beside the runs: the search is seeded and sequential, so the same command asks for
the same candidates again and finds those that are finished.
"""

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from bigain.errors import BiGainError
from bigain.experiments.composition import CONFIGS, composed
from bigain.experiments.configuration import Settings
from bigain.experiments.experiment_files import Entry
from bigain.experiments.job import Job
from bigain.experiments.methods import method, methods
from bigain.experiments.runner import Finished, execute, portable
from bigain.experiments.search import Point, search
from bigain.profiling.flops import Flops
from bigain.store.identity import fingerprint
from bigain.tasks import TASKS
from bigain.tasks.columns import Results, Row
from bigain.tasks.tune import COMPRESSION, Tune
from bigain.utils import files
from bigain.utils.setting_types import shown
from bigain.utils.tables import printable

MOST = 1_000  # combinations, as the FLOPs of each are counted
FOLDER = "tuned"  # a folder in the results, and the group whose options its files are
CAUTION = "Chosen on these images, it looks better on them than it is; report it on others:"
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_][\w.@+-]*", re.I)  # needs no quotes


@dataclass(frozen=True)
class Axis:
    """A key of the space and its values, in an order that does not depend on how they were given.

    Attributes:
        ordered: whether the values are numbers.
    """

    key: str
    values: Sequence[Any]
    ordered: bool

    @classmethod
    def of(cls, key: str, given: Sequence[Any]) -> "Axis":
        """The axis of a key and the values that the user lists for it.

        Raises:
            BiGainError: if the key is "method" and a value names none.
        """
        values = _references(given) if key == "method" else list(given)
        distinct = {override_text(value): value for value in values}
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        order = sorted(distinct, key=lambda text: distinct[text] if numbers else text)
        return cls(key, [distinct[text] for text in order], numbers)

    def overrides(self, place: int) -> list[str]:
        """What chooses the value at this place on a command line."""
        value = self.values[place]
        if self.key == "method":
            return list(method(value).overrides)
        return [f"{self.key}={override_text(value)}"]

    def title(self, place: int) -> str:
        """The value at this place, as a candidate's title names it."""
        value = self.values[place]
        return value if self.key == "method" else f"{self.key}={override_text(value)}"


def override_text(value: Any) -> str:
    """A plain value as the right side of an override, such as ``[0,1]`` or ``{noise:0.8}``."""
    if isinstance(value, Mapping):
        pairs = (f"{override_text(k)}:{override_text(v)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(override_text, value))}]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _references(given: Sequence[Any]) -> list[str]:
    """Methods by reference; a name alone stands for all of its strengths."""
    found: list[str] = []
    for reference in given:
        if not isinstance(reference, str):
            raise BiGainError(
                f"task.space.method takes references such as tome@0.5; got {shown(reference)}"
            )
        every = [known for known in methods() if known.split("@")[0] == reference]
        found += every or [method(reference).reference]
    return found


@dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Attributes:
        title: the values that tell it from the others.
        entries: its jobs, by task.
    """

    title: str
    entries: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """What names its results: candidates of the same name are one."""
        return " ".join(entry.run_path.name for entry in self.entries.values())


class Tuning:
    """A search under way.

    Args:
        settings: the settings of the search.
        given: the command line's overrides.
        finished: as `bigain.experiments.runner.execute` takes it.
    """

    def __init__(
        self, settings: Settings, given: Sequence[str], finished: Finished | None = None
    ) -> None:
        assert isinstance(settings.task, Tune)
        self.task, self.setup = settings.task, settings.setup
        self.given, self.finished = list(given), finished
        space = self.task.chosen_space(self.setup.names["compressor"])
        first = ("method", "compressor")  # a method's settings give way to those of other keys
        keys = sorted(space, key=lambda key: (key not in first, key))
        self.axes = [Axis.of(key, space[key]) for key in keys]
        count = math.prod(len(axis.values) for axis in self.axes)
        if count > MOST:
            raise BiGainError(
                f"task.space has {count:,} combinations, and at most {MOST:,} are tried for their "
                "FLOPs; shorten its lists"
            )
        self.base = _without(self.given, "task")
        if not set(first).isdisjoint(space):
            self.base = _without(self.base, "compressor")
        self._counted: dict[Any, Flops | None] = {}

    def candidate(self, point: Point) -> Candidate:
        """The candidate at a point, which holds a place on each axis."""
        places = list(zip(self.axes, point, strict=True))
        own = [override for axis, place in places for override in axis.overrides(place)]
        entries = {
            task: _entry(task, self.base, [*_overrides(settings), *own])
            for task, settings in self.task.jobs.items()
        }
        return Candidate(" ".join(axis.title(place) for axis, place in places), entries)

    @cached_property
    def uncompressed(self) -> Candidate:
        """What all candidates are compared with."""
        base = _without(self.base, "compressor")
        entries = {}
        for task, settings in self.task.jobs.items():
            left_out = {f"task.{name}" for name in TASKS[task].compressed_only}
            kept = {key: value for key, value in settings.items() if key not in left_out}
            entries[task] = _entry(task, base, [*_overrides(kept), "compressor=none"])
        return Candidate("uncompressed", entries)

    def run(self) -> None:
        """Run the candidates, print them, and write the config of the best.

        Raises:
            BiGainError: if no candidate fits, or a job cannot be run.
        """
        self._check_scored()
        usable = self._usable()
        baseline = self._results(self.uncompressed)
        most = min(self.task.candidates, len(set(usable.values())))
        tried: dict[Point, Row] = {}

        def loss(point: Point) -> float:
            candidate = self.candidate(point)
            print(f"\ncandidate {len(tried) + 1} of {most}: {candidate.title}", flush=True)
            tried[point] = self._row(candidate, self._results(candidate), baseline)
            return float(tried[point]["loss"])

        sizes = [(len(axis.values), axis.ordered) for axis in self.axes]
        search(sizes, usable, loss, self.task.candidates, self.setup.seed)
        order = sorted(
            tried, key=lambda point: (tried[point]["loss"], tried[point]["gflops"], point)
        )
        rows = [tried[point] for point in order]
        reference = self._row(self.uncompressed, baseline, baseline)
        table, legend = self.task.summary(pd.DataFrame(rows), pd.DataFrame([reference]))
        print(f"\n{table}\n\n{legend}\n")
        best, path = self.candidate(order[0]), self._path(usable.values())
        by_config, by_hand = self._commands(best, path)
        self._write(path, best, rows, by_config)
        print(f"best: {best.title}\n{CAUTION}\n  {by_config}\n  {by_hand}\n{path}")

    def _check_scored(self) -> None:
        """Refuse generation without FID before anything is run."""
        for task, entry in self.uncompressed.entries.items():
            scoring = entry.job.scoring
            names = [metric.name for metric in scoring.chosen] if scoring else []
            if TASKS[task].scored and "fid" not in names:
                raise BiGainError(
                    "FID is part of the loss, and features=none or evaluation.metrics.fid=null "
                    "leaves it out; remove that, or set task.points_per_fid=0"
                )

    def _usable(self) -> dict[Point, str]:
        """The points within the budget, and what names their results.

        FLOPs are counted without weights, and before anything is run.
        """
        whole = {task: self._flops(e.job) for task, e in self.uncompressed.entries.items()}
        points = list(product(*(range(len(axis.values)) for axis in self.axes)))
        shares: dict[Point, float] = {}
        usable: dict[Point, str] = {}
        problems: list[str] = []
        for point in points:
            candidate = self.candidate(point)
            try:
                shares[point] = max(
                    self._flops(entry.job).total / whole[task].total
                    for task, entry in candidate.entries.items()
                )
            except BiGainError as error:
                problems.append(f"{candidate.title}: {error}")
                continue
            if shares[point] <= self.task.budget:
                usable[point] = candidate.name
        if not shares:
            raise BiGainError(f"no candidate can be run: {problems[0]}")
        gflops = max(flops.total for flops in whole.values()) / 1e9
        if not usable:
            cheapest = min(shares, key=lambda point: shares[point])
            raise BiGainError(
                f"none of {len(shares)} candidates fits task.budget={self.task.budget:g}: the "
                f"cheapest, {self.candidate(cheapest).title}, takes {shares[cheapest]:.3f} of the "
                f"uncompressed model's {gflops:.3f} GFLOPs per evaluation; raise task.budget, or "
                "give task.space stronger settings"
            )
        print(
            f"{len(usable)} of {len(points)} candidates take at most {self.task.budget:g} of the "
            f"uncompressed model's {gflops:.3f} GFLOPs per evaluation"
        )
        if problems:
            print(f"{len(problems)} cannot be run, such as {problems[0]}")
        return usable

    def _flops(self, job: Job) -> Flops:
        """FLOPs of one evaluation, each counted once.

        Raises:
            BiGainError: if they depend on the data.
        """
        compressor = job.setup.compressor
        cascade = job.task.uncompressed_share(len(job.dataset.classes)) > 0
        mixed = cascade or (compressor is not None and compressor.anchor_every is not None)
        own = job.task.name if mixed else ""
        key = (str(job.skeleton.config), repr(compressor), *job.blocks, job.setup.sites, own)
        if key not in self._counted:
            self._counted[key] = job.flops
        if (found := self._counted[key]) is None:
            raise BiGainError(
                f"the FLOPs of {compressor!r} depend on the image, so that no budget can be kept; "
                "give it a ratio and, if it is anchored, set task.classify.strategy=staged"
            )
        return found

    def _results(self, candidate: Candidate) -> dict[str, Results]:
        """What the candidate's jobs give, which are run if they are not finished."""
        found = {}
        for task, entry in candidate.entries.items():
            execute(composed(entry.overrides), self.finished, entry.command)
            found[task] = entry.job.results()
            if TASKS[task].scored and (found[task].scores or {}).get("fid") is None:
                raise BiGainError(
                    "FID is part of the loss, and task.generate draws too few images for it; raise "
                    "task.generate.limit, or set task.points_per_fid=0"
                )
        return found

    def _row(
        self, candidate: Candidate, found: Mapping[str, Results], baseline: Mapping[str, Results]
    ) -> Row:
        """The candidate's row of the table, with its FLOPs and its loss."""
        row: Row = {}
        for task, results in found.items():
            made = TASKS[task].row(candidate.title, results, baseline[task])
            row |= {key: value for key, value in made.items() if value is not None}
        gflops = [self._flops(entry.job).total / 1e9 for entry in candidate.entries.values()]
        return {**row, "gflops": max(gflops), "loss": self.task.loss(row)}

    def _path(self, runs: Iterable[str]) -> Path:
        """The config's file, which is the same for all searches that ask the same question.

        Args:
            runs: what names the results of each candidate within the budget.
        """
        about = {
            "runs": sorted(set(runs)),
            "budget": self.task.budget,
            "points_per_fid": self.task.points_per_fid,
            "jobs": {task: dict(given) for task, given in self.task.jobs.items()},
        }
        name = f"{self.setup.names['model']}-{fingerprint(about)[:8]}"
        return self.setup.results / FOLDER / f"{name}.yaml"

    def _commands(self, best: Candidate, path: Path) -> list[str]:
        """Commands that run the best candidate on other images: by its config, and by hand."""
        task, entry = next(iter(best.entries.items()))
        kept = _without(entry.overrides, "compressor", *COMPRESSION)
        own = [override for override in entry.overrides if override not in kept]
        by_config = ["--config-dir", str(self.setup.results), f"+{FOLDER}={path.stem}"]
        base = _without(self.base, "compressor", *COMPRESSION)
        rest = [*base, f"task={task}", *_other_images(entry.job)]
        return [portable(f"python run.py {shlex.join([*how, *rest])}") for how in (by_config, own)]

    def _write(self, path: Path, best: Candidate, rows: Sequence[Row], by_config: str) -> None:
        """Write the config of the best candidate.

        Args:
            rows: the rows of all candidates, the best one first.
            by_config: a command that uses the config.
        """
        words = {"n": "classified", "generated": "generated"}
        images = [f"{rows[0][key]} {word}" for key, word in words.items() if key in rows[0]]
        head = [
            "@package _global_",
            f"Of {len(rows)} candidates, {best.title} lost least: {rows[0]['loss']:.2f} points on "
            f"{' and '.join(images)} images. Found by:",
            portable(f"python run.py {shlex.join(self.given)}"),
            CAUTION,
            by_config,
        ]
        body = yaml.safe_dump(_config(best), sort_keys=False, allow_unicode=True)
        files.make_folder(path.parent)
        files.write_text(path, "".join([*(f"# {printable(line)}\n" for line in head), body]))


def _config(candidate: Candidate) -> dict[str, Any]:
    """The compressor and how it is put on the model, as an option's file of Hydra.

    It changes the settings of the compressor's own option. ``compressor=none`` beside it is then
    refused, because these settings have nothing to belong to.
    """
    cfg = next(iter(candidate.entries.values())).job.settings.cfg
    kept = {key: cfg[key] for key in ("compressor", *COMPRESSION)}  # each look-up resolves
    found: Any = OmegaConf.to_container(OmegaConf.create(kept), resolve=True)
    whole, about = found["compressor"], ("name", "_target_")
    option = whole["name"]
    settings = {key: value for key, value in whole.items() if key not in about}
    if (CONFIGS / "compressor" / f"{option}.yaml").is_file():
        usual = composed([f"compressor={option}"]).compressor
        if OmegaConf.merge(usual, settings) == whole:
            found["compressor"] = settings
            return {"defaults": [{"override /compressor": option}], **found}
    return found  # a merge cannot remove what the option has and this compressor has not


def _other_images(job: Job) -> list[str]:
    """Overrides that leave out the images of a job; none if it takes all that there are."""
    setup = job.setup
    if job.task.draws:
        return [f"seed={setup.seed + 1}"]
    if setup.start:
        return [f"limit={setup.start}"]
    return [] if setup.limit is None else [f"start={setup.limit}"]


def _entry(task: str, base: Sequence[str], own: Sequence[str]) -> Entry:
    """A job, in which each of ``own`` stands in place of what comes before it for the same key."""
    last = {_key(override): override for override in own}
    return Entry([f"task={task}", *(o for o in base if _key(o) not in last), *last.values()])


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={override_text(value)}" for key, value in settings.items()]


def _without(overrides: Sequence[str], *keys: str) -> list[str]:
    """The overrides that change none of these keys, nor any below them."""
    return [o for o in overrides if _key(o).lstrip("+~").split(".")[0] not in keys]


def _key(override: str) -> str:
    return override.split("=", 1)[0]

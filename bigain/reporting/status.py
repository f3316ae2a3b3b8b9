"""The state of experiments: what is done, running, missing or failed."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments import experiment_files
from bigain.experiments.entry_memory import EntryLike, EntryMemory
from bigain.experiments.experiment_files import Entry, Experiment
from bigain.experiments.forecast import Left, forecast, headline, outlook, paces
from bigain.experiments.schema import explain
from bigain.store.runs import Run
from bigain.store.shards import Shard


@dataclass(frozen=True)
class State:
    """The state of an entry.

    Attributes:
        wanted: images it must hold.
        done: those it holds.
        scored: False if its images are to be scored and are not.
        running: shards that processes are working on.
        failures: what ended them, by shard.
        problem: why it cannot run here, or why its run cannot be read.
    """

    wanted: int = 0
    done: int = 0
    scored: bool = True
    running: Sequence[Shard] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None

    @property
    def word(self) -> str:
        """done, running, failed, started, missing or cannot run; the first that applies."""
        if self.problem is not None:
            return "cannot run"
        if self.done == self.wanted and self.scored:
            return "done"
        if self.running:
            return "running"
        if self.failures:
            return "failed"
        return "started" if self.done else "missing"

    @property
    def line(self) -> str:
        """The whole state in one line."""
        if self.problem is not None:
            return f"cannot run: {self.problem}"
        parts = [f"{self.word}, {self.done} of {self.wanted} images"]
        if self.done == self.wanted and not self.scored:
            parts.append("not scored")
        parts += [f"{shard} at work" for shard in self.running]
        parts += [f"{shard} failed: {error}" for shard, error in self.failures.items()]
        return "; ".join(parts)

    @property
    def left(self) -> Left:
        """The images that are missing; None if it is done, and the problem if it cannot run."""
        if self.problem is not None:
            return self.problem
        return None if self.word == "done" else self.wanted - self.done


States = dict[tuple[str, ...], State]


def look(entry: EntryLike) -> State:
    """The state of an entry; a problem is part of the state and raises no error."""
    try:
        path, wanted = entry.run_path, entry.image_ids()
        if (run := Run.find(path)) is None:
            return State(len(wanted))
        failures = {}
        for name in run.records("failed"):
            failure = run.read_record(name) or {}  # removed meanwhile: the shard has succeeded
            failures[failure.get("shard") or str(Shard())] = failure.get("error", "unknown")
        done, scored = len(run.finished().intersection(wanted)), entry.scored(run)
        # no process works on a complete run, and in a read-only folder locks cannot be tested
        running = [] if done == len(wanted) and scored else run.running()
        return State(len(wanted), done, scored, running, failures)
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        return State(problem=explain(error))


def status_of(
    given: Sequence[str], scale: str | None = None, details: bool = False, ahead: bool = False
) -> Iterator[str]:
    """Lines about experiments.

    Args:
        given: names of experiments, all by default, and overrides, which hold a "=".
        details: show every entry, also of experiments that are not named, which otherwise get one
            line each.
        scale: "paper" or "mini"; by default "mini", or "paper" where there is no other.
        ahead: say also what is left to compute and how long that takes, which builds some entries
            and so imports torch; of experiments with one line each, it is said of all together.

    Raises:
        BiGainError: if an experiment that was named cannot be read; without names, that is a line.
    """
    overrides = [g for g in given if "=" in g]
    chosen = [g for g in given if "=" not in g]
    known: States = {}  # experiments share entries, and each takes time
    every: dict[tuple[str, ...], Entry] = {}
    with EntryMemory().kept() as memory:
        for name in chosen or experiment_files.names(scale):
            try:
                experiment = experiment_files.load(name, scale or _scale(name), overrides)
            except BiGainError as error:
                if chosen:
                    raise
                yield explain(error)
                continue
            if chosen or details:
                yield from status(experiment, overrides, known, memory, ahead)
            else:
                yield summary(experiment, overrides, known, memory)
                every |= {tuple(entry.overrides): entry for entry in experiment.entries}
    left = forecast((entry, known[key].left) for key, entry in every.items() if ahead)
    if left.shares:
        yield from headline("in all", left)
        yield from outlook(left, paces(left.shares, seconds=0))


def summary(
    experiment: Experiment, overrides: Sequence[str], known: States, memory: EntryMemory | None
) -> str:
    """One line about an experiment, and the command that completes it or shows its problems."""
    found = [
        _state(entry, known, memory)
        for group in experiment.groups
        for row in group.rows
        for entry in row.entries.values()
    ]
    line = f"{_title(experiment)}: {_counts(found)}"
    if command := _next(experiment, overrides, found):
        return f"{line}; next: {command}"
    if any(state.problem is not None for state in found):
        scale = ["--scale", experiment.scale] if experiment.scale else []
        given = ["status", experiment.name, *scale, *overrides]
        return f"{line}; why: python -m bigain.reporting {shlex.join(given)}"
    return line


def status(
    experiment: Experiment,
    overrides: Sequence[str],
    known: States,
    memory: EntryMemory | None = None,
    ahead: bool = False,
) -> Iterator[str]:
    """Lines about an experiment, and the command that completes it.

    Args:
        overrides: those on top of every row's, for that command.
        known: the states of entries by their overrides, which it adds to.
        memory: the entries found earlier; without it, each entry is built.
        ahead: whether to say what is left to compute, for which some entries are built.
    """
    yield _title(experiment)
    yield f"  {experiment.title}"
    states = []
    looked: dict[tuple[str, ...], tuple[Entry, Left]] = {}
    for group in experiment.groups:
        lines: dict[str, list[str]] = {}
        for row in group.rows:
            for task, entry in row.entries.items():
                states.append(_state(entry, known, memory))
                looked[tuple(entry.overrides)] = entry, states[-1].left
                lines.setdefault(states[-1].line, []).append(f"{row.title} ({task})")
        if group.title:
            yield f"  {group.title}"
        yield from (f"    {line}: {', '.join(those)}" for line, those in lines.items())
    yield f"  {_counts(states)}"
    if ahead and (found := forecast(looked.values())).shares:
        yield from outlook(found, paces(found.shares, seconds=0))
    if command := _next(experiment, overrides, states):
        yield f"  next: {command}"


def _title(experiment: Experiment) -> str:
    return experiment.name + (f" ({experiment.scale})" if experiment.scale else "")


def _state(entry: Entry, known: States, memory: EntryMemory | None) -> State:
    key = tuple(entry.overrides)
    if key not in known:
        known[key] = look(entry if memory is None else memory.of(entry))
    return known[key]


def _counts(states: Sequence[State]) -> str:
    words = [state.word for state in states]
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    entries = "1 entry" if len(words) == 1 else f"{len(words)} entries"
    return f"{entries}: " + ", ".join(f"{n} {word}" for word, n in counts.items())


def _next(experiment: Experiment, overrides: Sequence[str], states: Sequence[State]) -> str | None:
    """The command that computes what is left; None if nothing can be computed."""
    if all(state.word in ("done", "running", "cannot run") for state in states):
        return None
    scale = [f"scale={experiment.scale}"] if experiment.scale else []
    given = [f"experiment={experiment.name}", *scale, *overrides]
    return f"python run.py -m {shlex.join(given)}"


def _scale(name: str) -> str | None:
    return "paper" if experiment_files.scales(name) == ["paper"] else None

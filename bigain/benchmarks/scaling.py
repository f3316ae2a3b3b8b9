"""The same classification by one process and by several, beside one with the plain loop."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.benchmarks.classification_run import ClassificationRun, configured
from bigain.benchmarks.loops import Loop, side
from bigain.benchmarks.methods import BASELINE, methods
from bigain.benchmarks.models import subject
from bigain.benchmarks.report import Bar, Report, mib, text
from bigain.errors import BiGainError
from bigain.metrics.ratio import ratio
from bigain.profiling.memory import PeakMemory
from bigain.profiling.timing import Side, in_turn
from bigain.tasks.classify import Classify
from bigain.utils.devices import keep_freed_memory

SCALED, FASTER = 1.8, 1.5
NOTE = (
    "Whole runs of task=classify on the CPU, with the same number of images per process. Speed-up "
    "is in images per second, over one process of one thread, and over one process of two threads "
    "that runs the plain loop of the published classifier on the same images, already encoded and "
    "noised. Peak MiB is what the work adds in all its processes. Brackets hold quartiles over the "
    "rounds."
)


@dataclass(frozen=True)
class Worker:
    """What a process does: a run of this project, compiled or not, or the plain loop."""

    threads: int
    settings: DictConfig
    plain: bool = False

    @contextmanager
    def side(self) -> Iterator[Callable[[], AbstractContextManager[Callable[[], object]]]]:
        """Load the model, and give the side that each round enters."""
        torch.set_num_threads(self.threads)
        if not self.plain:
            yield ClassificationRun(self.settings).side
            return
        keep_freed_memory()
        cfg = self.settings
        model = subject(
            cfg.model.name, cfg.limit, torch.device(cfg.device), getattr(torch, cfg.dtype), cfg.seed
        )
        protocol = Classify(tuple(cfg.task.samples), tuple(cfg.task.keep))
        options = {"compressor": None, "batch_size": cfg.batch_size, "seed": cfg.seed}
        yield partial(side, Loop.plain, model, protocol=protocol, **options)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``scaling`` of configs/benchmark.yaml; the device is the CPU."""
    own = cfg.scaling
    (method,) = methods([BASELINE])
    tables, found, bars = {}, [], []
    for name in own.models:
        settings = configured(method, name, own, device)
        compiled = settings.copy()
        compiled.compile = own.compile
        workers = [Worker(1, settings), Worker(1, settings), Worker(2, settings)]
        workers += [Worker(2, settings, plain=True), Worker(1, compiled), Worker(1, compiled)]
        with _processes(workers) as ends:
            groups = {
                "one process of one thread": ends[:1],
                "two of one thread": ends[:2],
                "one of two threads": ends[2:3],
                "one of two threads, plain loop": ends[3:4],
                "two of one thread, compile": ends[4:],
            }
            sides: dict[str, Side] = {k: partial(_side, group) for k, group in groups.items()}
            seconds = in_turn(sides, device, warmup=1, repeats=own.repeats)
            peaks = {title: _peak(group) for title, group in groups.items()}
        one, two, _, plain, fast = groups
        lines = [["", "Images/s", "Over one", "Over the plain loop", "Peak MiB"]]
        for title, group in groups.items():
            rounds = [s / len(group) for s in seconds[title]]  # scaled to the images of one process
            rate = f"{own.images / median(rounds):.2f}"
            gains = [ratio(seconds[base], rounds) for base in (one, plain)]
            lines.append([title, rate, *map(text, gains), mib(peaks[title])])
            wanted = {two: (gains[0], SCALED, "one"), fast: (gains[1], FASTER, "the plain loop")}
            if title in wanted:
                gain, least, base = wanted[title]
                what = f"{title}, over {base}, {name}"
                bars.append(Bar.least(what, gain, least))
        tables[f"{name}, {own.dtype}, {own.images} images a process"] = lines
        found.append(
            {"model": name, "images": own.images, "seconds": seconds, "peak_memory_mib": peaks}
        )
    return Report("Scaling", NOTE, tables, found, bars)


@contextmanager
def _side(ends: Sequence[Connection]) -> Iterator[Callable[[], object]]:
    """A round in which all these processes work at once."""
    _tell(ends, "prepare")
    yield partial(_tell, ends, "compute")


def _peak(ends: Sequence[Connection]) -> float | None:
    """The peak of one more round, summed over the processes; None where it is not reported."""
    with _side(ends):
        found = _tell(ends, "measure")
    return None if None in found else sum(found)


def _tell(ends: Sequence[Connection], what: str) -> list[Any]:
    """Send a command to all processes, and wait for their answers.

    Raises:
        BiGainError: if a process has died; its own error is on stderr.
    """
    try:
        for end in ends:
            end.send(what)
        return [end.recv() for end in ends]
    except (EOFError, OSError) as error:
        raise BiGainError("a process of the suite scaling died; its error is above") from error


@contextmanager
def _processes(workers: Sequence[Worker]) -> Iterator[list[Connection]]:
    """Start a process per worker, which answers each command once it has carried it out."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    try:
        for worker in workers:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(worker, there), daemon=True)
            process.start()
            there.close()  # so that its death is an EOFError here
            ends.append(here)
            processes.append(process)
        yield ends
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join()


def _serve(worker: Worker, end: Connection) -> None:
    with worker.side() as side:
        try:
            while end.recv() == "prepare":
                with side() as work:
                    end.send(None)
                    measure = end.recv() == "measure"
                    memory = PeakMemory(torch.device("cpu")) if measure else None
                    work()
                    peak = memory.mib() if memory else None
                end.send(peak)
        except EOFError:  # the other end is closed: there is no more to do
            return

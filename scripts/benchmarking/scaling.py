"""The same run by one process and by two, each of one thread."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from statistics import median

import torch
from omegaconf import DictConfig

from bigain.device import keep_freed_memory
from bigain.metrics.timing import Side, in_turn, ratio
from scripts.benchmarking.methods import BASELINE, methods
from scripts.benchmarking.report import Bar, Report, text
from scripts.benchmarking.whole import Whole, configured

WANTED = 1.8
NOTE = (
    "Whole runs of task=classify on the CPU: one process of one thread, two such processes that "
    "each classify as many images, and one process of two threads. Speed-up is in images a second "
    "over the first. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``scaling`` of configs/benchmark.yaml; it times the CPU, whatever the device."""
    own = cfg.scaling
    (method,) = methods([BASELINE])
    lines = [["", "One", "Two", "Speed-up", "Two threads", "Speed-up"]]
    found, bars = [], []
    for name in own.models:
        settings = configured(method, name, own)
        with _workers(settings, (1, 1, 2)) as (first, second, wide):
            sides: dict[str, Side] = {
                "one": partial(_side, [first]),
                "two": partial(_side, [first, second]),
                "threads": partial(_side, [wide]),
            }
            seconds = in_turn(sides, torch.device("cpu"), warmup=1, repeats=own.repeats)
        two = ratio([2 * s for s in seconds["one"]], seconds["two"])
        threads = ratio(seconds["one"], seconds["threads"])
        rates = [own.images * n / median(seconds[side]) for side, n in (("one", 1), ("two", 2))]
        wide_rate = own.images / median(seconds["threads"])
        cells = [f"{rates[0]:.2f}", f"{rates[1]:.2f}", text(two), f"{wide_rate:.2f}", text(threads)]
        lines.append([name, *cells])
        found.append({"model": name, "images": own.images, "seconds": seconds})
        bars.append(
            Bar(
                f"two workers over one, {name}",
                f"at least {WANTED}",
                text(two),
                two.median >= WANTED,
            )
        )
    heading = f"Images a second, {own.dtype}, {own.images} images a process"
    return Report("Scaling", NOTE, {heading: lines}, found, bars)


@contextmanager
def _side(workers: Sequence[Connection]) -> Iterator[Callable[[], None]]:
    """All workers' runs at once."""
    for worker in workers:
        worker.send("prepare")
    for worker in workers:
        worker.recv()

    def work() -> None:
        for worker in workers:
            worker.send("compute")
        for worker in workers:
            worker.recv()

    yield work


@contextmanager
def _workers(settings: DictConfig, threads: Sequence[int]) -> Iterator[list[Connection]]:
    """A process for each number of threads; it answers when it has done what it was told."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    try:
        for count in threads:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(settings, count, there), daemon=True)
            process.start()
            there.close()  # so that a worker's death is an EOFError here
            ends.append(here)
            processes.append(process)
        yield ends
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join()


def _serve(settings: DictConfig, threads: int, end: Connection) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    whole = Whole(settings, torch.device("cpu"))
    try:
        while end.recv() == "prepare":
            with whole.side() as work:
                end.send(None)
                end.recv()
                work()
            end.send(None)
    except EOFError:  # the other end is closed: no more to do
        return

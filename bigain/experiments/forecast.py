"""What a sweep is about to do: runs, evaluations, hours on the device at hand, and downloads."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments.schema import explain

if TYPE_CHECKING:  # torch takes seconds, and is not needed where everything is done
    from bigain.experiments.entry_memory import EntryLike, EntryMemory
    from bigain.experiments.experiment_files import Entry
    from bigain.experiments.job import Job
    from bigain.profiling.pace import Pace

SECONDS, SECONDS_SMALL = 20.0, 1.5  # for measuring the paper's models, and others
HERE = ("basic", "joblib")  # launchers whose jobs run on the devices of this process
# overrides that decide how many evaluations an image takes, and how long each
DECIDING = ("model", "dataset", "task", "dtype", "batch_size", "device")

# what an entry lacks: a number of images (0 if only scores), None if nothing, or why it cannot run
Left: TypeAlias = int | str | None
# how long an evaluation takes, or why that is unknown
Known: TypeAlias = "Pace | str"


@dataclass
class Share:
    """What is left of the entries that take the same model in the same way.

    Attributes:
        job: the job of one of these entries.
        runs: number of runs that lack something.
        images: number of images that they lack.
    """

    job: "Job"
    runs: int = 0
    images: int = 0

    @property
    def evaluations(self) -> int:
        """The number of evaluations that are left to compute."""
        return self.images * self.job.task.evaluations(len(self.job.dataset.classes))


@dataclass
class Forecast:
    """What entries are about to do.

    Attributes:
        runs: number of runs in all.
        done: number of runs of which nothing is left to do.
        problems: why others cannot run.
        shares: what is left of the rest.
    """

    runs: int = 0
    done: int = 0
    problems: list[str] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)


def forecast(looked: Iterable[tuple["Entry", Left]]) -> Forecast:
    """Sum up what entries lack."""
    found = Forecast()
    shares: dict[tuple[str, ...], Share] = {}
    for entry, left in looked:
        found.runs += 1
        if left is None:
            found.done += 1
        elif isinstance(left, str):
            found.problems.append(left)
        else:
            key = _chosen(entry, DECIDING)
            if key not in shares:
                shares[key] = Share(entry.job)
            shares[key].runs += 1
            shares[key].images += left
    found.shares = list(shares.values())
    return found


def looks(entries: Iterable["Entry"], memory: "EntryMemory") -> Iterator[tuple["Entry", Left]]:
    """What each entry lacks, found without fetching anything.

    A model whose files are not on this machine has no run here either, and asking for one would
    fetch them.
    """
    fetched: dict[tuple[str, ...], bool] = {}
    for entry in entries:
        try:
            model = _chosen(entry, ("model",))
            if model not in fetched:
                fetched[model] = entry.job.backbone.fetched()
            yield entry, _left(memory.of(entry)) if fetched[model] else len(entry.job.ids)
        except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
            yield entry, explain(error)


def _chosen(entry: "Entry", keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(o for o in entry.overrides if o.partition("=")[0].partition(".")[0] in keys)


def _left(entry: "EntryLike") -> int | None:
    from bigain.store.runs import Run  # only now: pandas takes a second

    wanted = entry.image_ids()
    if (run := Run.find(entry.run_path)) is None:
        return len(wanted)
    left = len(wanted) - len(run.finished().intersection(wanted))
    return None if not left and entry.scored(run) else left


def paces(shares: Sequence[Share], seconds: float, elsewhere: str = "") -> list[Known]:
    """How long an evaluation of each share takes on this machine's device.

    Args:
        seconds: how long measuring may take in all; with 0, only earlier measurements are used.
        elsewhere: why this machine says nothing about the time; empty if it does.
    """
    from bigain.profiling.pace import measure_pace, remembered  # only now: torch takes seconds
    from bigain.utils.devices import device_of

    found: list[Known] = []
    end = time.monotonic() + seconds
    for number, share in enumerate(shares):
        job = share.job
        name = job.setup.names["model"]
        try:
            device = device_of(job.setup.device)
            about = (job.skeleton, device, job.setup.dtype, job.setup.batch_size)
            pace = remembered(*about)
            left = (end - time.monotonic()) / (len(shares) - number)
            if elsewhere:
                found.append(elsewhere)
            elif pace is not None and pace.budget >= seconds:
                found.append(pace)
            elif left > 0 and share.images:
                pace = measure_pace(*about, left) or pace
                slow = f"an evaluation of {name} did not end within {left:.0f} seconds here"
                found.append(pace or slow)
            else:
                found.append(pace or f"{name} was not measured here")
        except BiGainError as error:
            found.append(explain(error))
    return found


def headline(title: str, found: Forecast) -> Iterator[str]:
    """How many runs there are, and why some cannot run."""
    runs = _count(found.runs, "run")
    if found.done == found.runs:
        yield f"{title}: {runs}, all done"
        return
    counts = [f"{found.done:,} done", f"{sum(share.runs for share in found.shares):,} to do"]
    if found.problems:
        counts.append(f"{len(found.problems):,} cannot run")
    yield f"{title}: {runs}, of which {', '.join(counts)}"
    if found.problems:
        yield f"  cannot run: {found.problems[0]}"


def outlook(found: Forecast, known: Sequence[Known]) -> Iterator[str]:
    """What is left to compute, how long it takes, and what it fetches; nothing if nothing is left.

    Args:
        known: the pace of each share.
    """
    if not (evaluations := sum(share.evaluations for share in found.shares)):
        return
    images = sum(share.images for share in found.shares)
    yield f"  to compute: {_count(images, 'image')}, {_count(evaluations, 'evaluation')}"
    yield from _time(found.shares, known)
    yield f"  to download: {_download(found.shares)}"


def _time(shares: Sequence[Share], known: Sequence[Known]) -> Iterator[str]:
    total = 0.0
    about: dict[str, None] = {}  # each line once, in order
    unknown: dict[str, None] = {}
    for share, pace in zip(shares, known, strict=True):
        if not share.evaluations:
            continue
        if isinstance(pace, str):
            unknown[pace] = None
            continue
        total += share.evaluations * pace.seconds
        dtype = str(share.job.setup.dtype).removeprefix("torch.")
        about[
            f"{share.job.setup.names['model']} takes {1000 * pace.seconds:.3g} ms per evaluation "
            f"in {dtype}, in batches of {pace.batch_size} on {pace.device}, measured "
            f"{pace.measured}"
        ] = None
    if about:
        yield (
            f"  to wait: about {_duration(total)} on one such device; this estimate counts the "
            "denoiser alone, and a compressed evaluation like an uncompressed one"
        )
        yield from (f"    {line}" for line in about)
    for reason in unknown:
        yield f"  to wait{' further' if about else ''}: unknown, as {reason}"


def _download(shares: Sequence[Share]) -> str:
    """What the models' files that are not on this machine come to, as far as it is known."""
    absent = {share.job.setup.names["model"]: share.job for share in shares}
    absent = {name: job for name, job in absent.items() if not job.backbone.fetched()}
    if not absent:
        return "no weights of models"
    parts = []
    for name, job in absent.items():
        size = 4 * sum(parameter.numel() for parameter in job.skeleton.parameters())
        parts.append(f"at least {size / 1e9:.1f} GB for {name}")
    return f"{', '.join(parts)} (the denoiser in float32; the size of other parts is unknown)"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} seconds"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

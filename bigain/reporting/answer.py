"""Which compressor to use for which job, and at what cost: what the report page opens with."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields

from bigain.compressors import Compose, Compressor
from bigain.experiments.experiment_files import Entry
from bigain.experiments.experiment_files import Row as ExperimentRow
from bigain.reporting.verdict import ACCURACY, FID, Effect, Measure
from bigain.tasks import TASKS
from bigain.tasks.columns import Row, number
from bigain.utils.tables import DASH, formatted

STRENGTHS = ("ratio", "factor")  # written even if they stand at their defaults
GENERATE, BOTH = "Generate", "Both with one setting"
PHRASES = {  # each job, as a sentence says it
    "Classify": "to classify",
    GENERATE: "to generate",
    BOTH: "to do both with one setting",
    "Save time": "to save time",
}
RULE = (
    "For each job, the table names the cheapest setting that keeps the model's accuracy, its FID, "
    "or both. Kept means that the 95% interval of the paired difference from the uncompressed "
    "model includes zero; the interval also says how large a loss the images at hand cannot rule "
    "out. Where no setting keeps a value, the choice is among those that are statistically "
    "indistinguishable from the smallest loss, because their intervals overlap its own. Of "
    "settings of equal cost, the first in the table of all methods is named or, where no setting "
    "keeps the value, the one that loses least. To save time means to be faster than the "
    "uncompressed model, at the accuracy that is then left."
)


@dataclass(frozen=True)
class Choice:
    """A row of the table.

    Attributes:
        jobs: what it is chosen for; empty for the uncompressed model.
        method: its title.
        accuracy, fid: the value, and its difference from the uncompressed model with its interval.
        gflops, time: those of a forward pass; GFLOPs come with the change from the uncompressed
            model.
        verdict: what is kept.
        code: the call that compresses a pipeline in this way; empty for the uncompressed model.
    """

    jobs: Sequence[str]
    method: str
    accuracy: tuple[str, str]
    fid: tuple[str, str]
    gflops: tuple[str, str]
    time: str
    verdict: str
    code: str = ""


@dataclass(frozen=True)
class Answer:
    """What to use with one model.

    Attributes:
        title: the model and its data.
        sentence: the answer in words.
        images: how many were classified and generated.
        choices: the uncompressed model first.
    """

    title: str
    sentence: str
    images: str
    choices: Sequence[Choice]

    @property
    def generating(self) -> Choice:
        """The choice for generation."""
        return next(choice for choice in self.choices if GENERATE in choice.jobs)


def answer(
    title: str, methods: Sequence[ExperimentRow], rows: Sequence[Row], baseline: str
) -> Answer | None:
    """The answer from a table's rows; None unless accuracy and FID of some method are known.

    Args:
        methods: the method of each row; their order settles between equal costs.
        baseline: the name of the uncompressed model's row.
    """
    both = list(zip(methods, rows, strict=True))
    plain = next((row for method, row in both if method.name == baseline), None)
    if plain is None:
        return None
    kinds = [m for m in (ACCURACY, FID) if any(_effect(m, row) for row in rows)]
    tried = [
        (m, row) for m, row in both if row is not plain and all(_effect(k, row) for k in kinds)
    ]
    tried = [(m, row) for m, row in tried if row.get("gflops") is not None]
    if len(kinds) < 2 or not tried:
        return None
    chosen: dict[str, list[str]] = {}
    by_title = {method.title: (method, row) for method, row in tried}
    for job, row in zip(PHRASES, _picks([row for _, row in tried]), strict=True):
        if row is not None:
            chosen.setdefault(str(row["method"]), []).append(job)
    choices = [_choice([], plain, plain, None)]
    choices += [
        _choice(jobs, by_title[name][1], plain, by_title[name][0]) for name, jobs in chosen.items()
    ]
    images = (
        f"{plain.get('n') or 0:,} classified and {plain.get('generated') or 0:,} generated images"
    )
    return Answer(title, _sentence(choices[1:]), images, choices)


def _picks(rows: Sequence[Row]) -> list[Row | None]:
    """The row for each job of `PHRASES`; None where no row serves."""
    accurate, pleasing = _best(ACCURACY, rows), _best(FID, rows)
    faster = [row for row in rows if row.get("time") is not None and row["time_high"] < 1]
    return [
        _cheapest(accurate, "gflops"),
        _cheapest(pleasing, "gflops"),
        _cheapest([row for row in accurate if row in pleasing], "gflops"),
        _cheapest(_best(ACCURACY, faster), "time"),
    ]


def _best(measure: Measure, rows: Sequence[Row]) -> list[Row]:
    """The rows that keep a value; if there are none, those that `_nearest` gives."""
    if kept := [row for row in rows if _kept(measure, row)]:
        return kept
    return _nearest(measure, rows)


def _nearest(measure: Measure, rows: Sequence[Row]) -> list[Row]:
    """The rows whose intervals overlap that of the smallest loss, which comes first."""
    losses = sorted(((_loss(measure, row), row) for row in rows), key=lambda pair: pair[0].value)
    return [row for loss, row in losses if loss.low <= losses[0][0].high]


def _cheapest(rows: Sequence[Row], key: str) -> Row | None:
    """The first of the rows with the lowest cost as printed; None without rows."""
    return min(rows, key=lambda row: float(number(row[key]) or 0), default=None)


def _effect(measure: Measure, row: Row) -> Effect | None:
    found = measure.effects([row])
    return found[0] if found else None


def _loss(measure: Measure, row: Row) -> Effect:
    """How much worse than the uncompressed model, with its interval."""
    effect = _effect(measure, row)
    assert effect is not None
    if measure.better < 0:
        return effect
    return Effect(effect.method, -effect.value, -effect.high, -effect.low)


def _kept(measure: Measure, row: Row) -> bool:
    return _loss(measure, row).low <= 0


def _choice(jobs: Sequence[str], row: Row, plain: Row, method: ExperimentRow | None) -> Choice:
    differences = [m.shown(e) if (e := _effect(m, row)) else "" for m in (ACCURACY, FID)]
    verdict = "the reference"
    if method is not None:
        kept = [_kept(measure, row) for measure in (ACCURACY, FID)]
        verdict = {
            (True, True): "accuracy and FID kept",
            (True, False): "accuracy kept, FID worse",
            (False, True): "FID kept, accuracy worse",
            (False, False): "accuracy and FID worse",
        }[kept[0], kept[1]]
    saved = ""
    if method is not None and plain.get("gflops"):
        saved = formatted(100 * (row["gflops"] / plain["gflops"] - 1), "+.0f") + "%"
    return Choice(
        jobs=jobs,
        method=str(row["method"]),
        accuracy=(f"{row['acc1']:.1f}%" if row.get("acc1") is not None else DASH, differences[0]),
        fid=(f"{row['fid']:.2f}" if row.get("fid") is not None else DASH, differences[1]),
        gflops=(number(row.get("gflops")) or DASH, saved),
        time=f"{row['time']:.2f}" if row.get("time") is not None else DASH,
        verdict=verdict,
        code=_called(jobs, method) if method is not None else "",
    )


def _called(jobs: Sequence[str], method: ExperimentRow) -> str:
    """The call for the first of these jobs: some compressors have other defaults for each task."""
    purpose = "generation" if jobs[0] == GENERATE else "classification"
    for task, entry in method.entries.items():
        if TASKS[task].purpose == purpose:
            return code(entry)
    raise ValueError(f"{method.name} has no entry for {jobs[0]}")


def code(entry: Entry) -> str:
    """The call of `bigain.compress` that sets a pipeline up as the entry's run was."""
    setup = entry.job.setup
    given = ["pipe", _written(setup.compressor)]
    if setup.blocks != "default":
        blocks = setup.blocks if isinstance(setup.blocks, str) else list(setup.blocks)
        given.append(f'blocks="{blocks}"' if isinstance(blocks, str) else f"blocks={blocks}")
    if tuple(setup.sites) != ("self_attention",):
        given.append(f"sites={list(setup.sites)}")
    if setup.decide_on != "default":
        given.append(f'decide_on="{setup.decide_on}"')
    return f"bigain.compress({', '.join(given)})"


def _written(value: object) -> str:
    """A compressor as Python makes it, without the settings that stand at their defaults.

    >>> from bigain import Cached, LGTM
    >>> _written(Cached(LGTM(0.7)))
    'bigain.Cached(bigain.LGTM(ratio=0.7))'
    """
    if isinstance(value, Compose):
        return f"bigain.Compose({', '.join(map(_written, value.parts))})"
    if not isinstance(value, Compressor):
        return repr(value)
    own = [(f.name, getattr(value, f.name), f.default) for f in fields(value)]  # type: ignore[arg-type]
    given = [
        _written(found) if usual is MISSING else f"{name}={_written(found)}"
        for name, found, usual in own
        if found != usual or name in STRENGTHS
    ]
    return f"bigain.{type(value).__name__}({', '.join(given)})"


def _sentence(choices: Sequence[Choice]) -> str:
    """Which method to use for which job, and at what cost, in one sentence."""
    parts = []
    for choice in choices:
        jobs = " and ".join(PHRASES[job] for job in choice.jobs if job != BOTH) or PHRASES[BOTH]
        cost = f"{choice.gflops[1]} GFLOPs" if choice.gflops[1] else ""
        time = f"{choice.time} times the time" if choice.time != DASH else ""
        price = ", ".join(text for text in (cost, time, choice.verdict) if text)
        parts.append(f"{jobs}, use {choice.method} ({price})")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."

"""One page of all experiments of a scale: which compressor to use, and every table and figure."""

import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bigain.errors import BiGainError
from bigain.experiments import experiment_files
from bigain.experiments.experiment_files import Entry, Experiment
from bigain.reporting import tables
from bigain.reporting.answer import Answer, answer
from bigain.reporting.build import (
    BENCHMARKS,
    Collected,
    Found,
    collect,
    draw_overview,
    figures_of,
    pictures_of,
)
from bigain.reporting.page import (
    LARGEST,
    Line,
    Opening,
    Part,
    Picture,
    Section,
    Table,
    Text,
    embedded,
    render,
)
from bigain.reporting.status import look
from bigain.store.forward_times import conditions_of
from bigain.tasks.columns import number
from bigain.utils import files
from bigain.utils.paths import REPOSITORY, without_repository
from bigain.utils.tables import DASH

ABOUT = ("device", "torch", "diffusers", "python")  # keys of sessions that the page's header shows
SECONDS = 60  # by which a figure may be older than its runs: a clone writes in any order
ALT_TEXTS = {  # what a picture shows, by what its file's name ends with
    "": "values with their 95% intervals",
    "samples": "generated images, the same seeds under every method",
    "maps": "tokens that each method joins",
    "coherence": "coherence with the uncompressed tokens by spatial frequency",
    "power": "power kept by spatial frequency",
    "overview": "accuracy and FID of every model with their 95% intervals, against GFLOPs",
}
States = dict[tuple[str, ...], tuple[str, str]]  # by an entry's overrides, a word and all of it


def report(
    scale: str,
    out: Path | None = None,
    names: Sequence[str] | None = None,
    folder: Path | None = None,
) -> Path:
    """Write the page and return its path. Its numbers are read from the store, as `build`'s are.

    Args:
        scale: "paper" or "mini".
        out: the page; default ``results/<scale>/report.html``.
        names: the names of experiments; by default all that have the scale.
        folder: where their figures are; default ``results/<scale>``.

    Raises:
        BiGainError: if the page cannot be written. An experiment whose file cannot be read, or
            whose runs cannot be compared, says so in its section.
    """
    usual = REPOSITORY / "results" / scale
    out = out or usual / "report.html"
    shared: dict[tuple[str, ...], Entry] = {}
    states: States = {}
    sections = []
    opening = Opening()
    models: dict[str, None] = {}
    for name in sorted(names or experiment_files.names(scale), key=_place):
        try:
            experiment = experiment_files.load(name, scale)
        except BiGainError as error:
            made = shlex.join(["python", "-m", "bigain.reporting", "table", name])
            why = without_repository(str(error))
            sections.append(Section(name, _label(name), "", [made], problem=why))
            print(f"left out: {error}", file=sys.stderr)
            continue
        _share(experiment, shared)
        models |= dict.fromkeys(group.title for group in experiment.groups)
        collected, problem = _collected(experiment)
        section = _section(experiment, collected, problem, folder or usual, states)
        sections.append(section)
        if experiment.overview and not opening.answers:
            opening = _opening(experiment, collected, section)
    counts = Counter(word for word, _ in states.values())
    text = render(scale, sections, list(models), counts, opening)
    files.make_folder(out.parent)
    files.write_text(out, text)
    if (size := out.stat().st_size) > LARGEST:
        print(
            f"{out.name} is {size / 1e6:.1f} MB; it should stay below {LARGEST / 1e6:.1f} MB. "
            "Figures take most of it.",
            file=sys.stderr,
        )
    return out


def _collected(experiment: Experiment) -> tuple[list[Collected], str | None]:
    """The experiment's groups, or none and why they cannot be shown."""
    try:
        return collect(experiment), None
    except BiGainError as error:
        return [], without_repository(str(error))


def _opening(experiment: Experiment, collected: Sequence[Collected], section: Section) -> Opening:
    """The answers that an experiment with an overview gives, each with its figure."""
    answers: list[tuple[Answer, Picture | None]] = []
    for part in collected:
        found = answer(part.group.title, part.group.rows, part.rows, experiment.baseline)
        if found is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "overview.png"
            alt = f"{part.group.title}: {ALT_TEXTS['overview']}"
            drawn = draw_overview(experiment, path, [part])
            picture = Picture("", alt, *embedded(path)) if drawn else None
        answers.append((found, picture))
    return Opening(answers, section, "" if answers else section.commands[0])


def _place(name: str) -> tuple[int, str, int, str]:
    """The order of experiments: first those that are neither, then tables, then figures."""
    kind = name.rstrip("0123456789")
    return ({"table": 1, "figure": 2}.get(kind, 0), kind, len(name), name)


def _label(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=\d)", " ", name).capitalize()


def _share(experiment: Experiment, shared: dict[tuple[str, ...], Entry]) -> None:
    """Give equal entries one object, whose configuration is then composed once."""
    for row in experiment.rows:
        for task, entry in row.entries.items():
            row.entries[task] = shared.setdefault(tuple(entry.overrides), entry)


def _section(
    experiment: Experiment,
    collected: Sequence[Collected],
    problem: str | None,
    folder: Path,
    states: States,
) -> Section:
    name = experiment.name
    label = _label(name)
    commands = [
        f"python run.py -m experiment={name} scale={experiment.scale}",
        f"python -m bigain.reporting table {name} --scale {experiment.scale}",
    ]
    if problem is not None:
        for entry in experiment.entries:
            _state(entry, None, states)
        return Section(name, label, experiment.title, commands, experiment.note, problem=problem)
    found = [table.section for table in collected if table.section]
    stale = bool(found) and _differs(folder / f"{name}.csv", found)
    newest = max((_finished(entry) for entry in _found(collected)), default=0.0)
    pictures = [
        _picture(path, f"{label}, {experiment.title}", stale, newest)
        for path in _files(folder, name)
    ]
    wanted = sum(pictures_of(experiment, figure) for figure in figures_of(experiment))
    return Section(
        name=name,
        label=label,
        title=experiment.title,
        commands=commands,
        note=experiment.note,
        legend=tables.legend(found, conditions_of(BENCHMARKS)) if found else [],
        tables=[_table(part, experiment.baseline, states) for part in collected],
        pictures=pictures,
        missing=max(wanted - len(pictures), 0),
        stale=stale,
    )


def _found(collected: Sequence[Collected]) -> Iterator[Found]:
    for part in collected:
        for entries in part.entries.values():
            yield from entries.values()


def _table(part: Collected, baseline: str, states: States) -> Table:
    """The group's printed table, or its runs where a task prints none."""
    rows = part.group.rows
    parts = [
        [
            _part(task, entry, part.entries[row.name][task], states)
            for task, entry in row.entries.items()
        ]
        for row in rows
    ]
    if part.section:
        columns = part.section.columns[1:]  # less the method's name
        headers = [(column.header, column.sort is not None) for column in columns]
        texts = [
            [Text(column.text(row) or DASH, column.value(row)) for column in columns]
            for row in part.section.rows
        ]
    else:
        headers = [("Images", True), ("Run", False)]
        texts = [_stored(part.entries[row.name]) for row in rows]
    return Table(
        part.group.title,
        headers,
        [
            Line(row.title, row.name, part.section is not None and row.name == baseline, line, made)
            for row, line, made in zip(rows, texts, parts, strict=True)
        ],
    )


def _stored(entries: Mapping[str, Found]) -> list[Text]:
    """How many images a row has, and its runs."""
    counts = [len(entry.frame) for entry in entries.values() if entry.frame is not None]
    runs = [entry.run.fingerprint[:8] for entry in entries.values() if entry.run]
    images = " ".join(map(str, counts))
    return [Text(images or DASH, sum(counts) if counts else None), Text(" ".join(runs) or DASH)]


def _part(task: str, entry: Entry, found: Found, states: States) -> Part:
    word, detail = _state(entry, found, states)
    run = found.run
    if run is None:
        return Part(task, word, detail, entry.command)
    sessions = run.sessions()
    if found.frame is not None:
        detail += f", {len(found.frame):,} images"
    about = [{key: str(s[key]) for key in ABOUT if s.get(key) is not None} for s in sessions]
    return Part(
        task=task,
        state=word,
        detail=detail,
        command=entry.command,
        run=run.path.name,
        cost=_cost(found),
        sessions=[_session(session) for session in sessions],
        about=about,
    )


def _session(session: Mapping[str, Any]) -> str:
    """What computed some of a run's images, in one line; its command is that of the row."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in session.items()
        if key != "command" and value is not None
    )


def _cost(found: Found) -> str:
    """The run's known costs in words; may be empty."""
    cost = found.results.cost or {}
    texts = {
        "{} GFLOPs per evaluation": cost.get("gflops"),
        "of which {} matching": cost.get("gflops_matching"),
        "at most {} MiB of memory": cost.get("peak_memory_mib"),
    }
    return ", ".join(t.format(number(v)) for t, v in texts.items() if v is not None)


def _state(entry: Entry, found: Found | None, states: States) -> tuple[str, str]:
    """An entry's state, as a word and in full; equal entries are looked up only once."""
    key = tuple(entry.overrides)
    if key not in states:
        whole = found and found.frame is not None and (found.run and entry.scored(found.run))
        state = None if whole else look(entry)
        states[key] = (state.word, without_repository(state.line)) if state else ("done", "done")
    return states[key]


def _files(folder: Path, name: str) -> list[Path]:
    plain = folder / f"{name}.png"
    return [*([plain] if plain.exists() else []), *sorted(folder.glob(f"{name}-*.png"))]


def _picture(path: Path, title: str, stale: bool, newest: float) -> Picture:
    kind = next((k for k in ALT_TEXTS if k and path.stem.endswith(f"-{k}")), "")
    source, size = embedded(path)
    old = path.stat().st_mtime + SECONDS < newest
    return Picture(path.name, f"{title}: {ALT_TEXTS[kind]}", source, size, stale or old)


def _finished(found: Found) -> float:
    """When the run's last session or scoring ended, in seconds since the epoch; 0 if none has."""
    if found.run is None:
        return 0.0
    if found.run.bundled:
        return found.run.ended() or 0.0
    records = [*found.run.path.glob("sessions.json"), *found.run.path.glob("scores-*.json")]
    return max((path.stat().st_mtime for path in records), default=0.0)


def _differs(path: Path, found: Sequence[tables.Section]) -> bool:
    """Whether the numbers in a table's CSV file differ from the store's; False without a file."""
    return path.exists() and path.read_text() != tables.csv_text(found)

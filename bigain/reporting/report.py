"""One page of all experiments of a scale: tables, figures, and how each number was made."""

import base64
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from bigain.errors import BiGainError
from bigain.experiments import experiment_files
from bigain.experiments.experiment_files import Entry, Experiment
from bigain.reporting import tables
from bigain.reporting.build import ACROSS, Collected, Found, collect, figures_of
from bigain.reporting.status import look
from bigain.tasks.columns import number
from bigain.utils import files
from bigain.utils.paths import REPOSITORY
from bigain.utils.tables import DASH

TEMPLATE = "report.html.j2"
SECONDS = 60  # by which a figure may be older than its runs: a clone writes files in any order
FIGURES = {  # what a picture shows, by what its file's name ends with
    "": "values with their 95% intervals",
    "samples": "generated images, the same seeds under every method",
    "maps": "tokens that each method joins",
    "coherence": "coherence with the uncompressed tokens by spatial frequency",
    "power": "power kept by spatial frequency",
    "overview": "accuracy and FID of every model with their 95% intervals, against GFLOPs",
}
States = dict[tuple[str, ...], tuple[str, str]]  # by an entry's overrides, a word and all of it


@dataclass(frozen=True)
class Text:
    """What a printed table says in one place, and what sorts it, None for a dash."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Part:
    """A row under one task, and how its numbers were made.

    Attributes:
        state: a word of `bigain.reporting.status.State`.
        detail: that state in full.
        command: what makes it again.
        run: the name of its folder; None before it has begun.
        cost: of the run; may be empty.
        records: what else the run's folder says, as text by heading.
        sessions: what computed it, each with the keys of the run's record "sessions".
    """

    task: str
    state: str
    detail: str
    command: str
    run: str | None = None
    cost: str = ""
    records: Mapping[str, str] = field(default_factory=dict)
    sessions: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Line:
    """A row of a table; ``texts`` are those right of the method's name."""

    method: str
    baseline: bool
    texts: Sequence[Text]
    parts: Sequence[Part]


@dataclass(frozen=True)
class Table:
    """A table; ``headers`` are those right of "Method", with whether their column is of numbers."""

    title: str
    headers: Sequence[tuple[str, bool]]
    lines: Sequence[Line]


@dataclass(frozen=True)
class Picture:
    """A figure's file.

    Attributes:
        source: its data URI.
        size: width and height in pixels.
        stale: whether its runs have changed since it was drawn.
    """

    name: str
    alt: str
    source: str
    size: tuple[int, int]
    stale: bool


@dataclass(frozen=True)
class Section:
    """An experiment.

    Attributes:
        label: what the contents call it, such as "Table 4".
        commands: that make it.
        note: the protocol, and what it can and cannot show.
        legend: paragraphs that say what the columns mean.
        missing: number of figures that are not drawn.
        stale: whether its table's files hold other numbers than the store.
        problem: why it cannot be shown; None if it can.
    """

    name: str
    label: str
    title: str
    commands: Sequence[str]
    note: str = ""
    legend: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    missing: int = 0
    stale: bool = False
    problem: str | None = None

    @property
    def parts(self) -> list[Part]:
        return [part for table in self.tables for line in table.lines for part in line.parts]

    @property
    def progress(self) -> str:
        return f"{sum(part.state == 'done' for part in self.parts)}/{len(self.parts)}"

    @property
    def complete(self) -> bool:
        return self.problem is None and all(part.state == "done" for part in self.parts)


def report(
    scale: str,
    out: Path | None = None,
    names: Sequence[str] | None = None,
    folder: Path | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Write the page and return its path. Its numbers are read from the store, as `build`'s are.

    Args:
        scale: "paper" or "mini".
        out: the page; default ``results/<scale>/report.html``.
        names: of experiments; all that have the scale by default.
        folder: where their figures are; default ``results/<scale>``.
        overrides: for every row, as given to run.py.

    Raises:
        BiGainError: if an experiment file cannot be read, or the page cannot be written. An
            experiment whose runs cannot be compared says so in its section.
    """
    usual = REPOSITORY / "results" / scale
    out = out or usual / "report.html"
    shared: dict[tuple[str, ...], Entry] = {}
    states: States = {}
    sections = []
    models: dict[str, None] = {}
    for name in sorted(names or experiment_files.names(scale), key=_place):
        experiment = experiment_files.load(name, scale, overrides)
        _share(experiment, shared)
        models |= dict.fromkeys(group.title for group in experiment.groups)
        sections.append(_section(experiment, overrides, folder or usual, states))
    text = render(scale, sections, list(models), Counter(word for word, _ in states.values()))
    files.make_folder(out.parent)
    files.write_text(out, text)
    return out


def render(
    scale: str, sections: Sequence[Section], models: Sequence[str], states: Mapping[str, int]
) -> str:
    """The page.

    Args:
        models: and their data, as titles.
        states: number of different runs by the word of their state.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = {part.run: part for s in sections for part in s.parts if part.run is not None}
    sessions = [session for part in parts.values() for session in part.sessions]
    return environment.get_template(TEMPLATE).render(
        scale=scale,
        sections=sections,
        models=models,
        states=states,
        devices=_distinct(sessions, "device"),
        versions={key: _distinct(sessions, key) for key in ("torch", "diffusers", "python")},
    )


def _place(name: str) -> tuple[int, str, int, str]:
    """Tables, then figures, after what is both."""
    kind = name.rstrip("0123456789")
    return ({"table": 1, "figure": 2}.get(kind, 0), kind, len(name), name)


def _share(experiment: Experiment, shared: dict[tuple[str, ...], Entry]) -> None:
    """Give equal entries one object, whose configuration is then composed once."""
    for row in experiment.rows:
        for task, entry in row.entries.items():
            row.entries[task] = shared.setdefault(tuple(entry.overrides), entry)


def _section(
    experiment: Experiment,
    overrides: Sequence[str],
    folder: Path,
    states: States,
) -> Section:
    name = experiment.name
    label = re.sub(r"(?<=[a-z])(?=\d)", " ", name).capitalize()
    given = [f"scale={experiment.scale}", *overrides]
    commands = [
        f"python run.py -m experiment={name} {shlex.join(given)}",
        shlex.join(
            ["python", "-m", "bigain.reporting", "table", name, "--scale", str(experiment.scale)]
            + list(overrides)
        ),
    ]
    try:
        collected = collect(experiment)
    except BiGainError as error:
        for entry in experiment.entries:
            _state(entry, None, states)
        problem = _portable(str(error))
        return Section(name, label, experiment.title, commands, experiment.note, problem=problem)
    found = [table.section for table in collected if table.section]
    legends = dict.fromkeys(part.legend for section in found for part in section.parts)
    stale = bool(found) and _differs(folder / f"{name}.csv", found)
    newest = max((_finished(entry) for entry in _found(collected)), default=0.0)
    pictures = [
        _picture(path, f"{label}, {experiment.title}", stale, newest)
        for path in _files(folder, name)
    ]
    wanted = sum(1 if f in ACROSS else len(collected) for f in figures_of(experiment))
    return Section(
        name,
        label,
        experiment.title,
        commands,
        experiment.note,
        [*legends, *([tables.FLOPS] if found else [])],
        [_table(part, experiment.baseline, states) for part in collected],
        pictures,
        max(wanted - len(pictures), 0),
        stale,
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
            Line(row.title, part.section is not None and row.name == baseline, line, made)
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
    sessions = (run.read_record("sessions") or {"sessions": []})["sessions"]
    if found.frame is not None:
        detail += f", {len(found.frame):,} images"
    records = {"Configuration": run.config, "Identity": run.identity}
    if found.scores:
        scores = {k: v for k, v in found.scores.items() if k != "fid_replicates"}
        records["Scores (scores-*.json)"] = scores
    texts = {heading: _readable(record) for heading, record in records.items()}
    return Part(task, word, detail, entry.command, run.path.name, _cost(found), texts, sessions)


def _cost(found: Found) -> str:
    """The run's costs, those that are known; it may be empty."""
    cost = found.results.cost or {}
    texts = {
        "{} GFLOPs per evaluation": cost.get("gflops"),
        "of which {} matching": cost.get("gflops_matching"),
        "at most {} MiB of memory": cost.get("peak_memory_mib"),
    }
    return ", ".join(t.format(number(v)) for t, v in texts.items() if v is not None)


def _state(entry: Entry, found: Found | None, states: States) -> tuple[str, str]:
    """How far an entry is, as a word and in full; of equal entries it is found out once."""
    key = tuple(entry.overrides)
    if key not in states:
        whole = found and found.frame is not None and (found.run and entry.scored(found.run))
        state = None if whole else look(entry)
        states[key] = (state.word, _portable(state.line)) if state else ("done", "done")
    return states[key]


def _readable(data: Any) -> str:
    """JSON on many lines, but for lists of plain values, which take one each."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)


def _files(folder: Path, name: str) -> list[Path]:
    plain = folder / f"{name}.png"
    return [*([plain] if plain.exists() else []), *sorted(folder.glob(f"{name}-*.png"))]


def _picture(path: Path, title: str, stale: bool, newest: float) -> Picture:
    kind = next((k for k in FIGURES if k and path.stem.endswith(f"-{k}")), "")
    try:
        with Image.open(path) as image:
            size = image.size
        data = path.read_bytes()
        old = path.stat().st_mtime + SECONDS < newest
    except OSError as error:
        raise BiGainError(
            f"{path} cannot be read ({error}); delete it and draw it again"
        ) from error
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return Picture(path.name, f"{title}: {FIGURES[kind]}", source, size, stale or old)


def _finished(found: Found) -> float:
    """When the run's last session or scoring ended, in seconds since the epoch; 0 if none has.

    Its parts do not tell: compacting rewrites them.
    """
    if found.run is None:
        return 0.0
    if found.run.bundled:
        sessions = (found.run.read_record("sessions") or {"sessions": []})["sessions"]
        ends = [datetime.fromisoformat(s["finished"]) for s in sessions if "finished" in s]
        return max((end.timestamp() for end in ends), default=0.0)
    records = [*found.run.path.glob("sessions.json"), *found.run.path.glob("scores-*.json")]
    return max((path.stat().st_mtime for path in records), default=0.0)


def _differs(path: Path, found: Sequence[tables.Section]) -> bool:
    """Whether a table's csv holds other numbers than the store; False if there is none."""
    return path.exists() and path.read_text() != tables.csv_text(found)


def _distinct(sessions: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(s[key]) for s in sessions if s.get(key) is not None))


def _portable(text: str) -> str:
    """Without where this repository lies."""
    return text.replace(f"{REPOSITORY}/", "")

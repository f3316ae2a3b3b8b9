"""The tables of docs/findings.md: what of the paper's claims survives, from runs alone.

Every table reads experiments (experiments/*.yaml) at one scale; a comparison whose runs are not
finished is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bigain.experiments import experiment_files
from bigain.metrics.accuracy import Paired, hits, paired, top1
from bigain.metrics.effects import class_spread, correlation, interaction, kept_above
from bigain.metrics.spectrum import coherence
from bigain.reporting.build import Found, collect
from bigain.tasks import Classify, Generate, Trace
from bigain.tasks.classify_columns import p_value, same_images
from bigain.tasks.generate_columns import fid_contrast, fid_difference, fid_ratio
from bigain.tasks.trace_rows import spectra_at
from bigain.utils import files
from bigain.utils.tables import DASH, interval, markdown

TIMESTEP = 525  # the timestep of traces
RATIOS = ("0.3", "0.5", "0.7")
MIN_POINTS = 5  # that a correlation takes


class Row(NamedTuple):
    """A row of an experiment in one group, and what there is of it by task."""

    title: str
    entries: Mapping[str, Found]

    @property
    def frame(self) -> pd.DataFrame | None:
        """Its classified images."""
        found = self.entries.get(Classify.name)
        return found.frame if found else None

    @property
    def scores(self) -> Mapping[str, Any] | None:
        """The scores of its generated images; None also if they lack FID."""
        found = self.entries.get(Generate.name)
        return found.scores if found and found.scores and found.scores["fid"] is not None else None


Rows = Mapping[str, Row]
Groups = Mapping[str, Rows]  # a model and data by their title
Line = list[str]


class Findings(NamedTuple):
    """The tables as Markdown by name, and why entries that were begun or cannot run are absent."""

    tables: dict[str, str]
    problems: list[str]

    @property
    def text(self) -> str:
        """All tables, each under its name."""
        return "\n".join(f"## {name}\n\n{table}" for name, table in self.tables.items())


def findings(out: Path, scale: str) -> Findings:
    """Make every table, and write them all to ``<out>/findings.md``."""
    found = {}
    problems: dict[str, None] = {}  # once each, in order
    there = experiment_files.names(scale)
    wanted = {n for names, *_ in TABLES.values() for n in names if n in there}
    experiments, unread = experiment_files.load_all(sorted(wanted), scale)
    problems |= dict.fromkeys(unread)
    read = {experiment.name: list(_rows(experiment)) for experiment in experiments}
    for rows in (rows for those in read.values() for _, rows in those):
        entries = (entry for row in rows.values() for entry in row.entries.values())
        problems |= dict.fromkeys(entry.problem for entry in entries if entry.problem)
    for name, (names, header, lines) in TABLES.items():
        groups: dict[str, dict[str, Row]] = {}
        for title, rows in (group for n in names for group in read.get(n, [])):
            _merge(groups.setdefault(title, {}), rows)
        found[name] = markdown([header, *lines(groups)]) + "\n"
    made = Findings(found, list(problems))
    files.write_text(out / "findings.md", made.text)
    return made


def _merge(into: dict[str, Row], rows: Mapping[str, Row]) -> None:
    """Add another experiment's rows; one of both has the entries of both."""
    for name, row in rows.items():
        known = into[name].entries if name in into else {}
        into[name] = row._replace(entries={**known, **row.entries})


def _rows(experiment: experiment_files.Experiment) -> Iterator[tuple[str, dict[str, Row]]]:
    """An experiment's groups by title."""
    for part in collect(experiment):
        yield (
            part.group.title,
            {r.name: Row(r.title, part.entries[r.name]) for r in part.group.rows},
        )


# Comparisons of two rows


def _against(pairs: Sequence[tuple[str, str]], rows: Rows) -> Iterator[Line]:
    """Accuracy of the first of each pair against the second, on the same images."""
    for a, b in _present(pairs, rows):
        if a.frame is not None and b.frame is not None:
            yield [a.title, b.title, *_compare(*_hits(a, b))]


def _compare(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Line:
    """Both accuracies, their difference, wins and losses, and p."""
    test = paired(ours, theirs)
    shares = [f"{100 * top1(side).value:.1f}" for side in (ours, theirs)]
    return [*shares, _difference(test), f"{test.wins}/{test.losses}", p_value(test.p)]


def _pooled(pairs: Sequence[tuple[str, str]], groups: Groups) -> Iterator[Line]:
    """`_against` in every group, and on all images of a data set where several groups have some."""
    sets: dict[str, list[Rows]] = {}
    for title, rows in groups.items():
        yield from ([title, *line] for line in _against(pairs, rows))
        sets.setdefault(", ".join(title.split(", ")[:2]), []).append(rows)
    for title, those in sets.items():
        for pair in pairs:
            found = [two for each in those for two in _present([pair], each)]
            both = [(a, b) for a, b in found if a.frame is not None and b.frame is not None]
            if len(both) < 2:
                continue
            ours, theirs = map(np.concatenate, zip(*(_hits(a, b) for a, b in both), strict=True))
            (a, b), where = both[0], f"{title}, all {len(ours):,} images"
            yield [where, a.title, b.title, *_compare(ours, theirs)]


def _present(pairs: Sequence[tuple[str, str]], rows: Rows) -> Iterator[tuple[Row, Row]]:
    """The pairs of which both rows are there."""
    yield from ((rows[a], rows[b]) for a, b in pairs if a in rows and b in rows)


def _top1(row: Row) -> str:
    return f"{100 * top1(*_hits(row)).value:.1f}"


def _difference(test: Paired) -> str:
    return interval((test.difference, test.low, test.high), "+.1f")


def _hits(*rows: Row) -> list[NDArray[np.bool_]]:
    """Which images each row gets right, in the order of the first row's."""
    return [hits(frame["prediction"], frame["labels"]) for frame in _aligned(*rows)]


def _aligned(*rows: Row) -> list[pd.DataFrame]:
    first = rows[0].frame
    assert first is not None
    frames = [row.frame for row in rows]
    return [first, *(same_images("a row", first, f) for f in frames[1:] if f is not None)]


def _fids(pairs: Sequence[tuple[str, str]], rows: Rows) -> Iterator[Line]:
    """FID of the first of each pair against the second, on the same seeds."""
    for a, b in _present(pairs, rows):
        if a.scores is not None and b.scores is not None:
            change = fid_difference(a.title, a.scores, b.scores)
            values = [f"{side['fid']:.2f}" for side in (a.scores, b.scores)]
            yield [a.title, b.title, *values, interval(change, "+.2f")]


# One table per question


def _noise(rows: Rows) -> Iterator[Line]:
    """What each form of ToMe adds to the differences between classes."""
    plain = rows["none"]
    for ratio in RATIOS:
        for name in _forms(ratio):
            row = rows.get(name)
            if row is None or row.frame is None or plain.frame is None:
                continue
            ours, theirs = (_trials(frame) for frame in _aligned(row, plain))
            kept = ours.shape[-1] > 0  # a bundle made for other tables has no trials
            spread = interval(class_spread(ours, theirs), ".3f") if kept else DASH
            yield [row.title, _top1(row), spread]


def reads_trials(experiment: str, row: str) -> bool:
    """Whether a table is made of a row's trials, not of its predictions alone."""
    names, *_ = TABLES["noise"]
    return experiment in names and row in {"none", *(n for r in RATIOS for n in _forms(r))}


def _forms(ratio: str) -> tuple[str, ...]:
    """The rows of ToMe's forms."""
    return (f"tome@{ratio}", f"tome_unpaired@{ratio}", f"tome_first@{ratio}")


def _trials(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Errors [I, K, S] of the noises that every class was tried with; S is 0 if an image has none.

    A bundle keeps those of the images that findings read when it was made.
    """
    classes = len(frame["samples"].iloc[0])
    if not frame["trials"].map(len).min():
        return np.empty((len(frame), classes, 0))
    trials = np.stack([np.asarray(t, dtype=float) for t in frame["trials"]])
    trials = trials.reshape(len(frame), classes, -1)
    return trials[..., ~np.isnan(trials).any((0, 1))]


def _scores(rows: Rows) -> Iterator[Line]:
    """Table 8's scores against the deterministic control and against the paper's score."""
    control, own = rows["tome_first@0.7"], rows["lgtm@0.7"]
    if control.frame is None or own.frame is None:
        return
    for name, row in rows.items():
        if row.frame is None or not name.startswith(("lgtm", "tome@")) or "@0.7" not in name:
            continue
        tests = [None if other is row else paired(*_hits(row, other)) for other in (control, own)]
        texts = [(_difference(t), p_value(t.p)) if t else (DASH, DASH) for t in tests]
        yield [row.title, _top1(row), *texts[0], *texts[1]]


def _alphas(rows: Rows) -> Iterator[Line]:
    """Accuracy and FID at each alpha of IE-KVD, against the paper's choice for each task."""
    chosen, rising = rows.get("iekvd_alpha@0.9"), rows.get("iekvd_schedule@rising")
    for text in ("0.0", "0.5", "0.7", "0.8", "0.9", "1.0", "1.1", "1.2", "1.5", "2.0"):
        line = [text, DASH, DASH, DASH, DASH]
        row = rows.get(f"iekvd_alpha@{text}")
        if row and chosen and row.frame is not None and chosen.frame is not None:
            line[1] = _top1(row)
            if row is not chosen:
                line[2] = _difference(paired(*_hits(row, chosen)))
        if row and rising and row.scores is not None and rising.scores is not None:
            line[3] = f"{row.scores['fid']:.2f}"
            change = fid_difference(row.title, row.scores, rising.scores)
            line[4] = interval(change, "+.2f")
        if set(line[1:]) != {DASH}:
            yield line


def _together(rows: Rows) -> Iterator[Line]:
    """Merging and key/value downsampling, alone and together."""
    four = [rows[name] for name in ("none", "lgtm@0.5", "iekvd@2", "lgtm_iekvd@0.5+2")]
    if all(row.frame is not None for row in four):
        yield ["accuracy (%)", *map(_top1, four), interval(interaction(*_hits(*four)), "+.1f")]
    found = [row.scores for row in four if row.scores is not None]
    if len(found) == len(four):
        neither, first, second, both = found
        change = fid_contrast(four[-1].title, {1: [neither, both], -1: [first, second]})
        yield ["FID", *(f"{f['fid']:.2f}" for f in found), interval(change, "+.2f")]


def _breaking(rows: Rows) -> Iterator[Line]:
    """What of accuracy above chance and of FID is left, method by method."""
    plain = rows["none"]
    if plain.frame is None or plain.scores is None:
        return
    chance = 1 / len(plain.frame["samples"].iloc[0])
    for name, row in rows.items():
        if name == "none" or row.frame is None or row.scores is None:
            continue
        ours, base = _hits(row, plain)
        kept = kept_above(ours, base, chance)
        times = fid_ratio(row.title, row.scores, plain.scores)
        yield [row.title, interval(kept, ".2f"), interval(times, ".2f")]


def _retention(rows: Rows) -> Iterator[Line]:
    """How the coherence that is left goes with the accuracy that is lost."""
    plain = rows["none"]
    kinds: dict[str, list[tuple[float, NDArray[np.float64]]]] = {}
    for name, row in rows.items():
        trace = row.entries.get(Trace.name)
        if name == "none" or row.frame is None or plain.frame is None:
            continue
        if trace is None or trace.frame is None:
            continue
        fields = list(trace.frame.iloc[0]["fields"])
        if len(fields) > 1:  # two maps at once have no one coherence
            continue
        lost = -paired(*_hits(row, plain)).difference
        left = coherence(*spectra_at(row.title, trace.frame, TIMESTEP))
        bands = np.nanmean(left, axis=(0, 1, 2))  # images, blocks and the one field
        kinds.setdefault(fields[0].replace("_", " and "), []).append((lost, bands))
        kinds.setdefault("all", []).append((lost, bands))
    for kind, points in kinds.items():
        if len(points) < MIN_POINTS:
            continue
        losses = [lost for lost, _ in points]
        bands = np.stack([b for _, b in points])
        half = (bands.shape[1] - 2) // 2
        line = [kind, str(len(points))]
        # the first band is the mean, the last the corners beyond half a cycle per token
        for part in (slice(1, 1 + half), slice(1 + half, None), slice(1, None)):
            line.append(interval(correlation(bands[:, part].mean(1), losses), "+.2f"))
        yield line


def _order(groups: Groups) -> Iterator[Line]:
    """How alike the methods rank by accuracy on two data sets of one model."""
    models: dict[str, list[tuple[str, Rows]]] = {}
    for title, rows in groups.items():
        model, data = title.split(", ", 1)
        models.setdefault(model, []).append((data, rows))
    for model, those in models.items():
        for (first, a), (second, b) in combinations(those, 2):
            both = [name for name in a if name in b and name != "none"]
            both = [n for n in both if a[n].frame is not None and b[n].frame is not None]
            if len(both) < MIN_POINTS:
                continue
            left, right = ([top1(*_hits(rows[n])).value for n in both] for rows in (a, b))
            found = interval(correlation(left, right), "+.2f")
            yield [model, f"{first}; {second}", str(len(both)), found]


def _each(lines: Callable[[Rows], Iterator[Line]]) -> Callable[[Groups], Iterator[Line]]:
    """The lines of a table for every model and data."""

    def table(groups: Groups) -> Iterator[Line]:
        return ([title, *line] for title, rows in groups.items() for line in lines(rows))

    return table


MODEL = "Model and data"
PAIRED = [MODEL, "Method", "Against", "%", "%", "Difference (points)", "Wins/losses", "p"]
FIDS = [MODEL, "Method", "Against", "FID", "FID", "Difference"]


def _pairs(*kinds: tuple[str, str]) -> list[tuple[str, str]]:
    """Two methods at each ratio."""
    return [(f"{a}@{r}", f"{b}@{r}") for a, b in kinds for r in RATIOS]


GATING = [("lgtm", "tome_first"), ("lgtm", "tome")]
CELLS = [("lgtm_official", "tome_first"), ("lgtm", "lgtm_official")]
HIGHEST = [("lgtm_highest", "lgtm"), ("lgtm_highest", "tome_first"), ("lgtm_highest", "tome")]
CHANCE = [("tome", "tome_unpaired"), ("tome", "tome_first")]
# the ratios of anchored ToMe and of the published methods at equal FLOPs (docs/method.md)
BUDGETS = {"0.45": "0.3", "0.7": "0.5", "0.92": "0.7"}
OURS = [(f"anchored@{a}", f"{m}@{r}") for a, r in BUDGETS.items() for m in ("tome", "lgtm")]


def _compared(kinds: Sequence[tuple[str, str]]) -> Callable[[Groups], Iterator[Line]]:
    return _each(partial(_against, _pairs(*kinds)))


# name -> the experiments it reads, its header, and its lines
TABLES: dict[str, tuple[Sequence[str], Line, Callable[[Groups], Iterator[Line]]]] = {
    "gating": (["destinations", "table14", "texture"], PAIRED, _compared(GATING)),
    "gating-fid": (["figure2"], FIDS, _each(partial(_fids, _pairs(*GATING)))),
    "cells": (["destinations", "table14", "texture"], PAIRED, _compared(CELLS)),
    "cells-fid": (["figure2"], FIDS, _each(partial(_fids, _pairs(*CELLS)))),
    "chance": (["destinations", "table14", "texture"], PAIRED, _compared(CHANCE)),
    "noise": (["destinations"], [MODEL, "Method", "%", "Added over present"], _each(_noise)),
    "scores": (
        ["table8"],
        [MODEL, "Destinations", "%", "Against ToMe, first", "p", "Against the Laplacian", "p"],
        _each(_scores),
    ),
    "highest": (["destinations", "table14", "texture"], PAIRED, _compared(HIGHEST)),
    "alpha": (
        ["table15", "table16"],
        [MODEL, "alpha", "%", "Against 0.9", "FID", "Against the paper's schedule"],
        _each(_alphas),
    ),
    "together": (
        ["figure2"],
        [MODEL, "", "Uncompressed", "L-GTM 0.5", "IE-KVD 2", "Both", "Beyond the sum"],
        _each(_together),
    ),
    "breaking": (["figure2"], [MODEL, "Method", "Accuracy kept", "FID, times"], _each(_breaking)),
    "anchored": (["figure2", "budgets"], PAIRED, partial(_pooled, OURS)),
    "anchored-fid": (["figure2", "budgets"], FIDS, _each(partial(_fids, OURS))),
    "retention": (
        ["figure2", "retention"],
        [MODEL, "Of", "Methods", "Low bands", "High bands", "All bands"],
        _each(_retention),
    ),
    "order": (["figure2", "texture"], ["Model", "Data", "Methods", "Correlation"], _order),
}

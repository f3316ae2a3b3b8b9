"""A table of any runs, such as those of a sweep, without an experiment file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bigain.errors import BiGainError
from bigain.experiments.scoring_settings import metric_kinds
from bigain.reporting import tables
from bigain.store.identity import fingerprint
from bigain.store.runs import Run
from bigain.tasks import TASKS
from bigain.tasks.base import Task
from bigain.tasks.columns import Results, Row
from bigain.utils.tables import markdown

# keys of a record in which two scorings of the same images may differ
SCORED = ("features", "network", "reference", "n")


def run_table(paths: Sequence[Path | str]) -> str:
    """One Markdown table for each task, model and data set of the runs.

    A row's title says in what its run differs from the others of its table. It is compared with the
    uncompressed run of the same settings, if that is in the same folder, on the images that all of
    them hold.

    Raises:
        BiGainError: if there is no run at a path, a run holds no image or is damaged, the runs of a
            table share no image, or none of them is of a task that has a table.
    """
    runs = {run.fingerprint: run for run in map(Run.open, paths)}
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs.values():
        names = tuple(run.config[group]["name"] for group in ("task", "model", "dataset"))
        groups.setdefault(names, []).append(run)
    texts = [_section(names, group) for names, group in groups.items()]
    if not any(texts):
        raise BiGainError(
            f"runs of task={', '.join(sorted({names[0] for names in groups}))} have no table; give "
            "runs of task=classify or generate"
        )
    return "\n\n".join(filter(None, texts)) + "\n"


def _section(names: tuple[str, ...], runs: Sequence[Run]) -> str | None:
    task: type[Task] = TASKS[names[0]]
    baselines = {run.fingerprint: _uncompressed(run) for run in runs}
    every = {r.fingerprint: r for r in [*runs, *filter(None, baselines.values())]}
    frames = {key: run.rows().set_index("image_id", drop=False) for key, run in every.items()}
    first = frames[runs[0].fingerprint].index
    shared = [i for i in first if all(i in frame.index for frame in frames.values())]
    if not shared:
        raise BiGainError(
            f"{', '.join(run.path.name for run in every.values())} have no image in common; run "
            "them on the same images"
        )
    scores = _scores(list(every.values()))
    found = {
        key: Results.of(run, frames[key].loc[shared], scores[key], metric_kinds())
        for key, run in every.items()
    }
    rows: list[Row] = []
    for run, title in zip(runs, titles([run.config for run in runs]), strict=True):
        baseline = baselines[run.fingerprint]
        other = found[baseline.fingerprint] if baseline else None
        rows.append(task.row(title, found[run.fingerprint], other))
    columns = task.columns(rows, metric_kinds())
    if columns is None:
        return None
    text = markdown(tables.Section("", rows, [columns]).texts)
    return f"## {' '.join(names)}\n\n{text}\n\n{columns.legend}"


def titles(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The title of each run: its compressor, and the settings in which it differs from others."""
    flat = [_flat(config) for config in configs]
    names = [values["compressor.name"] for values in flat]
    made = []
    for values, name in zip(flat, names, strict=True):
        alike = [v for v, n in zip(flat, names, strict=True) if n == name]
        own = [
            f"{key}={value}"
            for key, value in values.items()
            if not key.endswith(("name", "_target_"))
            and any(v.get(key) != value for v in (alike if key.startswith("compressor") else flat))
        ]
        made.append(" ".join([name, *own]))
    return made


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _uncompressed(run: Run) -> Run | None:
    """The run without compression to compare with; None if there is none, or it is ``run``."""
    if run.identity["compression"] is None:
        return None
    names = {group: run.config[group]["name"] for group in ("task", "model", "dataset")}
    left_out = TASKS[names["task"]].compressed_only
    task = {key: value for key, value in run.identity["task"].items() if key not in left_out}
    mark = fingerprint({**run.identity, "compression": None, "task": task})
    return Run.find(run.path.parent / f"{'-'.join(names.values())}-none-{mark}")


def _scores(runs: Sequence[Run]) -> dict[str, dict[str, Any] | None]:
    """The scores of each run from one scoring: the one that most runs have, or of most images."""
    by_run: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        mine = by_run.setdefault(run.fingerprint, {})
        for name in run.records("scores-"):
            record = run.read_record(name) or {}
            key = json.dumps({k: record.get(k) for k in SCORED}, sort_keys=True)
            mine.setdefault(key, {}).update(record)
    every = [key for mine in by_run.values() for key in mine]
    if not every:
        return dict.fromkeys(by_run)
    chosen = max(set(every), key=lambda key: (every.count(key), json.loads(key)["n"], key))
    nothing: dict[str, Any] = {}
    for kind in metric_kinds():
        nothing |= {value.key: None for value in kind.values}
    return {
        run: {**nothing, **mine[chosen]} if chosen in mine else None for run, mine in by_run.items()
    }

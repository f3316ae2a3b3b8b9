"""Scores of images that exist already: those of a run, or any folder's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

from bigain.errors import BiGainError
from bigain.store.identity import fingerprint
from bigain.store.run_images import contiguous
from bigain.store.runs import Run
from bigain.tasks.base import Setup, Task
from bigain.tasks.scoring import summary
from bigain.utils.files import make_folder, write_text
from bigain.utils.images import open_folder


@dataclass(frozen=True)
class EvaluateImages(Task):
    """Score generated images against the reference.

    Scores of a run become records of it; those of a folder go to ``<results>/scores``.

    Args:
        path: a run of ``task=generate``, or a folder of images.
    """

    name: ClassVar[str] = "evaluate"
    needs: ClassVar[frozenset[str]] = frozenset()
    schema: ClassVar[dict[str, str]] = {}
    scored: ClassVar[bool] = True

    path: str | None = None

    def check(self, setup: Setup) -> None:
        if setup.scoring is None:
            raise BiGainError("task=evaluate needs a feature network; choose one with features=...")
        if self.path is None:
            runs = sorted(setup.results.glob("runs/generate-*"))
            known = ", ".join(map(str, runs)) or "none yet"
            raise BiGainError(
                f"set task.path to a folder of images or a run of task=generate; there are: {known}"
            )

    def report(self, setup: Setup) -> Run | None:
        scoring, path = setup.scoring, Path(self.path or "")
        assert scoring is not None  # see `check`
        run = Run.find(path)
        if run is not None:
            n = contiguous(run) if setup.limit is None else setup.limit
            scores, kept = scoring.of_run(run, n), run.path
        else:
            images = open_folder(path, setup.limit)
            scores = scoring.of_images(images)
            records = [scoring.record(metric, len(images)) for metric in scoring.chosen]
            key = fingerprint({"records": records})[:8]
            name = f"{path.resolve().name}-{images.sha256()[:8]}-scores-{key}.json"
            kept = setup.results / "scores" / name
            make_folder(kept.parent)
            write_text(kept, json.dumps(scores, indent=2, sort_keys=True) + "\n")
        print("\n  ".join([f"{path}:", *summary(scores, scoring.metrics), str(kept)]))
        return run

    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        return [f"{len(frame)} images"]

"""The settings of a compressor that lose least within a budget of FLOPs.

This module says what is tried and how it is judged; the candidates are run as ordinary jobs by
`bigain.experiments.tuning`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from bigain.errors import BiGainError
from bigain.tasks.base import Setup, Task
from bigain.tasks.columns import Column, Row, ranged, valued
from bigain.utils.setting_types import shown
from bigain.utils.tables import DASH, markdown

COMPRESSION = ("blocks", "sites", "decide_on", "plans")  # how a compressor is put on a model
# keys of the configuration that a candidate may set, beside those that begin with "compressor."
KEYS = ("method", "compressor", *COMPRESSION)
LEGEND = (
    "GFLOPs are those of one evaluation, matching included; where a candidate's jobs differ, those "
    "of the one that takes more. Brackets are 95% intervals. The loss is the number of points of "
    "accuracy lost{rate}, against the uncompressed model on the same images."
)


@dataclass(frozen=True)
class Tune(Task):
    """A search over the settings of a compressor, or over methods.

    Args:
        budget: the largest share of the uncompressed model's FLOPs per evaluation, matching
            included, that a candidate may take.
        candidates: how many of them are run, at most.
        points_per_fid: how many points of accuracy one unit of FID is worth; 0 leaves generation
            out.
        classify, generate: settings of the job that measures accuracy, and of the one that
            measures FID, by key of the configuration; None leaves the job out.
        space: the values to try, by key; None takes that of ``spaces``.
        spaces: what is tried by default, by the compressor's name.

    Raises:
        ValueError: if a number lies outside its range, or neither job is left.
    """

    name: ClassVar[str] = "tune"
    needs: ClassVar[frozenset[str]] = frozenset()  # the candidates' jobs build their own
    schema: ClassVar[dict[str, str]] = {}
    searches: ClassVar[bool] = True

    budget: float = 0.7
    candidates: int = 20
    points_per_fid: float = 1.0
    classify: Mapping[str, Any] | None = None
    generate: Mapping[str, Any] | None = None
    space: Mapping[str, Sequence[Any]] | None = None
    spaces: Mapping[str, Mapping[str, Sequence[Any]]] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise ValueError(
                "Tune: budget is a share of the uncompressed model's FLOPs, above 0 and at most 1, "
                f"such as 0.7; got {self.budget}"
            )
        if self.candidates < 1:
            raise ValueError(f"Tune: candidates must be at least 1, got {self.candidates}")
        if self.points_per_fid < 0:
            raise ValueError(f"Tune: points_per_fid must be at least 0, got {self.points_per_fid}")
        if not self.jobs:
            raise ValueError(
                "Tune: nothing is left to judge candidates by; set classify, or generate with "
                "points_per_fid above 0"
            )

    @property
    def jobs(self) -> dict[str, Mapping[str, Any]]:
        """The settings of the jobs that each candidate runs, by task."""
        found = {"classify": self.classify}
        found |= {"generate": self.generate} if self.points_per_fid else {}
        return {task: given for task, given in found.items() if given is not None}

    def check(self, setup: Setup) -> None:
        if setup.start or setup.limit is not None:
            given = f"start={setup.start}" if setup.start else f"limit={setup.limit}"
            raise BiGainError(
                f"task=tune takes the images of its jobs from task.classify and task.generate; "
                f"remove {given}, and set task.classify.limit or task.generate.limit"
            )
        self.chosen_space(setup.names["compressor"])

    def chosen_space(self, compressor: str) -> Mapping[str, Sequence[Any]]:
        """The values to try by key, for a compressor of this name.

        Raises:
            BiGainError: if there are none, a list is empty, or a key is none of `KEYS`.
        """
        space = (self.spaces or {}).get(compressor) if self.space is None else self.space
        if not space:
            raise BiGainError(
                f"task.space is empty, and no values are known to try for compressor={compressor}; "
                "name some by key, such as task.space={compressor.ratio: [0.3, 0.5], "
                "blocks: [default, all]}"
            )
        for key, values in space.items():
            if key not in KEYS and not key.startswith("compressor."):
                raise BiGainError(
                    f"task.space names {shown(key)}, which is not what candidates may differ in; "
                    f"accepted: {', '.join(KEYS)}, and keys that begin with compressor."
                )
            if not values:
                raise BiGainError(f"task.space gives {key} no values; name some, or remove it")
        if {"method", "compressor"} <= space.keys():
            raise BiGainError(
                "task.space names method and compressor; a method has its own, so "
                "remove one of them"
            )
        return space

    def loss(self, row: Row) -> float:
        """Points of accuracy lost, with FID in their currency; lower is better.

        Args:
            row: with "difference" in accuracy and "fid_difference" from the uncompressed model, of
                the jobs that there are.
        """
        lost = -row["difference"] if "classify" in self.jobs else 0.0
        gained = row["fid_difference"] if "generate" in self.jobs else 0.0
        return float(lost + self.points_per_fid * gained)

    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        """A table of ``frame``, one line per row, under the uncompressed model, and its legend."""
        parts = [] if baseline is None else [baseline]
        rows: list[Any] = [row for part in [*parts, frame] for row in part.to_dict("records")]
        columns = [Column("Candidate", lambda row: row["method"]), valued("GFLOPs", "gflops")]
        if "classify" in self.jobs:
            columns.append(ranged("Accuracy (%)", "acc1", "low", "high", ".1f"))
        if "generate" in self.jobs:
            columns.append(ranged("FID", "fid", "fid_low", "fid_high", ".2f"))
        columns.append(Column("Loss (points)", _loss, "loss"))
        lines = [[column.text(row) or DASH for column in columns] for row in rows]
        rate = f", plus {self.points_per_fid:g} for each unit by which FID is higher"
        legend = LEGEND.format(rate=rate if "generate" in self.jobs else "")
        return [markdown([[column.header for column in columns], *lines]), legend]


def _loss(row: Row) -> str:
    return f"{row['loss']:.2f}".replace("-", "−")

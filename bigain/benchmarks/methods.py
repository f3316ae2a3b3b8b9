"""The methods that are timed: rows of experiments/joint.yaml."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from bigain.compressors import Compressor
from bigain.errors import BiGainError
from bigain.experiments import experiment_files
from bigain.experiments.configuration import settings_of

BASELINE = "none"
PROFILED = (BASELINE, "lgtm_0.5")  # beside the times of models


@dataclass(frozen=True)
class Method:
    """A compressor at a strength.

    Attributes:
        overrides: that choose it.
    """

    name: str
    title: str
    overrides: Sequence[str]

    def configured(self, *others: str) -> DictConfig:
        return experiment_files.composed([*others, *self.overrides])

    def compressor(self, *others: str) -> Compressor | None:
        return settings_of(self.configured(*others)).setup.compressor


def methods(names: Sequence[str] | None = None) -> list[Method]:
    """Those of the names, or all.

    Raises:
        BiGainError: if there is no row of a name.
    """
    rows: list[dict[str, Any]] = experiment_files.rows("joint")
    every = {row["name"]: Method(row["name"], row["title"], row["overrides"]) for row in rows}
    if unknown := sorted(set(names or ()) - set(every)):
        raise BiGainError(
            f"experiments/joint.yaml has no row {unknown[0]}; it has {', '.join(every)}"
        )
    return [every[name] for name in (every if names is None else names)]

"""The methods to time, found in experiments/methods.yaml by their references."""

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from bigain.compressors import Compressor
from bigain.experiments import experiment_files
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.methods import method

BASELINE = "none"
PROFILED = (BASELINE, "lgtm@0.5")  # methods whose slowest kernels a report lists
ALL = "figure2"  # the experiment that has every method


@dataclass(frozen=True)
class Method:
    """A compressor at a strength.

    Attributes:
        name: its reference, such as ``lgtm@0.5``.
        overrides: the overrides that choose it on the command line.
    """

    name: str
    title: str
    overrides: Sequence[str]

    def configured(self, *others: str) -> DictConfig:
        return composed([*others, *self.overrides])

    def compressor(self, *others: str) -> Compressor | None:
        return settings_of(self.configured(*others)).setup.compressor


def methods(names: Sequence[str] | None = None) -> list[Method]:
    """The methods of the given references, or all of experiments/figure2.yaml.

    Raises:
        BiGainError: if experiments/methods.yaml lacks one of them.
    """
    chosen = experiment_files.methods_of(ALL) if names is None else map(method, names)
    return [Method(found.reference, found.title, found.overrides) for found in chosen]

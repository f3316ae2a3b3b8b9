"""The errors of every class and timestep, from runs that hold all of them.

What a strategy of classification takes and answers follows from them, without the model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.store.runs import Run
from bigain.tasks.classify import Classify

MODELS = {"DiT": "dit_fashion", "U-Net": "sd_fashion"}  # the embedded ones, as tables name them
FULL = ["task=classify", "task.samples=[5,20]", "task.keep=[10,1]", "dtype=bfloat16"]
STAGED = Classify()  # the usual stages, whose noises come in the order of the errors


class Errors(NamedTuple):
    """All errors of I images.

    Attributes:
        trials: float64 [I, K, S] in the order of the stages' noises.
        labels: the labels of each image.
    """

    trials: NDArray[np.float64]
    labels: Sequence[Sequence[int]]

    @property
    def answers(self) -> NDArray[np.int64]:
        """The class that all timesteps together answer for each image, int64 [I]."""
        return self.trials.mean(2).argmin(1)


def read(model: str, overrides: Sequence[str]) -> Errors:
    """The errors of a model's run of all timesteps and classes; see `all_trials`."""
    return all_trials(job_of(model, overrides), STAGED.trials)


def job_of(model: str, overrides: Sequence[str]) -> Job:
    """The job of all timesteps and classes."""
    return Job(settings_of(composed([f"model={model}", *FULL, *overrides])))


def all_trials(job: Job, timesteps: int) -> Errors:
    """The errors of a run of all timesteps and classes.

    Raises:
        BiGainError: if the run is not there, or lacks images that the job asks for, or their
            trials.
    """
    frame = Run.open(job.run_path).require(job.ids)
    classes = len(job.dataset.classes)
    if frame["trials"].map(len).min() < classes * timesteps:
        raise BiGainError(
            f"{job.run_path} no longer holds the trials of all these images, as bundles leave out "
            "what no finding reads; compute them anew with another results=..."
        )
    trials = np.stack([np.asarray(t, dtype=float) for t in frame["trials"]])
    return Errors(trials.reshape(len(frame), classes, -1), list(frame["labels"]))

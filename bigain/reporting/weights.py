"""Weights of timesteps for classification (docs/performance.md, Weights), found without labels.

The class that all timesteps together answer stands in for the label. A timestep's weight is the
mean, over images, of the difference between this class and its strongest rival, divided by that
difference's variance: the direction of Fisher's linear discriminant (1936) if timesteps err
independently.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.metrics.accuracy import hits, paired
from bigain.reporting.all_trials import all_trials
from bigain.tasks.classify import Classify
from bigain.utils.tables import interval

FOLDS = 5  # into which images are split, to try weights on others than they were found on


def weights(overrides: Sequence[str]) -> str:
    """The setting for `run.py`, and what it changes.

    Args:
        overrides: the settings of a finished run of all timesteps for all classes.

    Raises:
        BiGainError: if the run is not there, lacks trials or is of another kind.
    """
    job = Job(settings_of(composed(overrides)))
    task = job.task
    if not isinstance(task, Classify) or task.weights is not None or task.cascade:
        raise BiGainError(
            "weights are found on a run of task=classify without task.weights and "
            f"task.decide_with; got {' '.join(overrides)}"
        )
    errors = all_trials(job, task.trials)
    if len(errors.trials) < FOLDS:
        raise BiGainError(
            f"weights need at least {FOLDS} images; {job.run_path} has {len(errors.trials)}"
        )
    if np.isnan(errors.trials).any():
        raise BiGainError(
            f"{job.run_path}: weights need every class at every timestep; make another run, with "
            f"task.strategy=staged task.samples=[{task.trials}] task.keep=[1]"
        )
    found = discriminant_weights(errors.trials)[np.argsort(task.drawn())]
    test = paired(
        hits(cross_validated(errors.trials).tolist(), errors.labels),
        hits(errors.answers.tolist(), errors.labels),
    )
    change = interval((test.difference, test.low, test.high), "+.1f")
    return (
        f"task.weights=[{','.join(f'{weight:.3g}' for weight in found)}]\n"
        f"With every class at every timestep, top-1 changes by {change} points on these "
        f"{len(errors.labels)} images, if the weights for each fifth come from the others.\n"
    )


def cross_validated(trials: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each image's answer by the weights of the other folds, int64 [I]."""
    answers = np.empty(len(trials), dtype=np.int64)
    fold = np.arange(len(trials)) % FOLDS
    for i in range(FOLDS):
        found = discriminant_weights(trials[fold != i])
        answers[fold == i] = (trials[fold == i] * found).mean(2).argmin(1)
    return answers


def discriminant_weights(trials: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of each timestep, [S] with a mean of 1.

    Args:
        trials: errors [I, K, S] of every class at every timestep, of I >= 2 images and K >= 2
            classes.

    Raises:
        BiGainError: if no timestep tells the first class from the second.
    """
    first, second = np.argsort(trials.mean(2), axis=1, kind="stable")[:, :2].T
    images = np.arange(len(trials))
    ahead = trials[images, second] - trials[images, first]
    spread = ahead.var(0)
    known = spread > 0
    weights = np.zeros_like(spread)
    weights[known] = np.clip(ahead.mean(0)[known], 0, None) / spread[known]
    if not weights.any():
        raise BiGainError("no timestep tells the best class from the second; give other images")
    found: NDArray[np.float64] = weights / weights.mean()
    return found

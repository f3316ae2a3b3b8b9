"""Weights of timesteps: found without labels, printed as a setting, and tried on other images."""

import re

import numpy as np
import pytest

from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.reporting import weights as module
from bigain.reporting.all_trials import Errors
from bigain.reporting.weights import cross_validated, discriminant_weights, weights
from bigain.tasks.classify import Classify

FULL = ["model=dit_fashion", "task=classify", "task.samples=[5,20]", "task.keep=[10,1]"]


def trials_of(scale, images: int = 400, seed: int = 0):
    """The true class is 0; errors at each timestep scatter as `scale` says."""
    rng = np.random.default_rng(seed)
    means = np.ones(10)
    means[0] = 0
    return means[:, None] + rng.normal(size=(images, 10, len(scale))) * np.asarray(scale)


def test_timesteps_weigh_by_the_inverse_of_their_variance_where_means_are_equal():
    found = discriminant_weights(trials_of([0.1, 0.2, 0.2, 0.4]))
    assert found.mean() == pytest.approx(1)
    assert (np.diff(found[[0, 1, 3]]) < 0).all()
    assert found[1] == pytest.approx(found[2], rel=0.25)
    assert found[0] / found[1] == pytest.approx(4, rel=0.25)


def test_the_scale_of_a_timestep_does_not_matter():
    """The weight undoes it, here for answers that do not depend on it."""
    trials, scale = trials_of([0.05] * 4), np.array([1.0, 1.0, 0.01, 1.0])
    undone = discriminant_weights(trials * scale) * scale
    assert undone / undone[0] == pytest.approx(np.ones(4), rel=0.25)


def test_a_timestep_at_which_rivals_are_better_weighs_nothing():
    trials = trials_of([0.05] * 4)
    trials[:, :, 3] *= -0.1
    assert discriminant_weights(trials)[3] == 0


def test_weights_are_tried_on_images_they_were_not_found_on():
    trials = trials_of([0.3, 0.3, 1.5, 1.5])
    equal = trials.mean(2).argmin(1)
    assert (cross_validated(trials) == 0).mean() > (equal == 0).mean() + 0.1


def test_the_setting_is_in_the_order_of_the_timesteps(monkeypatch):
    scale = np.full(20, 1.0)
    scale[2] = 0.2  # of t=125, which is drawn first
    drawn = Classify().drawn()
    errors = Errors(trials_of(scale[drawn]), [[0]] * 400)
    monkeypatch.setattr(module, "all_trials", lambda job, timesteps: errors)
    said = weights(FULL)
    (found,) = re.findall(r"^task\.weights=\[(.*)\]$", said, re.M)
    assert np.argmax([float(text) for text in found.split(",")]) == 2
    assert re.search(r"timestep, top-1 changes by [+−]\d", said, re.M)
    task = settings_of(composed([*FULL, f"task.weights=[{found}]"])).task
    assert isinstance(task, Classify) and task.weighting().argmax() == drawn.index(2) == 0


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (Errors(trials_of([1.0] * 20, 3), [[0]] * 3), "at least 5 images; .* has 3"),
        (Errors(np.full((9, 10, 20), np.nan), [[0]] * 9), r"task\.samples=\[20\] task\.keep=\[1\]"),
        (Errors(np.ones((9, 10, 20)), [[0]] * 9), "no timestep tells"),
    ],
)
def test_runs_that_do_not_suffice_are_refused(monkeypatch, errors, message):
    monkeypatch.setattr(module, "all_trials", lambda job, timesteps: errors)
    with pytest.raises(BiGainError, match=message):
        weights(FULL)


@pytest.mark.parametrize(
    "more",
    [
        ["task=generate"],
        [f"task.weights=[{'1,' * 19}2]"],
        ["compressor=tome", "task.decide_with=uncompressed", "task.keep=[10,1]"],
    ],
)
def test_runs_of_another_kind_are_refused(more):
    with pytest.raises(BiGainError, match=r"task=classify without task\.weights"):
        weights(["model=dit_fashion", *more])


def test_a_timestep_at_which_classes_do_not_differ_weighs_nothing():
    trials = trials_of([0.05] * 4)
    trials[:, :, 1] = 0.5
    assert discriminant_weights(trials)[1] == 0 and np.isfinite(discriminant_weights(trials)).all()

"""A replayed race or stage is what the task does, and a simulated data set keeps its rivals."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bigain.errors import BiGainError
from bigain.reporting import all_trials
from bigain.reporting.all_trials import Errors
from bigain.reporting.race_replay import (
    halving,
    informative_order,
    needed,
    race,
    resampled,
    staged,
    variants,
)
from bigain.tasks.classify import Classify
from bigain.tasks.racing import raced


def errors_of(images: int = 40, classes: int = 10, seed: int = 0) -> Errors:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(images, classes, 1))
    trials = means + 1.5 * rng.normal(size=(images, classes, 20))
    return Errors(trials, [[int(k)] for k in rng.integers(classes, size=images)])


@pytest.mark.parametrize("classes", [2, 3, 10, 37])
@pytest.mark.parametrize("agreement", [0.6, 0.9, 0.99, 0.999])
def test_all_images_at_once_are_the_races_of_each(classes, agreement):
    errors = errors_of(classes=classes)
    found = race(errors, agreement)
    rounds = Classify().rounds()
    for trials, prediction, spent in zip(errors.trials, *found[::-1], strict=True):
        alone = raced(trials[:, rounds], agreement)
        assert alone.alive.tolist() == [prediction]
        assert np.isfinite(alone.errors).sum() == spent


def test_stages_take_the_best_by_the_first_timesteps():
    errors = errors_of()
    found = staged(errors)
    assert set(found.evaluations) == {125}
    for trials, prediction in zip(errors.trials, found.predictions, strict=True):
        five = np.argsort(trials[:, :5].mean(1))[:5]
        assert prediction == five[trials[five].mean(1).argmin()]
    every = staged(errors, Classify(keep=(10, 1)))
    assert every.predictions.tolist() == errors.answers.tolist()


def test_each_variant_decides_otherwise():
    errors = errors_of(200)
    spent = {name: race(errors, 0.98, **how).evaluations.sum() for name, how in variants()}
    assert len(set(spent.values())) == len(spent)


def test_the_order_of_the_first_trial():
    assert halving(8) == [4, 2, 6, 1, 5, 3, 7, 0]
    assert sorted(halving(20)) == list(range(20))
    assert halving(20)[:3] == [10, 5, 15]


def test_the_order_takes_what_says_most_about_the_mean_first():
    """One timestep carries most of the variance; another says nothing that the first does not."""
    rng = np.random.default_rng(0)
    trials = rng.normal(size=(400, 2, 20))
    drawn = [p for stage in Classify().stages() for p in stage]
    trials[:, :, drawn.index(4)] *= 8
    trials[:, :, drawn.index(9)] = trials[:, :, drawn.index(4)] / 8
    found = informative_order([Errors(trials, [[0]] * 400)], rivals=1)
    assert found[0] == 4 and found[-1] == 9 and sorted(found) == list(range(20))


def test_a_wanted_agreement_has_a_price():
    errors = errors_of(300)
    loose, strict = needed(errors, 0.9), needed(errors, 0.99)
    assert 20 < loose < strict < 200
    assert np.isnan(needed(errors, 1.1))


@pytest.mark.parametrize("crowded", [False, True])
def test_a_simulated_data_set_has_the_rivals_of_its_images(crowded):
    errors = errors_of()
    made = resampled(errors, 100, 30, crowded)
    assert made.trials.shape == (30, 100, 20)
    assert made.answers.tolist() == [0] * 30, "the answer stays the answer"
    sources = {
        trials[answer].tobytes()
        for trials, answer in zip(errors.trials, errors.answers, strict=True)
    }
    assert {trials[0].tobytes() for trials in made.trials} <= sources
    for trials in made.trials:
        behind = (trials - trials[0]).mean(1)[10:]
        near = errors.trials.mean(2) - errors.trials.mean(2).min(1, keepdims=True)
        half = np.median(near[near > 0])
        assert (behind > half).all() != crowded


def test_runs_without_all_trials_are_refused(monkeypatch):
    whole = np.zeros(10 * 20)
    rows = pd.DataFrame({"trials": [whole, whole], "labels": [[0], [1]]})
    job = SimpleNamespace(
        run_path="a run", ids=["a", "b"], dataset=SimpleNamespace(classes="0123456789")
    )
    monkeypatch.setattr(all_trials, "job_of", lambda *_: job)
    monkeypatch.setattr(all_trials.Run, "open", lambda _: SimpleNamespace(require=lambda ids: rows))
    assert all_trials.read("toy", []).trials.shape == (2, 10, 20)
    left: list = [whole, np.zeros(0)]  # the second as a bundle leaves it
    rows["trials"] = left
    with pytest.raises(BiGainError, match=r"a run no longer holds the trials .*results="):
        all_trials.read("toy", [])

"""Whether the errors of compressed blocks add up or cancel."""

import numpy as np
import pytest
import torch

import bigain
from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.experiments.runner import load
from bigain.reporting import depth
from bigain.reporting.depth import Shifts, added, compressing, correlation, measure

OVERRIDES = ["model=dit_fashion", "compressor=tome", "blocks=all", "limit=2", "task=classify"]


def shifts_of(alone):
    """Shifts whose blocks add up exactly."""
    rng = np.random.default_rng(1)
    return Shifts(rng.normal(size=alone.shape[:2]), alone, alone.sum(2))


def test_blocks_that_err_alike_add_up():
    one = np.random.default_rng(0).normal(size=(50, 3, 1))
    shifts = shifts_of(np.repeat(one, 4, axis=2))
    each, together, ratio = added(shifts)
    assert correlation(shifts) == pytest.approx(1)
    assert ratio == pytest.approx(4)
    assert together == pytest.approx(16 * each)


def test_blocks_that_err_independently_do_not():
    shifts = shifts_of(np.random.default_rng(0).normal(size=(20_000, 3, 4)))
    assert correlation(shifts) == pytest.approx(0, abs=0.01)
    assert added(shifts)[2] == pytest.approx(1, abs=0.03)


def test_blocks_that_err_in_opposite_ways_cancel():
    one = np.random.default_rng(0).normal(size=(50, 3, 1))
    shifts = shifts_of(np.concatenate([one, -one], axis=2))
    assert correlation(shifts) == pytest.approx(-1)
    assert added(shifts)[2] == pytest.approx(0, abs=1e-12)


def test_the_interval_holds_the_value():
    shifts = shifts_of(np.random.default_rng(0).normal(size=(40, 2, 3)))
    for value, low, high in depth.row(shifts):
        assert low < value < high


@pytest.fixture(scope="module")
def job():
    return Job(settings_of(composed(OVERRIDES)))


@pytest.fixture(scope="module")
def backbone(job):
    return load(job)


def test_only_the_chosen_blocks_are_compressed(backbone):
    x, t = torch.randn(2, 1, 28, 28), torch.tensor([500.0, 500.0])
    denoiser, classes = backbone.denoiser, torch.tensor([1, 2])

    def run():
        with torch.inference_mode():
            return denoiser(x, timestep=t, class_labels=classes).sample

    exact = run()
    with bigain.compress(denoiser, bigain.ToMe(0.5, destinations="first"), blocks="all") as handle:
        every = run()
        with compressing(handle, set(range(6))):
            assert torch.equal(run(), every)
        with compressing(handle, set()):
            assert torch.equal(run(), exact)
        with compressing(handle, {3}):
            one = run()
    with bigain.compress(denoiser, bigain.ToMe(0.5, destinations="first"), blocks=[3]):
        assert torch.equal(run(), one)
    assert not torch.equal(one, exact)


def test_draws_for_each_class_change_the_shifts_and_nothing_else(job, backbone):
    shifts = measure(job, backbone, (525,))
    assert shifts.alone.shape == (2, 1, 6)
    changed = Job(settings_of(composed([*OVERRIDES, "compressor.destinations=unpaired"])))
    unpaired = measure(changed, backbone, (525,))
    assert np.array_equal(unpaired.exact, shifts.exact)
    for one, other in zip(unpaired, measure(changed, backbone, (525,), shifts.exact), strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(unpaired.together, shifts.together)
    again = measure(job, backbone, (525,))
    assert np.array_equal(again.together, shifts.together)


def test_sites_that_cannot_be_switched_off_are_refused():
    every = Job(settings_of(composed([*OVERRIDES, "sites=[self_attention,mlp]"])))
    with pytest.raises(BiGainError, match="self-attention alone"):
        measure(every, None, (525,))


def test_the_page_names_every_method(tmp_path, monkeypatch):
    monkeypatch.setattr(depth, "MODELS", {"DiT": "dit_fashion"})
    monkeypatch.setattr(depth, "METHODS", ("tome_first@0.7", "iekvd_cycle@2"))
    monkeypatch.setattr(depth, "TIMESTEPS", (525,))
    text = depth.depth(tmp_path, ["dataset=fashion_mnist", "limit=6"])
    assert "ToMe, first 0.7" in text and "IE-KVD, cycling 2" in text
    assert (tmp_path / "depth.md").read_text() == text

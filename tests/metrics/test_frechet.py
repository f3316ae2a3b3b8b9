"""The Fréchet distance equals three published implementations, and the bootstrap re-weights it."""

from collections.abc import Callable

import cleanfid.fid
import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from bigain.metrics import frechet
from bigain.metrics.frechet import Moments, bootstrap, frechet_distance

N, D = 300, 24


def features(seed: int, n: int = N, d: int = D, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(rank or d, d)) * np.geomspace(1, 0.05, d)
    return rng.normal(size=(n, rank or d)) @ mixing + rng.normal(size=d) * 0.3


def formula(a: Moments, b: Moments) -> float:
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    trace = np.trace(a.covariance + b.covariance - 2 * root.real)
    return float(np.square(a.mean - b.mean).sum() + trace)


def clean_fid(a: Moments, b: Moments) -> float:
    return float(cleanfid.fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance))


def torch_fidelity(a: Moments, b: Moments) -> float:
    statistics = [{"mu": m.mean, "sigma": m.covariance} for m in (a, b)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def test_moments_are_numpys() -> None:
    x = features(0).astype(np.float32)
    m = Moments.of(torch.from_numpy(x))
    assert m.n == N
    np.testing.assert_allclose(m.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(m.covariance, np.cov(x.astype(np.float64), rowvar=False), atol=1e-12)


def test_moments_need_two() -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        Moments.of(features(0, 1))


@pytest.mark.parametrize("other", [formula, clean_fid, torch_fidelity])
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_equals(other: Callable[[Moments, Moments], float]) -> None:
    a, b = Moments.of(features(1)), Moments.of(features(2) * 1.3)
    try:
        expected = other(a, b)
    except TypeError:  # clean-fid 0.1.35 under scipy 1.18
        pytest.skip("clean-fid does not run with this scipy")
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_known_gaussians() -> None:
    """Diagonal covariances: squared differences of means and of standard deviations."""
    a = Moments(9, np.array([1.0, 0.0, 2.0]), np.diag([4.0, 1.0, 0.0]))
    b = Moments(9, np.array([0.0, 0.0, 4.0]), np.diag([9.0, 0.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 1, rel=1e-12)


def test_singular_covariances() -> None:
    """Features in a subspace: the distance within it, by a rotation into it."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(D, 6)))[0]
    x, y = features(1, d=6), features(2, d=6)
    inside = formula(Moments.of(x), Moments.of(y))
    outside = frechet_distance(Moments.of(x @ basis.T), Moments.of(y @ basis.T))
    assert outside == pytest.approx(inside, rel=1e-6)


def test_fewer_images_than_dimensions() -> None:
    a, b = Moments.of(features(1, n=10)), Moments.of(features(2))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(torch_fidelity(a, b), rel=1e-4)


def test_zero_of_itself() -> None:
    a = Moments.of(features(1))
    assert 0 <= frechet_distance(a, a) < 1e-6 * np.trace(a.covariance)


@pytest.mark.parametrize("n", [N, 10])  # more and fewer images than dimensions
def test_replicates_are_distances_of_resampled_images(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, reference = features(1, n) + 5, Moments.of(features(2))
    drawn = np.random.default_rng(0).integers(0, n, (3, n))
    counts = [np.bincount(row, minlength=n).astype(float) for row in drawn]
    monkeypatch.setattr(frechet, "_draws", lambda *_: iter(counts))
    expected = [frechet_distance(Moments.of(x[row]), reference) for row in drawn]
    np.testing.assert_allclose(bootstrap(x, reference, 3, 0), expected, rtol=1e-8)


def test_draws_hang_on_seed_and_number_alone() -> None:
    draws = np.stack(list(frechet._draws(0, 50, 4)))
    assert (draws.sum(1) == 50).all()
    assert len(np.unique(draws, axis=0)) == 4
    assert np.array_equal(np.stack(list(frechet._draws(0, 50, 2))), draws[:2])
    assert not np.array_equal(next(frechet._draws(1, 50, 1)), draws[0])


def test_replicates_spread_as_fresh_samples_do() -> None:
    reference = Moments.of(features(2, 5000, 8))
    population = features(1, 200_000, 8)
    fresh = [frechet_distance(Moments.of(x), reference) for x in population.reshape(-1, 500, 8)]
    spread = np.mean([bootstrap(population[i * 500 :][:500], reference, 100, 0).std()
                      for i in range(8)])  # fmt: skip
    assert spread == pytest.approx(np.std(fresh), rel=0.15)


def test_paired_replicates_cancel_common_noise() -> None:
    reference = Moments.of(features(2))
    x = features(1)
    y = x + 0.01 * features(3)
    a, b = (bootstrap(v, reference, 100, 0) for v in (x, y))
    unpaired = bootstrap(y, reference, 100, 1)
    assert (a - b).std() < 0.3 * (a - unpaired).std()

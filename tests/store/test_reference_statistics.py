"""Reference statistics: what is saved comes back, and no other file or network passes for it."""

import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bigain.errors import BiGainError
from bigain.features import FashionFeatures, Features
from bigain.store import reference_statistics
from bigain.store.reference_statistics import ReferenceStatistics


def network(**changes: Any) -> Any:
    identity = {"name": "toy", "sha256": "abc", "resize": [8, 8]} | changes
    return SimpleNamespace(name="toy", identity=lambda: identity)


def statistics(n: int = 50, spatial: bool = True) -> ReferenceStatistics:
    g = torch.Generator().manual_seed(0)
    pooled, rest = torch.randn(n, 4, generator=g), torch.randn(n, 3, generator=g)
    features = Features(pooled, rest if spatial else None)
    return ReferenceStatistics.of("data-train-toy", network(), {"name": "data"}, features)


def refusal(path: Path) -> str:
    with pytest.raises(BiGainError) as caught:
        ReferenceStatistics.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "scripts/make_reference_statistics.py dataset=... model=... features=..." in message
    return message


def test_adm_statistics_are_made_by_another_script(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match=r"prepare_imagenet\.py --adm") as caught:
        ReferenceStatistics.load(tmp_path / "adm-imagenet256-inception-clean.npz")
    assert "make_reference" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("spatial", [True, False])
def test_come_back(tmp_path: Path, spatial: bool) -> None:
    saved = statistics(spatial=spatial)
    saved.save(tmp_path / "x.npz")
    found = ReferenceStatistics.load(tmp_path / "x.npz")
    assert (found.name, found.n, found.fingerprint) == (saved.name, 50, saved.fingerprint)
    assert (found.network, found.data) == (saved.network, saved.data)
    assert torch.equal(found.features, saved.features)
    for name in ("pooled", "spatial") if spatial else ("pooled",):
        a, b = getattr(found, name), getattr(saved, name)
        assert a.n == b.n
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.covariance, b.covariance)
    assert (found.spatial is None) is not spatial


def test_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        statistics().save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_keeps_an_even_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_statistics, "KEPT", 4)
    pooled = torch.arange(10.0).unsqueeze(1)
    kept = ReferenceStatistics.of("x", network(), {}, Features(pooled))
    assert kept.features[:, 0].tolist() == [0, 2, 5, 7]
    assert kept.n == 10
    assert kept.pooled.mean == 4.5


def test_fingerprint_follows_network_data_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_statistics, "KEPT", 20)  # so that both keep as many
    features = Features(torch.randn(50, 4))

    def fingerprint(n: int = 50, data: str = "a", **changes: Any) -> str:
        part = Features(features.pooled[:n])
        return ReferenceStatistics.of("x", network(**changes), {"name": data}, part).fingerprint

    assert fingerprint() == fingerprint()
    assert (
        len({fingerprint(), fingerprint(49), fingerprint(data="b"), fingerprint(sha256="d")}) == 4
    )


def test_another_network_is_refused() -> None:
    statistics().check(network())
    with pytest.raises(BiGainError, match=r"differ in sha256\)") as caught:
        statistics().check(network(sha256="def"))
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert "not found" in refusal(path)
    statistics().save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("pooled_covariance.npy")
    flipped = bytearray(whole)
    flipped[member.header_offset + 150] ^= 0xFF
    for damaged in (b"", b"text", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        assert "damaged" in refusal(path)
    np.save(tmp_path / "x.npy", np.zeros(3))
    refusal(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("arrays", "holds"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "mu, sigma, a mean and a covariance as pytorch-"),
        ({"images": np.zeros(3)}, "images"),
        ({f"arr_{i}": np.zeros(3) for i in range(9)}, "arr_0, arr_1, arr_2, arr_3, arr_4, …"),
        ({}, "no arrays"),
    ],
)
def test_another_program_s_file_is_told_apart_and_kept(
    tmp_path: Path, arrays: dict[str, np.ndarray], holds: str
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    said = refusal(path)
    assert f"was not written by this project: it holds {holds}" in said
    assert "remove" not in said and "damaged" not in said and "under another name" in said


def test_older_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics().save(tmp_path / "x.npz")
    monkeypatch.setattr(reference_statistics, "FORMAT", 3)
    assert "format" in refusal(tmp_path / "x.npz")


@pytest.mark.parametrize("key", ["features", "pooled_mean", "pooled_covariance", "spatial_mean"])
def test_one_changed_bit_is_another_statistic(tmp_path: Path, key: str) -> None:
    """Neither under the old fingerprint, nor with it rewritten."""
    saved = statistics(spatial=True)
    saved.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        arrays = {name: file[name] for name in file.files}
    flipped = arrays[key].copy()
    flipped.view(np.uint8).reshape(-1)[0] ^= 1
    np.savez(tmp_path / "x.npz", **{**arrays, key: flipped})
    assert "not those it was written with" in refusal(tmp_path / "x.npz")
    changed = replace(saved, features=saved.features + 1)
    assert changed.fingerprint != saved.fingerprint


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("features", np.full((4, 4), np.nan, np.float32), "finite"),
        ("pooled_mean", np.zeros(3), "different sizes"),
        ("pooled_covariance", np.zeros((4, 3)), "different sizes"),
        ("pooled_n", np.array(1), "is of 1 images"),
        ("features", np.zeros((0, 4), np.float32), "should be"),
        ("features", np.zeros((51, 4), np.float32), "should be"),
        ("features", np.zeros((50, 3), np.float32), "should be"),
        ("pooled_mean", np.array(["a"] * 4), "finite"),
    ],
)
def test_numbers_of_no_images_are_refused(
    tmp_path: Path, key: str, value: np.ndarray, words: str
) -> None:
    statistics().save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / "x.npz", **{**arrays, key: value})
    assert words in refusal(tmp_path / "x.npz")


def test_shipped_statistics_belong_to_the_shipped_network() -> None:
    assets = Path(__file__).parents[2] / "assets"
    found = ReferenceStatistics.load(assets / "statistics" / "fashion_mnist-train-fashion.npz")
    found.check(FashionFeatures(str(assets / "fashion_features")))
    assert (found.name, found.n) == ("fashion_mnist-train-fashion", 60_000)
    assert found.features.shape == (10_000, 64)
    assert found.fingerprint in (assets / "statistics" / "README.md").read_text()


def test_one_image_is_no_reference() -> None:
    with pytest.raises(BiGainError, match="at least 2"):
        statistics(1)

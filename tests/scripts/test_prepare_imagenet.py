"""ImageNet: archives are unpacked whole or not at all; ADM's moments come out in our order."""

import hashlib
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import imagenet

from bigain.datasets import ImageNet
from bigain.errors import BiGainError
from bigain.features import Features
from bigain.metrics.frechet import Moments
from bigain.preparation import adm
from bigain.preparation import imagenet as preparation
from bigain.store.reference_statistics import ReferenceStatistics
from scripts import prepare_imagenet as script
from tests import tiny_data


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_imagenet.py", *map(str, arguments)])
    script.main()


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, *arguments)
    message = str(caught.value.code)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each class."""
    return tiny_data.imagenet(tmp_path_factory.mktemp("imagenet"), per_class=1)


@pytest.fixture(autouse=True)
def one_image_per_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "PER_CLASS", 1)


@pytest.fixture
def archives(tmp_path: Path, val: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tar of the images and a devkit that pass for the published ones."""
    folder = tmp_path / "archives"
    devkit = folder / "ILSVRC2012_devkit_t12"
    (devkit / "data").mkdir(parents=True)
    images = sorted((val / "val").glob("*/*"), key=lambda path: path.name)
    wnids = sorted({path.parent.name for path in images})
    number = {wnid: 1 + i for i, wnid in enumerate(reversed(wnids))}  # the devkit's own order
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("c", "O")]
    synsets = [(number[wnid], wnid, "a, b", "", 0) for wnid in wnids]
    meta = np.array([*synsets, (1001, "n00000001", "entity", "", 9)], dtype=kinds)
    savemat(devkit / "data" / "meta.mat", {"synsets": meta})
    truth = "".join(f"{number[path.parent.name]}\n" for path in images)
    (devkit / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    published = {}
    for key, paths in (("val", images), ("devkit", [devkit])):
        name = imagenet.ARCHIVE_META[key][0]
        with tarfile.open(folder / name, "w:gz" if key == "devkit" else "w") as tar:
            for path in paths:
                tar.add(path, path.name)
        published[key] = (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
    monkeypatch.setattr(imagenet, "ARCHIVE_META", published)
    return folder


def test_archives_are_unpacked(
    archives: Path,
    val: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "root"
    (root / ".val.part" / "n01440764").mkdir(parents=True)  # as a stopped extraction leaves it
    call(monkeypatch, "--root", root, "--archives", archives)
    expected = ImageNet(str(val), size=8)
    assert ImageNet(str(root), size=8).identity() == expected.identity()
    assert not (root / ".val.part").exists()
    out = capsys.readouterr().out
    for name in ("imagenet1k", "imagenet100"):
        assert f"dataset={name} dataset.root={root}" in out
    call(monkeypatch, "--root", root)


def test_a_missing_archive_is_named(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    message = refused(monkeypatch, "--root", tmp_path / "root", "--archives", archives)
    for part in ("ILSVRC2012_devkit_t12.tar.gz", "image-net.org", "--archives"):
        assert part in message


@pytest.mark.parametrize("name", ["ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_another_archive_is_refused(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with (archives / name).open("ab") as file:
        file.write(b"x")
    message = refused(monkeypatch, "--root", tmp_path / "root", "--archives", archives)
    assert name in message and "cannot be unpacked" in message
    assert not (tmp_path / "root" / "val").exists()


def test_too_few_images_are_refused(val: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "PER_CLASS", 50)
    message = refused(monkeypatch, "--root", val)
    assert "1000 val images instead of 50000" in message and "--archives" in message


def test_unequal_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_data.imagenet(tmp_path, per_class=2)
    path = next((root / "val" / "n01440764").iterdir())
    path.rename(root / "val" / "n01443537" / path.name)
    monkeypatch.setattr(preparation, "PER_CLASS", 2)
    assert "1 to 3 images per class instead of 2" in refused(monkeypatch, "--root", root)


class Net:
    """Pooled features are an image's first pixel, spatial ones seven channels of its corner."""

    name = "inception-legacy_pytorch"

    def __init__(self, *_: object) -> None:
        pass

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def load(self, device: torch.device) -> Self:
        return self

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)

    def __call__(self, batch: torch.Tensor) -> Features:
        corner = batch[:, :1, :2, :2]
        spatial = torch.cat([k * corner + k for k in range(adm.SPATIAL)], 1)  # [B, 7, 2, 2]
        return Features(batch[:, :, 0, 0] / 255, spatial.flatten(1) / 255)


N, SIZE = 12, 4
Parts = dict[str, np.ndarray]


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file like ADM's with its own images' moments; spatial features are [H, W, C]."""

    def write(**changes: np.ndarray | None) -> Path:
        images = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), np.uint8)
        net = Net()
        features = net(torch.stack([net.prepare(image) for image in images]))
        pooled = Moments.of(features.pooled)
        channels_last = features.spatial.reshape(N, adm.SPATIAL, 2, 2).movedim(1, 3).flatten(1)
        spatial = Moments.of(channels_last)
        parts = {
            "arr_0": images,
            "mu": pooled.mean,
            "sigma": pooled.covariance,
            "mu_s": spatial.mean,
            "sigma_s": spatial.covariance,
            **changes,
        }
        np.savez(tmp_path / "VIRTUAL.npz", **{k: v for k, v in parts.items() if v is not None})
        return tmp_path / "VIRTUAL.npz"

    return write


def test_adm_moments_are_of_our_features(
    batch: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(preparation, "Inception", Net)
    call(monkeypatch, "--adm", batch(), "--output", tmp_path / "new", "--device", "cpu")
    out = capsys.readouterr().out
    assert "FID 0.00, sFID 0.00" in out and "protocol=adm" in out and "model=dit_xl2_4" in out
    path = tmp_path / "new" / "adm-imagenet4-inception-legacy_pytorch.npz"
    found = ReferenceStatistics.load(path)
    found.check(Net())
    assert found.n == 1_281_167 and found.data["name"] == "adm-imagenet4"
    assert len(found.features) == N
    ours = Moments.of(found.features)
    np.testing.assert_allclose(found.pooled.covariance, ours.covariance, atol=1e-6)
    assert found.spatial.mean.shape == (adm.SPATIAL * 4,)
    assert found.spatial.mean[:4] == pytest.approx(0), "the first channel is not together"


def test_order_of_real_maps() -> None:
    """Feature (c, h, w) of ours is feature (h, w, c) of ADM's."""
    order = adm.channels_first(7 * 17 * 17)
    assert sorted(order) == list(range(2023))
    assert order[3 * 289 + 5 * 17 + 11] == (5 * 17 + 11) * 7 + 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mu_s": None}, "mu_s"),
        ({"mu": np.zeros(5)}, "mu, sigma"),
        ({"sigma_s": np.eye(5)}, "mu_s, sigma_s"),
        ({"mu": np.full(3, 9.0)}, "far from its own moments"),
        ({"mu": np.full(3, np.nan)}, "far from its own moments"),
        ({"arr_0": np.zeros((N, 4, 4, 3))}, "arr_0 is float64"),
        ({"arr_0": np.zeros((N, 4, 5, 3), np.uint8)}, "of shape (12, 4, 5, 3)"),
    ],
)
def test_another_batch_is_refused(
    batch: Callable[..., Path], changes: dict[str, np.ndarray | None], words: str
) -> None:
    with pytest.raises(BiGainError) as caught:
        adm.convert(batch(**changes), Net(), 5)
    message = str(caught.value)
    assert words in message and "VIRTUAL_imagenet256_labeled.npz" in message
    assert "\n" not in message


def test_a_missing_or_cut_batch_is_refused(
    batch: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "Inception", Net)
    assert "absent.npz" in refused(monkeypatch, "--adm", tmp_path / "absent.npz")
    path = batch()
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in refused(monkeypatch, "--adm", path)

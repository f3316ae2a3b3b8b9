"""The script's file holds the statistics of the images asked for, the same bytes each time."""

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from bigain.datasets import FashionMNIST
from bigain.errors import BiGainError
from bigain.features import FashionFeatures, extract
from bigain.features.fashion import GarmentNet
from bigain.metrics.frechet import Moments
from bigain.preparation import reference_statistics
from bigain.store.reference_statistics import ReferenceStatistics
from bigain.utils.images import pixels, write_png
from bigain.utils.paths import REPOSITORY
from tests import tiny_data

N = 30


@pytest.fixture(scope="module")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train split of a few random images."""
    root = tmp_path_factory.mktemp("garments")
    images = np.random.default_rng(0).integers(0, 256, (N, 28, 28), np.uint8)
    data = {
        "train-images-idx3-ubyte.gz": struct.pack(">4I", 2051, N, 28, 28) + images.tobytes(),
        "train-labels-idx1-ubyte.gz": struct.pack(">2I", 2049, N) + bytes(i % 10 for i in range(N)),
    }
    for name, content in data.items():
        (root / name).write_bytes(gzip.compress(content))
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature network of random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("network")
    model = GarmentNet(stem=4, middle=4, inner=4, features=5, classes=10)
    (folder / "config.json").write_text(json.dumps(model.config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def make(output: Path, *overrides: str) -> Path:
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
        settings = [f"output={output}", "device=cpu", *overrides]
        return reference_statistics.make(compose("make_reference_statistics", settings))


def of_split(garments: Path, network: Path) -> tuple[str, ...]:
    return (f"features.path={network}", f"dataset.root={garments}", "dataset.split=train")


def test_of_a_data_set(garments: Path, network: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "new" / "folder", *of_split(garments, network), "batch_size=7")
    assert path == tmp_path / "new" / "folder" / "fashion_mnist-train-fashion.npz"
    found = ReferenceStatistics.load(path)
    assert (found.name, found.n) == ("fashion_mnist-train-fashion", N)
    dataset = FashionMNIST(str(garments), "train")
    assert found.data == dataset.identity()
    features = FashionFeatures(str(network)).load(torch.device("cpu"))
    found.check(features)
    with gzip.open(garments / "train-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read()[16:], np.uint8).reshape(N, 28, 28)
    expected = extract(features, [image[:, :, None] for image in raw], N, N)
    torch.testing.assert_close(found.features, expected.pooled)
    moments = Moments.of(expected.pooled)
    np.testing.assert_allclose(found.pooled.covariance, moments.covariance, rtol=1e-4, atol=1e-9)
    assert found.spatial is not None


@pytest.mark.parametrize("split", ["test", "trainval"])
def test_the_name_says_the_split_and_the_size_that_the_model_draws(
    tmp_path: Path, split: str
) -> None:
    root = tiny_data.pets(tmp_path)
    overrides = ["dataset=pets", f"dataset.root='{root}'", f"dataset.split={split}"]
    overrides += ["model=sd2", "model.image_size=16"]
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
        cfg = compose("make_reference_statistics", overrides)
    name, data, count, images = reference_statistics._dataset(cfg)
    assert (name, count, data["size"]) == (f"pets-{split}-16", 37, 16)
    assert {image.shape for image in images} == {(16, 16, 3)}
    assert cfg.dataset.reference == name  # so a run looks for the file that is made


def test_same_bytes(garments: Path, network: Path, tmp_path: Path) -> None:
    first, second = (make(tmp_path / d, *of_split(garments, network)) for d in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_of_a_folder(garments: Path, network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    dataset = FashionMNIST(str(garments), "train")
    for i in range(N):
        write_png(folder / f"{i:02d}.png", pixels(dataset[i].image), {})
    ours = ReferenceStatistics.load(
        make(tmp_path, f"features.path={network}", f"folder={folder}", "name=garments")
    )
    split = ReferenceStatistics.load(make(tmp_path, *of_split(garments, network)))
    assert ours.name == "garments-fashion"
    assert torch.equal(ours.features, split.features)
    assert ours.fingerprint != split.fingerprint
    assert str(tmp_path) not in str(ours.data)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["folder=/no/such", "name=x"], "/no/such"),
        (["dataset=pets"], "model=sd2"),
        (["dataset=imagenet1k", "model=sd2", "dataset.subset=2000"], "dataset.subset=2000"),
        (["folder=.", "name=a/b"], "a/b"),
        (["folder=."], "needs a name"),
        (["name=x"], "folder="),
        (["features=none"], "fashion"),
        (["dataset.root=/no/such"], "prepare_fashion_mnist.py"),
        (["features.path=/no/such"], "/no/such"),
        (["device=abacus"], "abacus"),
    ],
)
def test_refusals(overrides: list[str], words: str, tmp_path: Path, network: Path) -> None:
    if not any(o.startswith("features") for o in overrides):
        overrides = [*overrides, f"features.path={network}"]
    with pytest.raises(BiGainError) as caught:
        make(tmp_path, *overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "make_reference_statistics.py")]
    done = subprocess.run(
        [*command, "foldr=x"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "foldr" in done.stderr
    assert not list(tmp_path.iterdir())

"""The shipped features of Fashion-MNIST: what they know, take and refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bigain.datasets import FashionMNIST
from bigain.errors import BiGainError
from bigain.features.fashion import CONFIG, WEIGHTS, FashionFeatures

ASSETS = Path(__file__).parents[2] / "assets"
SHIPPED = ASSETS / "fashion_features"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> FashionFeatures:
    return FashionFeatures(str(SHIPPED)).load(CPU)


@pytest.fixture(scope="module")
def data() -> FashionMNIST:
    return FashionMNIST(str(ASSETS / "fashion_mnist"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the shipped network, to change."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "copy"))


def test_the_shipped_network_is_as_accurate_as_its_record(network, data):
    images, labels = data.tensors()
    found = torch.cat([network(part).logits.argmax(1) for part in images.split(500)])
    accuracy = (found == labels).float().mean().item()
    assert accuracy > 0.91
    recorded = json.loads((SHIPPED / "training.json").read_text())["test_accuracy"]
    assert recorded["n"] == 10000
    assert accuracy == pytest.approx(recorded["value"], abs=5e-4)  # rounding may move a few images


def test_shapes(network, data):
    features = network(data.tensors()[0][:3])
    assert features.pooled.shape == (3, 64) and (features.pooled >= 0).all()
    assert features.spatial.shape == (3, 2 * 8 * 8) and (features.spatial >= 0).all()
    assert features.logits.shape == (3, 10)
    assert all(
        v.dtype == torch.float32 and not v.requires_grad
        for v in (features.pooled, features.spatial, features.logits)
    )


def test_a_batch_changes_nothing_but_rounding(network, data):
    images = data.tensors()[0][:32]
    whole, parts = network(images), [network(part) for part in images.split([1, 5, 26])]
    for name in ("pooled", "spatial", "logits"):
        together = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(together, getattr(whole, name), rtol=1e-4, atol=1e-4)


def test_every_size_and_channel_count_is_prepared_as_the_data_set_does(network, data):
    image = data[7].image
    large = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    for size in (large, large[2:-2, 2:-2]):
        for channels in (1, 3):
            prepared = network.prepare(np.repeat(size, channels, axis=2))
            assert prepared.dtype == torch.float32
            assert torch.equal(prepared, image)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((64, 64, 1), "28x28 or 32x32, got 64x64"),
        ((28, 32, 1), "28x28 or 32x32, got 28x32"),
        ((32, 32, 4), "1 or 3"),
        ((32, 32), "1 or 3"),
    ],
)
def test_other_shapes_are_refused(network, shape, words):
    with pytest.raises(BiGainError, match=words):
        network.prepare(np.zeros(shape, np.uint8))


def test_other_types_are_refused(network):
    with pytest.raises(BiGainError, match="got float32"):
        network.prepare(np.zeros((32, 32, 1), np.float32))


@pytest.mark.parametrize("channel", [1, 2])
def test_colour_is_refused(network, channel):
    image = np.zeros((32, 32, 3), np.uint8)
    image[5, 5, channel] = 1
    with pytest.raises(BiGainError, match="grey"):
        network.prepare(image)


def test_the_identity_is_of_the_content_not_of_the_place(folder):
    before = FashionFeatures(str(SHIPPED)).identity()
    assert FashionFeatures(str(folder)).identity() == before
    assert before["name"] == "fashion"
    weights = load_file(folder / WEIGHTS)
    weights["head.bias"][0] += 1
    save_file(weights, folder / WEIGHTS)
    assert FashionFeatures(str(folder)).identity() != before


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    network = FashionFeatures(str(folder))
    for act in (network.identity, lambda: network.load(CPU)):
        with pytest.raises(BiGainError, match=f"{name} not found"):
            act()


@pytest.mark.parametrize("keep", [0, 10, -100])
def test_truncated_weights_are_refused(folder, keep):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder)


def test_a_damaged_config_is_refused(folder):
    (folder / CONFIG).write_text("{")
    refused(folder)


@pytest.mark.parametrize("change", [{"stem": 25}, {"strange": 1}, {"stem": "24"}, {"stem": -1}])
def test_a_config_of_another_network_is_refused(folder, change):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    refused(folder)


def refused(folder: Path) -> None:
    with pytest.raises(BiGainError, match=str(folder)) as caught:
        FashionFeatures(str(folder)).load(CPU)
    assert "\n" not in str(caught.value)

"""Inception's features are clean-fid's, on files in the two published formats."""

import urllib.request
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cleanfid.features
import cleanfid.inception_pytorch
import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn

from bigain.errors import BiGainError
from bigain.features.inception import Inception

# of torch.jit, which the published file needs, and of clean-fid's call of torchvision
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

NAMES = {
    "clean": "inception-2015-12-05.pt",
    "legacy_pytorch": "pt_inception-2015-12-05-6726825d.pth",
}
CPU = torch.device("cpu")


class Mixed(nn.Module):
    """Two of the four branches, as the published file names them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(8, 10, 1), nn.ReLU())
        self.tower = nn.Conv2d(8, 2038, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.tower(x)], 1)


class Published(nn.Module):
    """The layout of NVIDIA's file, with fewer layers."""

    def __init__(self) -> None:
        super().__init__()
        layers = {
            "conv": nn.Conv2d(3, 8, 11, stride=4),
            "pool0": nn.AdaptiveMaxPool2d(17),
            "mixed_6": Mixed(),
            "pool2": nn.AdaptiveAvgPool2d(1),
        }
        self.layers = nn.Sequential(OrderedDict(layers))
        self.output = nn.Linear(2048, 1008)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        features = self.layers((img - 128) / 128).flatten(1)
        return features if return_features else self.output(features).softmax(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both files, of random weights."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.jit.script(Published()).save(str(folder / NAMES["clean"]))
    module = cleanfid.inception_pytorch
    with pytest.MonkeyPatch.context() as patch:
        states: list[Any] = []
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(nn.Module, "load_state_dict", lambda self, state: states.append(self))
        module.fid_inception_v3()
    for layer in states[0].modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)  # so that features tell images apart
    torch.save(states[0].state_dict(), folder / NAMES["legacy_pytorch"])
    return folder


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 30, channels), np.uint8)


def theirs(mode: str, folder: Path, batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """clean-fid's features of a batch."""
    file = folder / NAMES[mode]
    state = torch.load(file) if mode == "legacy_pytorch" else None
    module = cleanfid.inception_pytorch
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: state)
    local = InceptionV3W(str(folder), download=False) if mode == "clean" else None
    monkeypatch.setattr(cleanfid.features, "InceptionV3W", lambda *_, **__: local)
    model = cleanfid.features.build_feature_extractor(mode, CPU, use_dataparallel=False)
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
def test_equals_clean_fid(mode: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Inception(mode, str(weights)).load(CPU)
    images = [picture(0), picture(1) // 3]
    batch = torch.stack([network.prepare(image) for image in images])
    resize = build_resizer(mode)
    expected = torch.stack([torch.from_numpy(resize(i).transpose(2, 0, 1)) for i in images])
    assert torch.equal(batch, expected)
    found = network(batch)
    features = theirs(mode, weights, batch, monkeypatch)
    torch.testing.assert_close(found.pooled, features, rtol=1e-5, atol=1e-6)
    assert found.pooled.shape == (2, 2048)
    assert found.pooled.std(0).mean() > 0.01 * found.pooled.std()
    assert found.spatial.shape == (2, 7 * 17 * 17)
    assert found.logits.shape == (2, 1008)


def test_maps_and_logits_of_torchscript(weights: Path) -> None:
    network = Inception("clean", str(weights)).load(CPU)
    batch = network.prepare(picture())[None]
    found = network(batch)
    published = torch.jit.load(weights / NAMES["clean"])
    with torch.no_grad():
        x = published.layers.pool0(published.layers.conv((batch - 128) / 128))
        maps = published.layers.mixed_6(x)
        probabilities = published(batch)
    spatial = found.spatial
    assert torch.equal(spatial, maps[:, :7].flatten(1))  # the first branch comes first
    assert spatial.min() == 0  # after the ReLU
    logits = found.logits + published.output.bias
    torch.testing.assert_close(logits.softmax(1), probabilities, rtol=1e-4, atol=1e-7)


def test_maps_and_logits_of_state_dict(weights: Path) -> None:
    """The map is Mixed_6d's, whose output begins with its first branch."""
    network = Inception("legacy_pytorch", str(weights)).load(CPU)
    state = torch.load(weights / NAMES["legacy_pytorch"])
    mixed_6d = network.network.network.blocks[2][6]
    assert torch.equal(mixed_6d.branch1x1.conv.weight, state["Mixed_6d.branch1x1.conv.weight"])
    maps: list[Tensor] = []
    mixed_6d.register_forward_hook(lambda *a: maps.append(a[2]))
    found = network(network.prepare(picture())[None])
    assert maps[0].shape[1:] == (768, 17, 17)
    assert torch.equal(found.spatial, maps[0][:, :7].flatten(1))
    torch.testing.assert_close(found.logits, found.pooled @ state["fc.weight"].T)


@pytest.mark.parametrize("mode", list(NAMES))
def test_all_of_it_moves_at_once(mode: str, weights: Path) -> None:
    """As to a device; TorchScript modules do not move to the meta device."""
    network = Inception(mode, str(weights)).load(CPU).network.double()
    tensors = [*network.parameters(), *network.buffers()]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float64}
    assert any(t is network.head for t in tensors)


def test_grey_is_three_equal_channels(weights: Path) -> None:
    network = Inception("clean", str(weights))
    grey = picture(channels=1)
    assert torch.equal(network.prepare(grey), network.prepare(grey.repeat(3, 2)))


def test_identity(weights: Path) -> None:
    clean, legacy = (Inception(mode, str(weights)).identity() for mode in NAMES)
    assert clean["name"] == "inception-clean"
    assert len(clean["weights"]) == 64
    assert clean["weights"] != legacy["weights"]
    file = Inception("clean", str(weights / NAMES["clean"]))
    assert file.identity() == clean


def refusal(network: Inception) -> str:
    with pytest.raises(BiGainError) as caught:
        network.load(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", list(NAMES))
def test_no_weights(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = refusal(Inception(mode, str(tmp_path)))
    assert NAMES[mode] in given
    assert "features.path" in given

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    message = refusal(Inception(mode))
    assert "https://" in message
    assert "no network" in message
    assert "features.path" in message
    assert not [p for p in (tmp_path / "hub").rglob("*") if p.is_file()]


@pytest.mark.parametrize("mode", list(NAMES))
def test_other_files(mode: str, tmp_path: Path) -> None:
    file = tmp_path / NAMES[mode]
    file.write_bytes(b"no weights")
    assert str(file) in refusal(Inception(mode, str(tmp_path)))
    if mode == "clean":
        torch.jit.script(nn.Sequential(nn.Flatten())).save(str(file))
    else:
        torch.save({"fc.weight": torch.zeros(2, 2)}, file)
    assert str(file) in refusal(Inception(mode, str(tmp_path)))


def test_unknown_mode() -> None:
    with pytest.raises(BiGainError, match="clean, legacy_pytorch"):
        Inception("legacy_tensorflow")

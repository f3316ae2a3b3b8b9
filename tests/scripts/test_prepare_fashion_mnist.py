"""Fashion-MNIST is taken as published, and what is missing is named with where to put it."""

import gzip
import hashlib
import struct
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torchvision.datasets

from scripts import prepare_fashion_mnist as script


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root whose four gzip files, two images per split, pass for the published ones."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = struct.pack(">4I", 2051, 2, 28, 28) + bytes(2 * 28 * 28)
    labels = struct.pack(">2I", 2049, 2) + bytes([3, 7])
    published = []
    for name, _ in torchvision.datasets.FashionMNIST.resources:
        data = gzip.compress(images if "images" in name else labels)
        (raw / name).write_bytes(data)
        published.append((name, hashlib.md5(data).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", published)
    monkeypatch.setattr(script, "SIZES", {"train": 2, "test": 2})
    return tmp_path


def call(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_fashion_mnist.py", "--root", str(root)])
    script.main()


def test_offline_says_in_one_line_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        call(tmp_path, monkeypatch)
    message = str(caught.value.code)
    assert "\n" not in message
    assert capsys.readouterr().out == ""
    for part in ("train-labels-idx1-ubyte.gz", script.SOURCE, str(tmp_path / "FashionMNIST/raw")):
        assert part in message


def test_files_put_there_by_hand_are_accepted(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(by_hand, monkeypatch)
    assert f"dataset.root={by_hand}" in capsys.readouterr().out


def test_a_changed_file_is_refused(by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(by_hand, monkeypatch)  # unpacks, after which torchvision no longer looks at the archives
    changed = by_hand / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    changed.write_bytes(b"")
    with pytest.raises(SystemExit, match="not the published file"):
        call(by_hand, monkeypatch)


def test_a_wrong_count_is_refused(by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "SIZES", {"train": 2, "test": 3})
    with pytest.raises(SystemExit, match="2 test images instead of 3"):
        call(by_hand, monkeypatch)

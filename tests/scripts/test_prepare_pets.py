"""Pets: one line when offline, and what is missing or damaged is named."""

import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from scripts import prepare_pets as script
from tests import tiny_data


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(script, "SIZES", {"test": 37, "trainval": 37})


def call(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_pets.py", "--root", str(root)])
    script.main()


def refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(SystemExit) as caught:
        call(root, monkeypatch)
    message = str(caught.value.code)
    assert "\n" not in message
    return message


def test_what_is_there_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(tiny_data.pets(tmp_path), monkeypatch)
    assert f"model=sd2 dataset=pets dataset.root={tmp_path}" in capsys.readouterr().out


def test_offline_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(tmp_path, monkeypatch)
    for part in ("images.tar.gz", "annotations.tar.gz", str(tmp_path / "oxford-iiit-pet")):
        assert part in message


def test_a_damaged_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny_data.pets(tmp_path) / "oxford-iiit-pet" / "images"
    damaged = images / "beagle_201.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    message = refused(tmp_path, monkeypatch)
    assert "1 of 37" in message and "beagle_201.jpg" in message
    assert f"remove {images}" in message


def test_a_missing_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny_data.pets(tmp_path) / "oxford-iiit-pet" / "images"
    (images / "beagle_101.jpg").unlink()
    message = refused(tmp_path, monkeypatch)
    assert "beagle_101.jpg" in message and f"remove {images}" in message
    assert "prepare_pets.py" not in message, "it tells to run itself once more"


def test_a_wrong_count_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "SIZES", {"test": 3669})
    message = refused(tiny_data.pets(tmp_path), monkeypatch)
    assert "37 test images instead of 3669" in message

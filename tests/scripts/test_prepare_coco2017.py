"""COCO 2017: archives are checked, unpacked and removed; what is missing or damaged is named."""

import hashlib
import shutil
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from scripts import prepare_coco2017 as script
from tests import tiny_data

N = 6


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(script, "IMAGES", N)
    monkeypatch.setattr(script, "LABELLED", N - 1)


def call(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_coco2017.py", "--root", str(root)])
    script.main()


def refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(SystemExit) as caught:
        call(root, monkeypatch)
    message = str(caught.value.code)
    assert "\n" not in message
    return message


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with two archives that pass for the published ones."""
    whole = tiny_data.coco2017(tmp_path / "whole", N)
    root = tmp_path / "root"
    published = {}
    for folder, (url, _) in script.ARCHIVES.items():
        archive = root / url.rpartition("/")[2]
        shutil.make_archive(str(archive.with_suffix("")), "zip", whole, folder)
        published[folder] = (url, hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(script, "ARCHIVES", published)
    return root


def test_archives_are_unpacked_and_removed(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # as an extraction that was stopped leaves it
    (by_hand / "val2017").mkdir()
    call(by_hand, monkeypatch)
    assert sorted(p.name for p in by_hand.iterdir()) == ["annotations", "val2017"]
    assert f"model=sd2 dataset=coco2017 dataset.root={by_hand}" in capsys.readouterr().out
    call(by_hand, monkeypatch)


def test_offline_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(tmp_path, monkeypatch)
    for part in ("val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", str(tmp_path)):
        assert part in message


def test_another_archive_is_refused(by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (by_hand / "val2017.zip").write_bytes(b"PK")
    assert "val2017.zip" in refused(by_hand, monkeypatch)
    assert not (by_hand / "val2017").exists()


def test_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_data.coco2017(tmp_path, N)
    (tmp_path / "val2017" / "000000000139.jpg").write_bytes(b"")
    message = refused(tmp_path, monkeypatch)
    assert "1 of 6" in message and "000000000139.jpg" in message and "remove" in message


@pytest.mark.parametrize(
    ("key", "words"),
    [("IMAGES", "6 val images instead of 5000"), ("LABELLED", "in 5 images instead of 5000")],
)
def test_wrong_counts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    monkeypatch.setattr(script, key, 5000)
    assert words in refused(tiny_data.coco2017(tmp_path, N), monkeypatch)

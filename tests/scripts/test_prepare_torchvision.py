"""A data set of torchvision: checked, downloaded only if it is not there, one line when offline."""

import sys
from pathlib import Path
from urllib.error import URLError

import pytest

from bigain.datasets import Food101
from scripts import prepare_torchvision as script
from tests import tiny_data

SIZES = {"food101": {"test": 101, "train": 101}, "cifar10": {"test": 10, "train": 50}}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(
        script, "SETS", {name: (*script.SETS[name][:2], sizes) for name, sizes in SIZES.items()}
    )


def call(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_torchvision.py", name, "--root", str(root)])
    script.main()


def refused(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(SystemExit) as caught:
        call(name, root, monkeypatch)
    message = str(caught.value.code)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", SIZES)
def test_what_is_there_is_checked_and_not_fetched(tmp_path, monkeypatch, capsys, name):
    root = tiny_data.TORCHVISION[name](tmp_path)
    tiny_data.take_as_published(monkeypatch, name, root)
    call(name, root, monkeypatch)
    out = capsys.readouterr().out
    assert f"model=sd2 dataset={name} dataset.root={tmp_path}" in out
    assert f"{SIZES[name]['test']} test and {SIZES[name]['train']} train images are in" in out


@pytest.mark.parametrize("name", SIZES)
def test_offline_says_what_to_put_where(tmp_path, monkeypatch, name):
    message = refused(name, tmp_path, monkeypatch)
    assert "download failed" in message and "no network" in message
    assert f"torchvision.datasets.{script.SETS[name][1]}.html names into {tmp_path}" in message


def test_a_damaged_image_is_named(tmp_path, monkeypatch):
    data = Food101(str(tiny_data.food101(tmp_path)), "train", size=1)
    path = data.folder / data.files[0].path
    path.write_bytes(path.read_bytes()[:200])
    message = refused("food101", tmp_path, monkeypatch)
    assert "1 of 101" in message and data.files[0].path in message
    assert f"remove {data.folder}, run this again" in message


def test_a_wrong_count_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(script.SETS, "food101", ("Food101", "Food101", {"test": 25250}))
    message = refused("food101", tiny_data.food101(tmp_path), monkeypatch)
    assert "holds 101 test images instead of 25250" in message


def test_every_config_has_its_line():
    configs = Path(script.__file__).parents[1] / "configs" / "dataset"
    named = {p.stem for p in configs.glob("*.yaml") if "prepare_torchvision.py" in p.read_text()}
    assert named == set(tiny_data.TORCHVISION)

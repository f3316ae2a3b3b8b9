"""Tensors are kept between processes, and whatever happens to their files does no harm."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bigain.utils import tensor_cache
from bigain.utils.tensor_cache import read, write

ONE = torch.randn(3, 5)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensors"


def kept(key="one", shape=(3, 5)):
    found = read(key, shape)
    return found is not None and torch.equal(found, ONE)


def test_what_is_written_is_read_to_the_bit():
    assert not kept()
    write({"one": ONE, "ünïcode \\": ONE.T.contiguous().T})
    assert kept() and kept("ünïcode \\") and not kept("two") and not kept(shape=(5, 5))


def test_off_keeps_nothing(folder, monkeypatch):
    write({"one": ONE})
    monkeypatch.setenv("BIGAIN_CACHE", "off")
    assert not kept()
    write({"two": ONE})
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("cut", [0, 5, 32, 33, -1])
def test_a_file_cut_anywhere_is_written_again(folder, cut):
    write({"one": ONE})
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    assert not kept()
    write({"one": ONE})
    assert kept()


def test_every_flipped_bit_is_noticed(folder):
    write({"one": ONE})
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert not kept()


def test_the_file_of_another_key_is_noticed(folder):
    write({"one": ONE})
    (path,) = folder.iterdir()
    write({"two": -ONE})
    (other,) = set(folder.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    assert read("one", (3, 5)) is None


@pytest.mark.parametrize("where", ["cache", "cache/tensors"])
def test_without_a_folder_to_write_to(tmp_path, where):
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("a file in its place")
    write({"one": ONE})
    assert not kept()


def test_a_full_disk_leaves_nothing_behind(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    write({"one": ONE})
    assert not list(folder.iterdir()) and not kept()


def test_the_oldest_are_removed(folder, monkeypatch):
    monkeypatch.setattr(tensor_cache, "MOST", 3 * (32 + ONE.nbytes))
    for age, key in enumerate(["old", "one", "two"]):
        write({key: ONE})
        new = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(new, (age, age))
    assert kept("old")
    write({"three": ONE})
    assert [kept(key) for key in ("old", "one", "two", "three")] == [False, True, True, True]


def test_writers_and_readers_at_the_same_time(monkeypatch):
    monkeypatch.setattr(tensor_cache, "MOST", 2 * (32 + ONE.nbytes))
    keys = [str(i % 4) for i in range(200)]

    def use(key):
        write({key: ONE})
        found = read(key, (3, 5))
        return found is None or torch.equal(found, ONE)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, keys))

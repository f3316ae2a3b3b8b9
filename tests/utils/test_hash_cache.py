"""Hashes of files are kept between processes, and computed again whenever a file has changed."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from bigain.utils import hash_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "SETTLED", -(10**12))  # every file counts as settled
    another_process(monkeypatch)
    return tmp_path / "cache" / "hashes.jsonl"


def another_process(monkeypatch):
    monkeypatch.setattr(hash_cache, "_known", {})
    monkeypatch.setattr(hash_cache, "_read", set())


def written(path: Path, text: str = "weights") -> Path:
    path.write_text(text)
    return path


def right(path: Path) -> bool:
    return hash_cache.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_process_reads_the_hash(tmp_path, cache, monkeypatch):
    path = written(tmp_path / "file")
    assert right(path)
    forged = json.dumps([*json.loads(cache.read_text())[:-1], "0" * 64])
    cache.write_text(forged)
    another_process(monkeypatch)
    assert hash_cache.sha256(path) == "0" * 64  # not read again
    monkeypatch.setenv("BIGAIN_CACHE", "off")
    another_process(monkeypatch)
    assert right(path)


def test_changes_are_noticed_even_at_equal_size_and_time(tmp_path):
    one, two = written(tmp_path / "one", "cat"), written(tmp_path / "two", "dog")
    for path in (one, two):
        os.utime(path, ns=(10**18, 10**18))
        assert right(path)
    one.rename(tmp_path / "other")
    two.rename(one)
    (tmp_path / "other").rename(two)
    assert right(one) and right(two)
    written(one, "cow")
    os.utime(one, ns=(10**18, 10**18))
    assert right(one)


@pytest.mark.parametrize("damage", [b"", b"\xff{", b"[1]\n{}\n3\n", b'[["a"], "'])
def test_a_damaged_cache_is_skipped_and_still_added_to(damage, tmp_path, cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_bytes(damage)
    path = written(tmp_path / "file")
    assert right(path)
    another_process(monkeypatch)
    hash_cache._kept()
    assert len(hash_cache._known) == 1


def test_without_a_folder_to_write_to(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGAIN_CACHE", str(written(tmp_path / "no folder") / "cache"))
    assert right(written(tmp_path / "file"))


def test_a_file_that_has_just_changed_is_not_kept(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(hash_cache, "SETTLED", 10**12)
    assert right(written(tmp_path / "file"))
    assert not cache.exists()


def test_the_names_of_the_hubs_blobs_are_hashes_already(tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for name, expected in (("ab" * 32, "ab" * 32), ("ab" * 20, hashlib.sha256(b"x").hexdigest())):
        (blobs / name).write_bytes(b"x")
        link = tmp_path / f"link{len(name)}"
        link.symlink_to(blobs / name)
        assert hash_cache.sha256(link) == expected

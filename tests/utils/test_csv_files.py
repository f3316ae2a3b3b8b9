"""CSV files that are damaged or hostile: one error that names the file, and no harm."""

import os
from pathlib import Path

import pytest

from bigain.datasets.prompts import PUBLISHED, read_prompts
from bigain.errors import BiGainError

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "blank lines": b"\n\n\n",
    "NUL": b"class_name,prompt\napple,a\0b\n",
    "control characters": b"class_name,prompt\napple,\x1b[31mred\n",
    "not UTF-8": "class_name,prompt\n\xe9,a\n".encode("latin-1"),
    "UTF-16": "class_name,prompt\napple,a\n".encode("utf-16"),
    "an open quote": b'class_name,prompt\napple,"a\n',
    "a quote inside": b'class_name,prompt\napple,"a"b\n',
    "a field of a megabyte": b"class_name,prompt\napple," + b"x" * 2**20,
    "many columns": b"c," * 50_000 + b"\n",
    "many columns in a row": b"class_name,prompt\n" + b"c," * 50_000 + b"\n",
    "a pickle": b"\x80\x04\x95\x10\x00.",
    "17 MB": b"class_name,prompt\n" + b"apple,a\n" * 2_200_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "prompts.csv"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(BiGainError, match=r"prompts\.csv") as refused:
        read_prompts(path)
    assert len(str(refused.value)) < 600 and str(refused.value).isprintable()


def test_what_is_no_file_is_refused_by_name(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zeros.csv").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "zeros.csv", "pipe.csv", "absent.csv", "nul\0.csv"):
        with pytest.raises(BiGainError, match="cannot be read"):
            read_prompts(Path(tmp_path, name))


def test_any_part_of_a_file_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / "prompts.csv"
    text = (PUBLISHED / "pets.csv").read_bytes()
    refused = 0
    for end in range(0, len(text), 3):
        path.write_bytes(text[:end])
        try:
            read_prompts(path)
        except BiGainError as error:
            refused += 1
            assert "prompts.csv" in str(error)
    assert refused > 100

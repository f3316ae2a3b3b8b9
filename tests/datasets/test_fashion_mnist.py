"""Fashion-MNIST against torchvision's reading of the shipped files, and damaged files."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST as TorchvisionFashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from bigain.datasets import FashionMNIST
from bigain.datasets.base import select
from bigain.errors import BiGainError

SHIPPED = Path(__file__).parents[2] / "assets" / "fashion_mnist"
IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(magic: int, array: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def files() -> dict[str, bytes]:
    """A valid data set of three images, unpacked, by file name."""
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28))
    return {IMAGES: idx(2051, images), LABELS: idx(2049, np.array([9, 0, 4]))}


def write(folder: Path, files: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


def test_reads_what_torchvision_reads(tmp_path: Path) -> None:
    for name in (IMAGES, LABELS):
        (tmp_path / name).write_bytes(gzip.decompress((SHIPPED / f"{name}.gz").read_bytes()))
    expected = read_image_file(str(tmp_path / IMAGES))
    images, labels = FashionMNIST(str(SHIPPED)).tensors()
    assert torch.equal(((images + 1) * 127.5).round().byte()[:, 0, 2:-2, 2:-2], expected)
    assert torch.equal(labels, read_label_file(str(tmp_path / LABELS)))
    assert labels.bincount().tolist() == [1000] * 10


def test_classes_are_torchvisions_and_each_has_a_prompt() -> None:
    assert FashionMNIST.classes == TorchvisionFashionMNIST.classes
    assert len(set(FashionMNIST.prompts)) == len(FashionMNIST.classes)


def test_an_example_is_the_padded_image(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = FashionMNIST(str(write(tmp_path, files)))
    example = data[2]
    assert (example.id, example.labels) == ("test-00002", (4,))
    assert data.labels(2) == (4,)
    assert data.prompt(2) == "a photo of a coat."
    assert example.image.shape == (1, 32, 32)
    assert example.image.dtype == torch.float32
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert (example.image[0][border] == -1).all()
    pixels = np.frombuffer(files[IMAGES], np.uint8, offset=16).reshape(3, 28, 28)
    inside = torch.tensor(pixels[2] / 127.5 - 1, dtype=torch.float32)
    torch.testing.assert_close(example.image[0, 2:-2, 2:-2], inside)
    assert torch.equal(data.tensors()[0][2], example.image)


def test_ids_are_in_order_and_iteration_ends(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = FashionMNIST(str(write(tmp_path, files)))
    assert data.ids() == ["test-00000", "test-00001", "test-00002"]
    assert [data[i].id for i in range(len(data))] == data.ids()
    for index in (3, -1):
        with pytest.raises(IndexError):
            data[index]


def test_the_layout_does_not_change_the_identity(tmp_path: Path, files: dict[str, bytes]) -> None:
    layouts = [
        write(tmp_path / "packed", files),
        write(tmp_path / "unpacked", files, packed=False),
        write(tmp_path / "torchvision/FashionMNIST/raw", files).parents[1],
    ]
    first, *others = (FashionMNIST(str(root)).identity() for root in layouts)
    assert others == [first, first]
    assert str(tmp_path) not in str(first)


def test_other_data_or_split_has_another_identity(tmp_path: Path, files: dict[str, bytes]) -> None:
    write(tmp_path, files)
    write(tmp_path, {n.replace("t10k", "train"): data for n, data in files.items()})
    test, train = (FashionMNIST(str(tmp_path), split=s).identity() for s in ("test", "train"))
    assert test != train
    write(tmp_path, {LABELS: idx(2049, np.array([9, 0, 5]))})
    assert FashionMNIST(str(tmp_path)).identity() != test


def test_missing_file_names_the_path_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match=r"prepare_fashion_mnist\.py") as caught:
        FashionMNIST(str(tmp_path), split="train")
    assert "train-images-idx3-ubyte" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match="'val'"):
        FashionMNIST(str(tmp_path), split="val")


@pytest.mark.parametrize("keep", [0, 5, -100], ids=["empty", "header", "body"])
def test_truncated_gzip(tmp_path: Path, files: dict[str, bytes], keep: int) -> None:
    path = write(tmp_path, files) / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BiGainError, match=IMAGES):
        FashionMNIST(str(tmp_path))


def test_damaged_gzip(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = write(tmp_path, files) / f"{LABELS}.gz"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # the checksum
    path.write_bytes(data)
    with pytest.raises(BiGainError, match=LABELS):
        FashionMNIST(str(tmp_path))


@pytest.mark.parametrize("size", [0, 3, 15, 100])
def test_truncated_unpacked_file(tmp_path: Path, files: dict[str, bytes], size: int) -> None:
    write(tmp_path, {**files, IMAGES: files[IMAGES][:size]}, packed=False)
    with pytest.raises(BiGainError, match=IMAGES):
        FashionMNIST(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (IMAGES, idx(2049, np.zeros((3, 28, 28)))),
        (LABELS, idx(2051, np.zeros(3))),
        (IMAGES, idx(2051, np.zeros((3, 27, 28)))),
        (IMAGES, idx(2051, np.zeros((3, 28, 28))) + b"\0"),
        (LABELS, idx(2049, np.zeros(4))),
        (LABELS, idx(2049, np.array([0, 10, 3]))),
    ],
    ids=["images magic", "labels magic", "image size", "trailing bytes", "count", "label"],
)
def test_bad_file_is_named(tmp_path: Path, files: dict[str, bytes], name: str, data: bytes) -> None:
    with pytest.raises(BiGainError, match=name):
        FashionMNIST(str(write(tmp_path, {**files, name: data})))


def test_select_keeps_the_first() -> None:
    ids = ["a", "b", "c"]
    assert select(ids, None) == ids
    assert select(ids, 2) == ["a", "b"]
    assert select(ids, 3) == ids


@pytest.mark.parametrize("limit", [-1, 0, 4])
def test_select_names_the_size(limit: int) -> None:
    with pytest.raises(BiGainError, match=rf"1\.\.3.*got {limit}"):
        select(["a", "b", "c"], limit)

"""Preprocessing against its definition, and the order and identity of image files."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bigain.datasets import Folder
from bigain.datasets.image_files import ImageFile, ImageFiles, decode, preprocessing
from bigain.errors import BiGainError
from tests.tiny_data import draw, folder


def by_hand(path: Path, size: int) -> Tensor:
    """The preprocessing written out in PIL and numpy."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    if width <= height:
        new = size, int(size * height / width)
    else:
        new = int(size * width / height), size
    if new != image.size:
        image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)  # half goes to even
    image = image.crop((left, top, left + size, top + size))
    array = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
    return torch.from_numpy((array - np.float32(0.5)) / np.float32(0.5))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize(
    ("width", "height"),
    [(16, 16), (17, 16), (19, 16), (16, 21), (40, 33), (101, 67), (7, 5), (5, 64), (1, 3)],
)
def test_an_image_is_prepared_as_published(
    tmp_path: Path, mode: str, width: int, height: int
) -> None:
    path = tmp_path / ("x.tif" if mode in ("CMYK", "LA") else "x.png")
    draw(path, width, height, mode)
    assert Image.open(path).mode == mode
    image = preprocessing(16)(decode(path))
    assert image.dtype == torch.float32
    assert image.shape == (3, 16, 16)
    assert torch.equal(image, by_hand(path, 16))


def test_orientation_tags_are_ignored(tmp_path: Path) -> None:
    draw(tmp_path / "x.png", 20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.open(tmp_path / "x.png").save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "turned.png"), decode(tmp_path / "x.png"))


@pytest.mark.parametrize("keep", [0, 20, 300])
def test_a_damaged_image_is_named(tmp_path: Path, keep: int) -> None:
    data = Folder(str(folder(tmp_path)), size=8)
    path = tmp_path / "apple" / "b.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BiGainError, match=r"b\.jpg cannot be decoded .* copy it again"):
        data[data.ids().index("apple/b.jpg")]


def test_more_than_8_bits_are_refused_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(BiGainError, match="more than 8 bits"):
        decode(tmp_path / "x.png")


def many(root: Path, count: int = 100, **changes: object) -> ImageFiles:
    files = [ImageFile(f"test-{i}", f"{i}.png", (i // (count // 2),)) for i in range(count)]
    arguments = {"files": files, "classes": ["a", "b"], "prompts": ["an a", "a b"], **changes}
    return ImageFiles("many", "test", 8, root, **arguments)


def test_the_order_mixes_the_classes_and_does_not_hang_on_the_listing(tmp_path: Path) -> None:
    data = many(tmp_path)
    assert data.ids() == sorted(
        (f"test-{i}" for i in range(100)), key=lambda i: hashlib.sha256(i.encode()).hexdigest()
    )
    assert many(tmp_path, files=data.files[::-1]).ids() == data.ids()
    assert 5 <= sum(data.labels(i)[0] for i in range(20)) <= 15


def test_examples_labels_and_prompts_agree(tmp_path: Path) -> None:
    data = Folder(str(folder(tmp_path)), size=8)
    for index, id in enumerate(data.ids()):
        example = data[index]
        assert example.id == id
        assert example.labels == data.labels(index)
        assert data.prompt(index) == data.prompts[example.labels[0]]
        assert torch.equal(example.image, by_hand(tmp_path / id, 8))
    assert len(data) == index + 1
    with pytest.raises(IndexError):
        data[len(data)]


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    data = Folder(str(folder(tmp_path)), size=64)
    order = list(range(len(data))) * 20
    with ThreadPoolExecutor(8) as pool:
        for index, example in zip(order, pool.map(data.__getitem__, order), strict=True):
            assert torch.equal(example.image, data[index].image)


def test_the_identity_holds_what_changes_a_result_and_no_path(tmp_path: Path) -> None:
    def identity(root: Path = tmp_path / "one", **changes: object) -> dict[str, object]:
        return many(root, 2, **changes).identity()

    for root in (tmp_path / "one", tmp_path / "two"):
        for i in range(2):
            draw(root / f"{i}.png")
    first = identity()
    assert first == identity(tmp_path / "two")
    assert {k: first[k] for k in ("name", "split", "size")} == {
        "name": "many",
        "split": "test",
        "size": 8,
    }
    assert str(tmp_path) not in str(first)
    files = many(tmp_path / "one", 2).files
    assert identity(prompts=["an a", "the b"]) != first
    assert identity(files=files[:1]) != first
    assert identity(files=[ImageFile(f.id, f.path, (0,)) for f in files]) != first
    assert identity(files=[ImageFile(f.id, f.path, f.labels, "a caption") for f in files]) != first
    draw(tmp_path / "one" / "1.png", 13)
    assert identity() != first


@pytest.mark.parametrize("size", [0, -8, 8.0, "8", None])
def test_a_bad_size_is_refused(tmp_path: Path, size: object) -> None:
    with pytest.raises(BiGainError, match=r"dataset\.size"):
        Folder(str(folder(tmp_path)), size=size)


def test_an_id_is_unique(tmp_path: Path) -> None:
    files = [ImageFile("a", "a.png", (0,)), ImageFile("a", "a.jpg", (1,))]
    with pytest.raises(BiGainError, match=r"a\.png and a\.jpg .* both the image a"):
        many(tmp_path, files=files)


def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match="holds no image of many's split test"):
        many(tmp_path, files=[])


def test_images_swapped_at_equal_size_are_another_data_set(tmp_path):
    """Sizes, times and names stay as they were."""
    for name, colour in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (colour,) * 3).save(tmp_path / name / "0.bmp")
    before = Folder(str(tmp_path), size=8).identity()
    assert Folder(str(tmp_path), size=8).identity() == before
    one, two = tmp_path / "a" / "0.bmp", tmp_path / "b" / "0.bmp"
    contents = one.read_bytes(), two.read_bytes()
    assert len(contents[0]) == len(contents[1])
    for path, content in zip((two, one), contents, strict=True):
        stat = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Folder(str(tmp_path), size=8).identity() != before

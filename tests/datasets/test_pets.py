"""Oxford-IIIT Pet against torchvision's reading of a small copy."""

from pathlib import Path

import pytest
from torchvision.datasets import OxfordIIITPet

from bigain.datasets import Pets
from bigain.errors import BiGainError
from tests.tiny_data import pets, rows


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pets(tmp_path_factory.mktemp("pets"), per_class=2)


@pytest.mark.parametrize("split", ["test", "trainval"])
def test_reads_what_torchvision_reads(root: Path, split: str) -> None:
    theirs = OxfordIIITPet(root, split=split)
    ours = Pets(str(root), split, size=8)
    assert len(ours) == len(theirs) == 74
    expected = {
        f"{split}-{path.stem}": (label,)
        for path, label in zip(theirs._images, theirs._labels, strict=True)
    }
    assert {id: ours.labels(i) for i, id in enumerate(ours.ids())} == expected
    assert [name.title() for name in ours.classes] == list(theirs.class_to_idx)
    assert list(theirs.class_to_idx.values()) == list(range(37))


def test_classes_and_prompts_are_the_published_ones(root: Path) -> None:
    data = Pets(str(root), size=8)
    assert data.prompts[0] == "a photo of a Abyssinian cat, a type of pet."
    assert data.prompts[36] == "a photo of a Yorkshire Terrier dog, a type of pet."
    assert len(set(data.prompts)) == len(set(data.classes)) == 37
    assert data.class_ids is None
    assert data.listing() is None
    index = data.ids().index("test-Abyssinian_201")
    assert data[index].labels == (0,)
    assert data.prompt(index) == data.prompts[0]
    assert [int(row["class_index"]) for row in rows("pets")] == list(range(37))


def test_the_splits_differ(root: Path) -> None:
    test, trainval = (Pets(str(root), split, size=8) for split in ("test", "trainval"))
    assert not set(test.ids()) & set(trainval.ids())
    assert test.identity()["sha256"] != trainval.identity()["sha256"]


def test_the_folder_itself_will_do(root: Path) -> None:
    inner = Pets(str(root / "oxford-iiit-pet"), size=8)
    assert inner.identity() == Pets(str(root), size=8).identity()


def test_missing_data_names_the_place_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match=r"test\.txt .*prepare_pets\.py") as caught:
        Pets(str(tmp_path), size=8)
    assert str(tmp_path / "oxford-iiit-pet") in str(caught.value)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    (pets(tmp_path) / "oxford-iiit-pet" / "images" / "pug_201.jpg").unlink()
    with pytest.raises(BiGainError, match=r"1 of 37 .*pug_201\.jpg.*prepare_pets\.py"):
        Pets(str(tmp_path), size=8)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "pug_201",
        "pug_201 1 2 1",
        "poodle_1 3 2 1",
        "pug 26 2 1",
        "pug_201 26",
        "pug_201 26 2 1 0",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    annotations = pets(tmp_path) / "oxford-iiit-pet" / "annotations" / "test.txt"
    annotations.write_text(f"Abyssinian_201 1 1 1\n{line}\n")
    with pytest.raises(BiGainError, match=r"test\.txt, line 2"):
        Pets(str(tmp_path), size=8)


def test_unknown_split(root: Path) -> None:
    with pytest.raises(BiGainError, match="test, trainval; got 'val'"):
        Pets(str(root), "val", size=8)

"""ImageNet on a small copy of its layout: classes, subsets and mirrors."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import pytest

from bigain.datasets import ImageNet
from bigain.errors import BiGainError
from tests.tiny_data import draw, imagenet, rows

WNIDS = [row["wnid"] for row in rows("imagenet100")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 1,000 classes, three images each."""
    return imagenet(tmp_path_factory.mktemp("imagenet"), per_class=3)


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    return imagenet(tmp_path, per_class=2, classes=WNIDS)


def test_class_lists_are_the_published_ones() -> None:
    whole, part = rows("imagenet1k"), rows("imagenet100")
    assert [int(row["class_index"]) for row in whole] == list(range(1000))
    wnids = [row["wnid"] for row in whole]
    assert wnids == sorted(set(wnids))  # which is ImageNet's own order
    assert all(whole[int(row["class_index"])] == row for row in part)
    assert len({row["class_index"] for row in part}) == 100


def test_repeated_prompts_are_the_two_known_pairs() -> None:
    prompts: dict[str, list[int]] = {}
    for index, row in enumerate(rows("imagenet1k")):
        prompts.setdefault(row["prompt"], []).append(index)
    repeated = sorted(found for found in prompts.values() if len(found) > 1)
    assert repeated == [[657, 744], [836, 837]]


def test_labels_are_the_folders_places(root: Path) -> None:
    data = ImageNet(str(root), size=8)
    assert len(data) == 3000
    assert data.class_ids == list(range(1000)) and data.known_classes == 1000
    wnids = [row["wnid"] for row in rows("imagenet1k")]
    for index, file in enumerate(data.files):
        assert data.labels(index) == (wnids.index(file.path.split("/")[0]),)
    assert len({data.labels(i) for i in range(100)}) > 80  # the first are of many classes
    index = data.ids().index("val-ILSVRC2012_val_00000001")
    assert data[index].labels == (0,)
    assert data.prompt(index) == "a photo of a tench."
    assert data.listing() is None
    assert data.identity()["split"] == "val"


def test_a_subset_is_balanced_and_drawn_by_the_documented_rule(root: Path) -> None:
    data = ImageNet(str(root), size=8, subset=2000)
    assert set(Counter(data.labels(i)[0] for i in range(2000)).values()) == {2}
    files = sorted((root / "val" / "n01440764").iterdir())
    files.sort(key=lambda path: hashlib.sha256(f"0/{path.stem}".encode()).hexdigest())
    listing = data.listing()
    assert listing is not None
    chosen = {name for name in listing if name.startswith("n01440764/")}
    assert chosen == {f"n01440764/{path.name}" for path in files[:2]}
    assert [f"val-{Path(name).stem}" for name in listing] == data.ids()


def test_a_seed_draws_a_subset(root: Path) -> None:
    first, again = (ImageNet(str(root), size=8, subset=1000) for _ in range(2))
    other = ImageNet(str(root), size=8, subset=1000, subset_seed=1)
    assert first.identity() == again.identity()
    assert set(first.ids()) != set(other.ids())
    assert first.identity()["split"] == "val-1000"
    assert "subset_seed" not in first.identity()  # its default
    assert first.identity() != other.identity()


@pytest.mark.parametrize("subset", [0, -1000, 100, 1500])
def test_an_uneven_subset_is_refused(root: Path, subset: int) -> None:
    with pytest.raises(BiGainError, match=f"multiple of 1000.*got {subset}"):
        ImageNet(str(root), size=8, subset=subset)


def test_a_subset_larger_than_a_class_is_refused(root: Path) -> None:
    with pytest.raises(BiGainError, match=r"holds 3 images, but dataset\.subset needs 4 per class"):
        ImageNet(str(root), size=8, subset=4000)


def test_a_hundred_classes_keep_their_numbers_among_the_thousand(hundred: Path) -> None:
    data = ImageNet(str(hundred), "imagenet100", size=8)
    assert data.class_ids == [int(row["class_index"]) for row in rows("imagenet100")]
    assert data.classes[0] == "American robin"
    assert len(data) == 200
    for index, file in enumerate(data.files):
        assert WNIDS[data.labels(index)[0]] == file.path.split("/")[0]
    assert data.identity()["name"] == "imagenet100"
    assert len(ImageNet(str(hundred), "imagenet100", size=8, subset=100)) == 100


def test_mirrors_give_the_same_images(
    hundred: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mirror = tmp_path_factory.mktemp("mirror")
    for path in (hundred / "val").rglob("*.JPEG"):
        wnid = path.parent.name
        (mirror / wnid).mkdir(exist_ok=True)
        shutil.copy(path, mirror / wnid / f"{path.stem}_{wnid}.JPEG")
    one, other = (
        ImageNet(str(root), "imagenet100", size=8, subset=100) for root in (hundred, mirror)
    )
    assert one.identity() == other.identity()


def test_other_files_do_not_count(hundred: Path) -> None:
    folder = hundred / "val" / WNIDS[0]
    (folder / "._ILSVRC2012_val_00000001.JPEG").touch()
    (folder / "notes.txt").touch()
    draw(hundred / "val" / "n00000000" / "x.JPEG")
    assert len(ImageNet(str(hundred), "imagenet100", size=8)) == 200


def test_missing_folders_are_named(hundred: Path) -> None:
    for wnid in WNIDS[3:5]:
        shutil.rmtree(hundred / "val" / wnid)
    with pytest.raises(BiGainError, match=f"lacks 2 of 100 .*{WNIDS[3]}, {WNIDS[4]}; run"):
        ImageNet(str(hundred), "imagenet100", size=8)
    with pytest.raises(BiGainError, match=r"lacks 902 of 1000 .*, …; run"):
        ImageNet(str(hundred), size=8)


def test_an_empty_folder_is_named(hundred: Path) -> None:
    for path in (hundred / "val" / WNIDS[7]).iterdir():
        path.unlink()
    with pytest.raises(BiGainError, match=f"{WNIDS[7]} holds no images"):
        ImageNet(str(hundred), "imagenet100", size=8)


def test_missing_data_names_the_place_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match=r"n01440764 .*prepare_imagenet\.py") as caught:
        ImageNet(str(tmp_path), size=8)
    assert str(tmp_path / "val") in str(caught.value)


def test_unknown_choices(root: Path) -> None:
    with pytest.raises(BiGainError, match="imagenet1k, imagenet100; got imagenet"):
        ImageNet(str(root), "imagenet", size=8)
    with pytest.raises(BiGainError, match="val, train; got 'test'"):
        ImageNet(str(root), split="test", size=8)

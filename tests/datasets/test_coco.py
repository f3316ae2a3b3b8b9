"""COCO on a small copy of its layout: labels, captions and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigain.datasets import COCO2017
from bigain.errors import BiGainError
from tests.tiny_data import coco2017, rows

ANNOTATIONS = {kind: f"annotations/{kind}_val2017.json" for kind in ("instances", "captions")}


def change(root: Path, kind: str, edit: Callable[[Any], object]) -> None:
    path = root / ANNOTATIONS[kind]
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def labels(data: COCO2017) -> dict[str, tuple[int, ...]]:
    return {id: data.labels(i) for i, id in enumerate(data.ids())}


def test_labels_are_distinct_and_rising(tmp_path: Path) -> None:
    data = COCO2017(str(coco2017(tmp_path)), size=8)
    assert labels(data) == {
        "val-000000000139": (0, 1),
        "val-000000000285": (1, 2),
        "val-000000000431": (2, 3),
        "val-000000000577": (3, 4),
        "val-000000000723": (4, 5),
        "val-000000000869": (),
    }
    index = data.ids().index("val-000000000869")
    assert data[index].labels == ()
    assert data[index].image.shape == (3, 8, 8)
    assert data.class_ids is None
    assert data.classes == [row["class_name"] for row in rows("coco2017")]
    assert data.prompts[0] == "a photo of a person."


def test_unused_category_ids_leave_no_gap(tmp_path: Path) -> None:
    data = COCO2017(str(coco2017(tmp_path, n=81)), size=8)  # image 79 has the last class, id 90
    assert labels(data)[f"val-{139 + 146 * 79:012d}"] == (0, 79)
    assert data.classes[79] == "toothbrush"


def test_the_prompt_is_the_caption_of_lowest_id(tmp_path: Path) -> None:
    data = COCO2017(str(coco2017(tmp_path)), size=8)
    index = data.ids().index("val-000000000869")  # without a class, too
    assert data.prompt(index) == "Caption 1 of image 869."
    change(tmp_path, "captions", lambda content: content["annotations"].reverse())
    again = COCO2017(str(tmp_path), size=8)
    assert again.prompt(index) == data.prompt(index)
    assert again.identity() == data.identity()


def test_captions_and_labels_are_part_of_the_identity(tmp_path: Path) -> None:
    first = COCO2017(str(coco2017(tmp_path)), size=8).identity()
    assert (first["name"], first["split"], first["size"]) == ("coco2017", "val", 8)
    change(tmp_path, "captions", lambda c: c["annotations"][1].update(caption="Another."))
    second = COCO2017(str(tmp_path), size=8).identity()
    change(tmp_path, "instances", lambda c: c["annotations"].pop(0))
    third = COCO2017(str(tmp_path), size=8).identity()
    assert first != second != third != first


@pytest.mark.parametrize("kind", ["instances", "captions"])
def test_missing_or_damaged_annotations(tmp_path: Path, kind: str) -> None:
    path = coco2017(tmp_path) / ANNOTATIONS[kind]
    path.write_text(path.read_text()[:-10])
    with pytest.raises(BiGainError, match=rf"{path.name} is damaged.*prepare_coco2017\.py"):
        COCO2017(str(tmp_path), size=8)
    path.unlink()
    with pytest.raises(BiGainError, match=rf"{path.name} is not there.*prepare_coco2017\.py"):
        COCO2017(str(tmp_path), size=8)


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("instances", lambda c: c.pop("images")),
        ("instances", lambda c: c["annotations"][0].update(category_id=12)),
        ("instances", lambda c: c.update(annotations=3)),
        ("captions", lambda c: c.update(annotations=c["annotations"][3:])),
    ],
    ids=["no images", "unused category", "no annotations", "no caption of an image"],
)
def test_other_content_is_refused(tmp_path: Path, kind: str, edit: Any) -> None:
    change(coco2017(tmp_path), kind, edit)
    with pytest.raises(BiGainError, match=r"are not COCO's.*prepare_coco2017\.py"):
        COCO2017(str(tmp_path), size=8)


def test_other_categories_are_refused(tmp_path: Path) -> None:
    change(coco2017(tmp_path), "instances", lambda c: c["categories"][-2].update(name="bike"))
    with pytest.raises(BiGainError, match=r"not COCO\'s 80: number 2 is bike"):
        COCO2017(str(tmp_path), size=8)
    change(tmp_path, "instances", lambda c: c.update(categories=c["categories"][-1:]))
    with pytest.raises(BiGainError, match=r"not COCO\'s 80: number 2 is missing"):
        COCO2017(str(tmp_path), size=8)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    (coco2017(tmp_path) / "val2017" / "000000000285.jpg").unlink()
    with pytest.raises(BiGainError, match=r"1 of 6 .*000000000285\.jpg.*prepare_coco2017\.py"):
        COCO2017(str(tmp_path), size=8)


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match="val, train; got 'val2017'"):
        COCO2017(str(tmp_path), "val2017", size=8)

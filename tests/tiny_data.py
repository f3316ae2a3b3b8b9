"""Small stand-ins of the data sets, in the layout and with the names of the real ones."""

import csv
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = Path(__file__).parents[1] / "bigain" / "datasets" / "classes"
COCO_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # category ids between 1 and 90


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a published class list."""
    with (CLASSES / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def draw(path: Path, width: int = 12, height: int = 9, mode: str = "RGB") -> None:
    """Write noise that depends on the file's name alone, in the format of its suffix."""
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    noise.convert(mode).save(path)


def pets(root: Path, per_class: int = 1) -> Path:
    """Oxford-IIIT Pet: ``per_class`` images of each of the 37 breeds in both splits."""
    folder = root / "oxford-iiit-pet"
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, row in enumerate(rows("pets"), 1):
        cat = " cat, a type of pet" in row["prompt"]
        breed = row["class_name"].title() if cat else row["class_name"]
        for start, split in ((100, "trainval"), (200, "test")):
            for number in range(start + 1, start + 1 + per_class):
                name = f"{breed.replace(' ', '_')}_{number}"
                draw(folder / "images" / f"{name}.jpg", 11 + label % 3, 10 + label % 5)
                lines[split].append(f"{name} {label} {1 if cat else 2} 1")
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, text in lines.items():
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(text) + "\n")
    return root


def imagenet(root: Path, per_class: int = 2, classes: Sequence[str] | None = None) -> Path:
    """ImageNet's val split: ``per_class`` images of each class, all 1,000 or these WordNet ids."""
    wnids = [row["wnid"] for row in rows("imagenet1k")] if classes is None else classes
    numbers = iter(range(1, 1 + per_class * len(wnids)))
    for wnid in wnids:
        for _ in range(per_class):
            draw(root / "val" / wnid / f"ILSVRC2012_val_{next(numbers):08d}.JPEG", 8, 8)
    return root


def coco2017(root: Path, n: int = 6) -> Path:
    """COCO 2017's val split: image i (from 0) has the objects i and i + 1, the last one none."""
    categories = [i for i in range(1, 91) if i not in COCO_UNUSED]
    ids = [139 + 146 * i for i in range(n)]
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]
    objects: list[dict[str, int]] = []
    captions: list[dict[str, int | str]] = []
    for place, (id, image) in enumerate(zip(ids, images, strict=True)):
        draw(root / "val2017" / str(image["file_name"]), 14, 10, "L" if place == 1 else "RGB")
        for k in (place + 1, place, place) if place < n - 1 else ():
            objects.append(
                {
                    "id": 1000 - len(objects),
                    "image_id": id,
                    "category_id": categories[k % 80],
                    "iscrowd": int(k == place),
                }
            )
        # the real file is not sorted by annotation id either
        for number in (3, 1, 2):
            text = f"Caption {number} of\nimage {id}. "
            captions.append({"id": 10 * place + number, "image_id": id, "caption": text})
    named = [
        {"id": id, "name": row["class_name"]}
        for id, row in zip(categories, rows("coco2017"), strict=True)
    ]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for kind, content in (
        ("instances", {"images": images, "annotations": objects, "categories": named[::-1]}),
        ("captions", {"images": images, "annotations": captions}),
    ):
        (root / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(content))
    return root


def folder(root: Path) -> Path:
    """Two classes, apple and hot_dog, five images of four formats and modes."""
    draw(root / "apple" / "a.png", 9, 12, "P")
    draw(root / "apple" / "b.jpg", 10, 8, "L")
    draw(root / "hot_dog" / "a.png", 8, 8, "RGBA")
    draw(root / "hot_dog" / "b.jpeg", 13, 9, "CMYK")
    draw(root / "hot_dog" / "c.WEBP", 8, 11)
    return root

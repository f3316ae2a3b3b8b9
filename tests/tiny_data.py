"""Small stand-ins of the data sets, in the layout and with the names of the real ones."""

import csv
import hashlib
import json
import pickle
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as loaders
from PIL import Image
from scipy.io import savemat

CLASSES = Path(__file__).parents[1] / "bigain" / "datasets" / "classes"
COCO_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # category ids between 1 and 90


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a published class list."""
    with (CLASSES / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def draw(
    path: Path, width: int = 12, height: int = 9, mode: str = "RGB", key: str | None = None
) -> None:
    """Write noise that depends on the file's name or ``key``, in the format of its suffix."""
    rng = np.random.default_rng(zlib.crc32((key or path.name).encode()))
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


# torchvision's data sets: ``per_class`` images of each class


def flowers102(root: Path, per_class: int = 1) -> Path:
    """Oxford 102 Flower, whose splits take turns."""
    folder = root / "flowers-102"
    labels = [1 + i % 102 for i in range(3 * 102 * per_class)]
    for number in range(1, 1 + len(labels)):
        draw(folder / "jpg" / f"image_{number:05d}.jpg", 9 + number % 3, 9)
    numbers = np.arange(1, 1 + len(labels)).reshape(3, -1)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    splits = dict(zip(("trnid", "valid", "tstid"), numbers[:, None], strict=True))
    savemat(folder / "setid.mat", splits)
    return root


def aircraft(root: Path, per_class: int = 1) -> Path:
    """FGVC-Aircraft's test and train splits at all levels, with the real names of some classes."""
    data = root / "fgvc-aircraft-2013b" / "data"
    known = ["707-320", "727-200", "F-16A/B", "F/A-18", "Falcon 2000"]
    variants = [*known, *(f"Variant {i}" for i in range(5, 100))]
    levels = {
        "variant": ("variants", variants),
        "family": ("families", ["Boeing 707", *(f"Family {i}" for i in range(1, 70))]),
        "manufacturer": ("manufacturers", ["Boeing", *(f"Maker {i}" for i in range(1, 30))]),
    }
    for split, first in (("test", 0), ("train", 10**6)):
        for number in range(first, first + 100 * per_class):
            draw(data / "images" / f"{number:07d}.jpg", 10, 8)
        for level, (file, names) in levels.items():
            lines = [
                f"{first + i:07d} {names[i % 100 % len(names)]}" for i in range(100 * per_class)
            ]
            (data / f"images_{level}_{split}.txt").write_text("\n".join(lines) + "\n")
            (data / f"{file}.txt").write_text("\n".join(names) + "\n")
    return root


def food101(root: Path, per_class: int = 1) -> Path:
    """Food-101: numbers that recur in other classes, in both splits."""
    folder = root / "food-101"
    names = ["apple_pie", "baby_back_ribs", *(f"dish_{i:03d}" for i in range(99))]
    for split, first in (("train", 100), ("test", 200)):
        chosen = {n: [f"{n}/{first + i}" for i in range(per_class)] for n in names[::-1]}
        for path in (path for paths in chosen.values() for path in paths):
            draw(folder / "images" / f"{path}.jpg", 8, 10, key=path)
        (folder / "meta").mkdir(exist_ok=True)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(chosen))
    return root


def caltech101(root: Path, per_class: int = 1) -> Path:
    """Caltech-101: its background, and objects of which one image is grey."""
    folder = root / "caltech101" / "101_ObjectCategories"
    objects = ["Faces", "Faces_easy", "Leopards", "accordion", "yin_yang"]
    objects += [f"object_{i:02d}" for i in range(96)]
    for name in ("BACKGROUND_Google", *objects):
        for number in range(1, 1 + per_class):
            mode = "L" if name == "Leopards" else "RGB"
            path = folder / name / f"image_{number:04d}.jpg"
            draw(path, 12, 9, mode, f"{name}/{number}")
    return root


def cifar(root: Path, classes: int, per_class: int = 1) -> Path:
    """CIFAR-10 or CIFAR-100: pickled batches, and the names of the classes."""
    fine = classes == 100
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(classes)
    train = ["train"] if fine else [f"data_batch_{i}" for i in range(1, 6)]
    for name in [*train, "test" if fine else "test_batch"]:
        n = classes * per_class
        batch = {
            "data": rng.integers(0, 256, (n, 3072), np.uint8),
            "fine_labels" if fine else "labels": [i % classes for i in range(n)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    names = ["apple", "aquarium_fish"] if fine else ["airplane", "automobile"]
    names += [f"thing_{i}" for i in range(2, classes)]
    about = {"fine_label_names" if fine else "label_names": names}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(about))
    return root


def stl10(root: Path, per_class: int = 1) -> Path:
    """STL-10: raw bytes of images by column, and labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(10)
    for split in ("train", "test"):
        n = 10 * per_class
        rng.integers(0, 256, (n, 3, 96, 96), np.uint8).tofile(folder / f"{split}_X.bin")
        (1 + np.arange(n, dtype=np.uint8) % 10).tofile(folder / f"{split}_y.bin")
    rng.integers(0, 256, (2, 3, 96, 96), np.uint8).tofile(folder / "unlabeled_X.bin")
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    return root


TORCHVISION: dict[str, Callable[..., Path]] = {
    "flowers102": flowers102,
    "aircraft": aircraft,
    "food101": food101,
    "caltech101": caltech101,
    "cifar10": partial(cifar, classes=10),
    "cifar100": partial(cifar, classes=100),
    "stl10": stl10,
}


def take_as_published(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> None:
    """Put the MD5 of a stand-in's files in place of those that torchvision's loader expects."""

    folder = ""

    def md5(file: str) -> str:
        return hashlib.md5((root / folder / file).read_bytes()).hexdigest()

    if name == "flowers102":
        folder = "flowers-102"
        files = {
            key: (file, md5(file) if key != "image" else old)
            for key, (file, old) in loaders.Flowers102._file_dict.items()
        }
        monkeypatch.setattr(loaders.Flowers102, "_file_dict", files)
    elif name in ("cifar10", "cifar100", "stl10"):
        kind = getattr(loaders, name.upper())
        folder = kind.base_folder
        for part in ("train_list", "test_list"):
            listed = [[file, md5(file)] for file, _ in getattr(kind, part)]
            monkeypatch.setattr(kind, part, listed)
        if name != "stl10":
            monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(kind.meta["filename"])})

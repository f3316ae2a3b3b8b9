"""Each of torchvision's data sets, in small and in its layout on disk, by torchvision's loader."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as loaders

from bigain import datasets
from bigain.datasets.image_files import preprocessing
from bigain.datasets.torchvision_sets import TorchvisionSet
from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from tests.tiny_data import TORCHVISION, rows, take_as_published

CLASSES: dict[str, type[TorchvisionSet]] = {
    kind.key: kind
    for kind in (
        datasets.Flowers102,
        datasets.Aircraft,
        datasets.Food101,
        datasets.Caltech101,
        datasets.CIFAR10,
        datasets.CIFAR100,
        datasets.STL10,
    )
}
IMAGES = {  # of the stand-ins with two images of each class, by split
    "flowers102": {"test": 204, "train": 204, "val": 204},
    "aircraft": {"test": 200, "train": 200},
    "food101": {"test": 202, "train": 202},
    "caltech101": {"all": 202},
    "cifar10": {"test": 20, "train": 100},
    "cifar100": {"test": 200, "train": 200},
    "stl10": {"test": 20, "train": 20},
}
SPLITS = [(name, split) for name, splits in IMAGES.items() for split in splits]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {n: make(tmp_path_factory.mktemp(n), per_class=2) for n, make in TORCHVISION.items()}


@pytest.fixture
def root(request: pytest.FixtureRequest, roots: dict[str, Path], monkeypatch) -> Path:
    name = request.node.callspec.params["name"]
    take_as_published(monkeypatch, name, roots[name])
    return roots[name]


@pytest.fixture
def own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that a test may change."""
    made = TORCHVISION[name](tmp_path)
    take_as_published(monkeypatch, name, made)
    return made


def theirs(name: str, root: Path, split: str) -> Any:
    kind = getattr(loaders, {"aircraft": "FGVCAircraft"}.get(name, CLASSES[name].__name__))
    if name == "caltech101":
        return kind(str(root))
    return kind(str(root), split == "train" if name.startswith("cifar") else split)


def build(name: str, root: Path, split: str | None = None, **settings: Any) -> TorchvisionSet:
    return CLASSES[name](str(root), split or next(iter(IMAGES[name])), **{"size": 16, **settings})


def count(image: torch.Tensor, label: int) -> tuple[int, bytes]:
    return label, image.numpy().tobytes()


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_images_and_labels_are_torchvisions(name: str, split: str, root: Path) -> None:
    loader = theirs(name, root, split)
    data = build(name, root, split)
    assert len(data) == len(loader) == IMAGES[name][split]
    prepare = preprocessing(16)
    expected = sorted(
        count(prepare(image.convert("RGB")), label)
        for image, label in (loader[i] for i in range(len(loader)))
    )
    found = [data[i] for i in range(len(data))]
    assert sorted(count(e.image, e.labels[0]) for e in found) == expected
    assert all(e.image.shape == (3, 16, 16) for e in found)
    assert [e.id for e in found] == data.ids() and len({*data.ids()}) == len(data)
    assert [e.labels for e in found] == [data.labels(i) for i in range(len(data))]
    assert [data.prompt(i) for i in range(len(data))] == [data.prompts[e.labels[0]] for e in found]


@pytest.mark.parametrize("name", CLASSES)
def test_the_first_images_are_a_fair_sample(name: str, root: Path) -> None:
    data = build(name, root)
    labels = [data.labels(i)[0] for i in range(len(data))]
    assert labels != sorted(labels)
    assert build(name, root).ids() == data.ids()
    assert data.class_ids is None and data.known_classes is None and data.listing() is None


@pytest.mark.parametrize(
    ("name", "label", "class_name", "prompt"),
    [
        ("flowers102", 59, "pink and yellow dahlia", "a photo of a {}, a type of flower."),
        ("flowers102", 0, "pink primrose", "a photo of a {}, a type of flower."),
        ("aircraft", 2, "F-16A/B", "a photo of a {}, a type of aircraft."),
        ("food101", 1, "baby back ribs", "a photo of {}, a type of food."),
        ("caltech101", 0, "off-center face", "a photo of a {}."),
        ("caltech101", 1, "centered face", "a photo of a {}."),
        ("caltech101", 2, "leopard", "a photo of a {}."),
        ("caltech101", 100, "yin and yang symbol", "a photo of a {}."),
        ("cifar10", 1, "automobile", "a blurry photo of a {}."),
        ("cifar100", 1, "aquarium fish", "a blurry photo of a {}."),
        ("stl10", 9, "truck", "a photo of a {}."),
    ],
)
def test_names_and_prompts(name: str, label: int, class_name: str, prompt: str, root: Path) -> None:
    template = composed([f"dataset={name}", "model=sd2"]).dataset.template
    assert template == prompt
    data = build(name, root, template=template)
    assert data.classes[label] == class_name
    assert data.prompts[label] == prompt.replace("{}", class_name)
    assert len({*data.prompts}) == len(data.classes) == data._count


def test_flowers_are_torchvisions_but_for_what_clip_words_differently() -> None:
    names = [row["class_name"] for row in rows("flowers102")]
    known = getattr(loaders.Flowers102, "classes", None)
    if known is None:
        pytest.skip("this torchvision does not name the flowers")
    differ = {(a, b) for a, b in zip(names, known, strict=True) if a != b}
    assert differ == {
        ("globe flower", "globe-flower"),
        ("pink and yellow dahlia", "pink-yellow dahlia?"),
        ("air plant", "ball moss"),
    }


@pytest.mark.parametrize("name", ["aircraft"])
def test_aircraft_has_three_levels(name: str, root: Path) -> None:
    names = ("variant", "family", "manufacturer")
    levels = {level: build(name, root, level=level) for level in names}
    assert [len(data.classes) for data in levels.values()] == [100, 70, 30]
    assert levels["manufacturer"].classes[0] == "Boeing"
    assert len({data.identity()["sha256"] for data in levels.values()}) == 3
    with pytest.raises(BiGainError, match="variant, family, manufacturer; got 'model'"):
        build(name, root, level="model")


@pytest.mark.parametrize("name", CLASSES)
def test_the_identity_is_that_of_the_content(name: str, root: Path, tmp_path: Path) -> None:
    identity = build(name, root).identity()
    assert (identity["name"], identity["size"]) == (name, 16)
    assert str(root) not in json.dumps(identity)
    copied = tmp_path / "copy"
    shutil.copytree(root, copied)
    assert build(name, copied).identity() == identity
    assert build(name, root, template="{}").identity() != identity
    if len(IMAGES[name]) > 1:
        assert build(name, root, "train").identity()["sha256"] != identity["sha256"]


@pytest.mark.parametrize("name", ["cifar10", "stl10", "caltech101"])
def test_another_image_is_another_data_set(name: str, own: Path, monkeypatch) -> None:
    before = build(name, own).identity()
    if name == "cifar10":
        path = own / "cifar-10-batches-py" / "test_batch"
        content = np.load(path, allow_pickle=True)
        content["data"][3, 5] ^= 1
        path.write_bytes(pickle.dumps(content))
    elif name == "stl10":
        path = own / "stl10_binary" / "test_X.bin"
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    else:
        folder = own / "caltech101" / "101_ObjectCategories"
        shutil.copy(folder / "accordion/image_0001.jpg", folder / "Faces/image_0001.jpg")
    take_as_published(monkeypatch, name, own)
    assert build(name, own).identity() != before


@pytest.mark.parametrize("name", CLASSES)
def test_prompts_from_a_file(name: str, root: Path, tmp_path: Path) -> None:
    classes = build(name, root).classes
    lines = [f'"{c}","my {i}, {c}"' for i, c in enumerate(classes)]
    path = tmp_path / "prompts.csv"
    path.write_text("\n".join(["class_name,prompt", *lines]))
    assert build(name, root, prompts=str(path)).prompts[1] == f"my 1, {classes[1]}"
    path.write_text("\n".join(["class_name,prompt", *lines[1:]]))
    with pytest.raises(BiGainError, match=re.escape(f"has no prompt for {classes[0]}")):
        build(name, root, prompts=str(path))


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_folder_names_the_one_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(BiGainError) as caught:
        build(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / CLASSES[name].folder_name} is not there; ")
    assert f"run python scripts/prepare_torchvision.py {name} and set dataset.root" in message
    assert not list(tmp_path.iterdir()), "a loader made a folder"


@pytest.mark.parametrize("name", CLASSES)
def test_an_empty_folder_is_explained(name: str, tmp_path: Path) -> None:
    (tmp_path / CLASSES[name].folder_name).mkdir()
    with pytest.raises(BiGainError, match=rf"torchvision cannot read .*{name} and set") as caught:
        build(name, tmp_path)
    assert "download=True" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("flowers102", "setid.mat"),
        ("cifar10", "test_batch"),
        ("cifar100", "test"),
        ("stl10", "test_X.bin"),
    ],
)
def test_a_changed_file_is_refused_by_its_checksum(name: str, file: str, own: Path) -> None:
    build(name, own)
    path = own / CLASSES[name].folder_name / file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BiGainError, match="Dataset not found or corrupted"):
        build(name, own)


@pytest.mark.parametrize("name", ["flowers102", "aircraft", "food101"])
def test_a_missing_image_is_named(name: str, own: Path) -> None:
    data = build(name, own)
    path = data.folder / data.files[0].path
    path.unlink()
    expected = rf"1 of {len(data)} images are not there, the first {re.escape(str(path))}; run "
    with pytest.raises(BiGainError, match=expected):
        build(name, own)


@pytest.mark.parametrize("name", ["food101"])
def test_a_missing_class_is_noticed(name: str, own: Path) -> None:
    path = own / "food-101" / "meta" / "test.json"
    content = json.loads(path.read_text())
    content.pop("apple_pie")
    path.write_text(json.dumps(content))
    with pytest.raises(BiGainError, match="has 100 classes instead of 101"):
        build(name, own)


@pytest.mark.parametrize("name", ["caltech101"])
def test_the_background_belongs_there_and_is_no_class(name: str, own: Path) -> None:
    assert "BACKGROUND Google" not in build(name, own).classes
    shutil.rmtree(own / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google")
    with pytest.raises(BiGainError, match="put it back, or make an empty one"):
        build(name, own)


@pytest.mark.parametrize("name", CLASSES)
def test_unknown_split(name: str, root: Path) -> None:
    with pytest.raises(BiGainError, match="got 'validation'"):
        build(name, root, "validation")

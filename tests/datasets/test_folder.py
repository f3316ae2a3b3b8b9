"""A user's own images and prompts: classes, names and what is refused."""

import os
import unicodedata
import warnings
from pathlib import Path

import pytest
from PIL import Image

from bigain.datasets import Folder
from bigain.errors import BiGainError
from bigain.utils.images import SUFFIXES
from tests.tiny_data import draw, folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path / "data")


def test_classes_are_the_folders_by_name(root: Path) -> None:
    (root / "apple" / "notes.txt").touch()
    (root / ".cache").mkdir()
    draw(root / "apple" / ".hidden.png")
    data = Folder(str(root), size=8)
    assert data.classes == ["apple", "hot dog"]
    assert data.prompts == ["a photo of a apple.", "a photo of a hot dog."]
    assert data.class_ids is None
    assert {id: data.labels(i) for i, id in enumerate(data.ids())} == {
        "apple/a.png": (0,),
        "apple/b.jpg": (0,),
        "hot_dog/a.png": (1,),
        "hot_dog/b.jpeg": (1,),
        "hot_dog/c.WEBP": (1,),
    }


def test_a_template_is_filled(root: Path) -> None:
    data = Folder(str(root), size=8, template="{}, drawn")
    assert data.prompts == ["apple, drawn", "hot dog, drawn"]
    with pytest.raises(BiGainError, match=r"dataset\.template.*got 'a photo'"):
        Folder(str(root), size=8, template="a photo")


@pytest.mark.parametrize("name", ["hot_dog", "hot dog"])
def test_prompts_from_a_file(root: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(f'class_name,prompt\n{name},"a sausage, in a bun"\napple,an apple\n')
    data = Folder(str(root), size=8, prompts=str(path))
    assert data.prompts == ["an apple", "a sausage, in a bun"]
    assert data.identity() != Folder(str(root), size=8).identity()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("class_name,prompt\napple,an apple\n", "no prompt for hot dog"),
        (
            "class_name,prompt\napple,a\nhot_dog,b\npear,c\n",
            "unknown classes: pear; the",
        ),
        ("class_name,prompt\napple,a\napple,b\n", "line 3: .*'apple' twice, first on line 2"),
        (
            "class_name,prompt\nhot_dog,a\n\nhot dog,b\n",
            "line 4: names the class 'hot dog' twice, first on line 2",
        ),
        (
            'class_name,prompt\napple,"a\nb"\nhot dog,"a\nb"\n',
            r"line 4: the class 'hot dog' has the prompt of 'apple' \(line 2\)",
        ),
        ("class_name,prompt\napple,\n", "line 2: prompt is empty"),
        ("class_name,prompt\napple,a\nhot dog,  \n", "line 3: prompt is empty"),
        (
            "class_name,prompt\nhot dog,a sausage, in a bun\napple,a\n",
            r"line 2: 3 fields, but the header has 2 \(class_name, prompt\); put text .* quotes",
        ),
        ("class_name,prompt\nhot dog,a\napple\n", "line 3: 1 fields, but the header has 2"),
        ("class_name,prompt,note\napple,a\n", "line 2: 2 fields, but the header has 3"),
        (
            "class_name,prompt,prompt\napple,a,b\n",
            "line 1: the header has more than one column prompt",
        ),
        (
            "class_name,prompt,note,note\napple,a,,\n",
            "line 1: the header has more than one column note",
        ),
        ("name,prompt\napple,a\n", "line 1: the header lacks the column class_name"),
        ("class_name;prompt\napple;a\n", "line 1: the header lacks the column class_name"),
        ("", "is empty; give a CSV file"),
        ("class_name,prompt\n", "no prompt for apple, hot dog"),
        ("\xff", "cannot be read"),
    ],
)
def test_prompts_that_do_not_fit(root: Path, tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BiGainError, match=error) as caught:
        Folder(str(root), size=8, prompts=str(path))
    assert str(path) in str(caught.value)


def test_missing_prompts(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match=r"none\.csv cannot be read"):
        Folder(str(root), size=8, prompts=str(tmp_path / "none.csv"))


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(BiGainError, match=r"is not a folder; set dataset\.root"):
        Folder(str(tmp_path / "none"), size=8)
    draw(tmp_path / "a.png")
    with pytest.raises(BiGainError, match="holds no folders"):
        Folder(str(tmp_path), size=8)


def test_an_empty_class_is_named(root: Path) -> None:
    draw(root / "pear" / "deeper" / "a.png")
    with pytest.raises(BiGainError, match="pear holds no images"):
        Folder(str(root), size=8)


def test_two_folders_of_one_class(root: Path) -> None:
    draw(root / "hot dog" / "a.png")
    with pytest.raises(BiGainError, match="are the class 'hot dog'"):
        Folder(str(root), size=8)


def test_names_are_the_same_in_every_unicode_form(root: Path, tmp_path: Path) -> None:
    composed, apart = "crème_brûlée", unicodedata.normalize("NFD", "crème_brûlée")
    assert composed != apart
    draw(root / composed / "a.png", 8, 8)
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(f"class_name,prompt\napple,a\nhot_dog,b\n{apart},dessert\n")
    data = Folder(str(root), size=8, prompts=str(prompts))
    assert data.prompts[data.classes.index("crème brûlée")] == "dessert"
    draw(root / apart / "b.png", 8, 8)
    with pytest.raises(BiGainError, match=r"two folders in .* are the class 'crème brûlée'"):
        Folder(str(root), size=8)


@pytest.mark.parametrize("where", ["", "apple"])
def test_a_name_that_is_not_utf_8_is_refused(root: Path, where: str) -> None:
    odd = os.fsencode(root / where) + b"/caf\xe9.png"
    if where:
        Path(os.fsdecode(odd)).write_bytes((root / "apple" / "a.png").read_bytes())
    else:
        os.mkdir(odd)
    with pytest.raises(BiGainError, match=r"holds caf\\xe9\.png, a name that is not UTF-8"):
        Folder(str(root), size=8)


@pytest.mark.parametrize("suffix", sorted(Image.registered_extensions()))
def test_no_image_is_left_out_silently(root: Path, suffix: str) -> None:
    before = len(Folder(str(root), size=8))
    path = root / "apple" / f"extra{suffix.upper()}"
    path.write_bytes((root / "apple" / "a.png").read_bytes())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = len(Folder(str(root), size=8))
    said = [str(w.message) for w in caught if "left out, such as extra" in str(w.message)]
    assert found == before + 1 if suffix in SUFFIXES else (found == before and len(said) == 1)

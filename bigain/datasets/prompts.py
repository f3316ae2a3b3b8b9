"""Class names and prompts, both those published with the paper's data sets and a user's own."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from bigain.errors import BiGainError, some
from bigain.utils.csv_files import read_rows

PUBLISHED = Path(__file__).parent / "classes"
TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class Classes:
    """A data set's classes in the order of its labels.

    Attributes:
        names: the published names, unchanged.
        prompts: the published prompts, one per class, with their articles ("a apple") unchanged.
        indices: each class's number in its source: 0..999 for ImageNet, else the label itself.
        wnids: the WordNet ids that name ImageNet's folders; empty for other data.
    """

    names: list[str]
    prompts: list[str]
    indices: list[int]
    wnids: list[str]


def published(name: str) -> Classes:
    """The classes listed in classes/``name``.csv."""
    rows = list(
        read_rows(PUBLISHED / f"{name}.csv", ("class_index", "class_name", "prompt")).values()
    )
    return Classes(
        [row["class_name"] for row in rows],
        [row["prompt"] for row in rows],
        [int(row["class_index"]) for row in rows],
        [row["wnid"] for row in rows if "wnid" in row],
    )


def name_of_class(text: str) -> str:
    """A class's name: spaces instead of underscores, and one form of each accented letter (NFC)."""
    return unicodedata.normalize("NFC", text.replace("_", " "))


def read_prompts(path: Path) -> dict[str, str]:
    """The prompts by class name, from a CSV file with the columns class_name and prompt.

    Underscores in a class's name are read as spaces.

    Raises:
        BiGainError: if the file cannot be read, lacks a column or has one twice, has a line with
            more or fewer fields than columns, names a class twice, or gives two classes the same
            prompt; it names the lines.
    """
    prompts: dict[str, str] = {}
    lines: dict[str, int] = {}  # of each class
    classes: dict[str, str] = {}  # by prompt
    for line, row in read_rows(path, ("class_name", "prompt")).items():
        name, prompt = name_of_class(row["class_name"]), row["prompt"]
        if name in lines:
            raise BiGainError(
                f"{path}, line {line}: names the class {name!r} twice, first on line "
                f"{lines[name]}; keep one"
            )
        if prompt in classes:
            other = classes[prompt]
            raise BiGainError(
                f"{path}, line {line}: the class {name!r} has the prompt of {other!r} (line "
                f"{lines[other]}), {prompt!r}; no model can tell them apart, so give each class "
                "a prompt of its own"
            )
        prompts[name], lines[name], classes[prompt] = prompt, line, name
    return prompts


def prompts_for(names: list[str], template: str, file: str | None) -> list[str]:
    """A prompt for each class.

    Args:
        template: a prompt with {} for the class's name.
        file: a CSV file with the columns class_name and prompt, used instead of the template, or
            None. It must name every class and no other, with either spaces or underscores, and
            give each its own prompt.

    Raises:
        BiGainError: if the template has no {}, or the file does not match the classes.
    """
    return _fill(template, names) if file is None else _matched(Path(file), names)


def _fill(template: str, names: list[str]) -> list[str]:
    if "{}" not in template:
        raise BiGainError(
            f"dataset.template must have {{}} for the class's name, as in {TEMPLATE!r}; "
            f"got {template!r}"
        )
    return [template.replace("{}", name) for name in names]


def _matched(path: Path, names: list[str]) -> list[str]:
    by_name = read_prompts(path)
    for what, wrong in (
        ("has no prompt for", [name for name in names if name not in by_name]),
        ("has prompts for unknown classes:", [name for name in by_name if name not in names]),
    ):
        if wrong:
            raise BiGainError(f"{path} {what} {some(wrong, 5)}; the classes are {', '.join(names)}")
    return [by_name[name] for name in names]

"""Class names and prompts, both those published with the paper's data sets and a user's own."""

import csv
from dataclasses import dataclass
from pathlib import Path

from bigain.errors import BiGainError

PUBLISHED = Path(__file__).parent / "classes"


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
    rows = _rows(PUBLISHED / f"{name}.csv", ("class_index", "class_name", "prompt"))
    return Classes(
        [row["class_name"] for row in rows],
        [row["prompt"] for row in rows],
        [int(row["class_index"]) for row in rows],
        [row["wnid"] for row in rows if "wnid" in row],
    )


def read_prompts(path: Path) -> dict[str, str]:
    """The prompts by class name, from a CSV file with the columns class_name and prompt.

    Raises:
        BiGainError: if the file cannot be read, lacks a column, or names a class twice.
    """
    prompts: dict[str, str] = {}
    for row in _rows(path, ("class_name", "prompt")):
        if row["class_name"] in prompts:
            raise BiGainError(f"{path} names the class {row['class_name']!r} twice; keep one")
        prompts[row["class_name"]] = row["prompt"]
    return prompts


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BiGainError(
            f"{path} cannot be read ({error}); give a CSV file with the columns "
            f"{', '.join(columns)}"
        ) from error
    for number, row in enumerate(rows, 1):
        if lacking := [c for c in columns if not row.get(c)]:
            raise BiGainError(
                f"{path} has no {lacking[0]} in row {number}; give every class all of "
                f"{', '.join(columns)}"
            )
    return rows

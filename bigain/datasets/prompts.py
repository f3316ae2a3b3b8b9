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
    rows = list(_rows(PUBLISHED / f"{name}.csv", ("class_index", "class_name", "prompt")).values())
    return Classes(
        [row["class_name"] for row in rows],
        [row["prompt"] for row in rows],
        [int(row["class_index"]) for row in rows],
        [row["wnid"] for row in rows if "wnid" in row],
    )


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
    for line, row in _rows(path, ("class_name", "prompt")).items():
        name, prompt = row["class_name"].replace("_", " "), row["prompt"]
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


def _rows(path: Path, columns: tuple[str, ...]) -> dict[int, dict[str, str]]:
    """The rows of a CSV file by the line on which each begins, from 1."""
    rows: dict[int, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            line = 1
            for row in reader:
                if row:  # else the line is blank
                    rows[line] = row
                line = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BiGainError(
            f"{path} cannot be read ({error}); give a CSV file with the columns "
            f"{', '.join(columns)}"
        ) from error
    if not rows:
        raise BiGainError(f"{path} is empty; give a CSV file with the columns {', '.join(columns)}")
    first, *others = rows
    header = rows[first]
    for column in columns:
        if header.count(column) != 1:
            has = "lacks the column" if column not in header else "has more than one column"
            raise BiGainError(
                f"{path}, line {first}: the header {has} {column}; it is {','.join(header)}, and "
                f"must name each of {', '.join(columns)} once"
            )
    if repeated := [name for name in header if header.count(name) > 1]:
        raise BiGainError(
            f"{path}, line {first}: the header has more than one column {repeated[0]}; keep one"
        )
    found = {}
    for line in others:
        fields = rows[line]
        if len(fields) != len(header):
            raise BiGainError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} "
                f"({', '.join(header)}); put text that contains a comma in double quotes"
            )
        found[line] = dict(zip(header, fields, strict=True))
        if lacking := [column for column in columns if not found[line][column].strip()]:
            raise BiGainError(
                f"{path}, line {line}: {lacking[0]} is empty; give every class all of "
                f"{', '.join(columns)}"
            )
    return found

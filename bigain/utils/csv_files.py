"""CSV files that people write, read strictly: what a lenient reader would lose is refused."""

import csv
from pathlib import Path

from bigain.errors import BiGainError


def read_rows(path: Path, columns: tuple[str, ...]) -> dict[int, dict[str, str]]:
    """The rows of a CSV file with a header, by the line on which each begins, from 1.

    Args:
        columns: those that the file must have and every row must fill; it may have others.

    Raises:
        BiGainError: if the file cannot be read, lacks a column or has one twice, or a row has more
            or fewer fields than the header, or an empty one in ``columns``; it names the line.
    """
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
    if absent := [column for column in columns if column not in header]:
        raise BiGainError(
            f"{path}, line {first}: the header lacks the column {absent[0]}; it is "
            f"{','.join(header)}, and must name {', '.join(columns)}"
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
                f"{path}, line {line}: {lacking[0]} is empty; give every row all of "
                f"{', '.join(columns)}"
            )
    return found

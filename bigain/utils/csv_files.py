"""CSV files that people write, read strictly: what a lenient reader would lose is refused."""

import csv
import re
from pathlib import Path

from bigain.errors import BiGainError, shortened
from bigain.utils.setting_types import shown

MAX_BYTES = 2**24  # a hundred thousand long prompts
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def read_rows(path: Path, columns: tuple[str, ...]) -> dict[int, dict[str, str]]:
    """The rows of a CSV file with a header, by the line on which each begins, from 1.

    Args:
        columns: those that the file must have and every row must fill; it may have others.

    Raises:
        BiGainError: if the file is none, is larger than `MAX_BYTES` or cannot be read, lacks a
            column or has one twice, or a row has more or fewer fields than the header, or an empty
            one in ``columns``, or a control character; it names the line.
    """
    rows: dict[int, list[str]] = {}
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise OSError(f"{size:,} bytes are more than {MAX_BYTES:,}")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            line = 1
            for row in reader:
                if row:  # else the line is blank
                    rows[line] = row
                line = reader.line_num + 1
    except (OSError, ValueError, csv.Error) as error:
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
            f"{shortened(','.join(header), 200)}, and must name {', '.join(columns)}"
        )
    if repeated := [name for name in header if header.count(name) > 1]:
        raise BiGainError(
            f"{path}, line {first}: the header has more than one column "
            f"{shortened(repeated[0], 200)}; keep one"
        )
    found = {}
    for line in others:
        fields = rows[line]
        if len(fields) != len(header):
            raise BiGainError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} "
                f"({shortened(', '.join(header), 200)}); put text that contains a comma in double "
                "quotes"
            )
        if odd := [text for text in fields if CONTROL.search(text)]:
            raise BiGainError(
                f"{path}, line {line}: {shown(odd[0])} holds a control character; remove it"
            )
        found[line] = dict(zip(header, fields, strict=True))
        if lacking := [column for column in columns if not found[line][column].strip()]:
            raise BiGainError(
                f"{path}, line {line}: {lacking[0]} is empty; give every row all of "
                f"{', '.join(columns)}"
            )
    return found

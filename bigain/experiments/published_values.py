"""The paper's own values, as experiments/published.csv holds them."""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bigain.errors import BiGainError
from bigain.utils.csv_files import read_rows
from bigain.utils.setting_types import shown


def published_values(
    path: Path, wanted: Mapping[str, str], here: Mapping[str, str] | None
) -> dict[str, float]:
    """The values of the file's rows by metric.

    Args:
        wanted: columns and what they hold in the rows that are meant, such as ``method: tome``.
        here: the same of a model and data; None for those that the paper has no values of.

    Raises:
        BiGainError: if no row is meant, on whatever model and data, or the file is damaged.
    """
    mine = [row for row in _rows(path) if wanted.items() <= row.items()]
    if not mine:
        raise BiGainError(
            f"{path.parent.name}/{path.name} holds no {shown(dict(wanted))}; name what a line "
            "of it holds, or remove published"
        )
    if here is None:
        return {}
    return {row["metric"]: float(row["value"]) for row in mine if here.items() <= row.items()}


@cache
def _rows(path: Path) -> list[dict[str, str]]:
    rows = read_rows(path, ("metric", "value"))
    for line, row in rows.items():
        try:
            finite = math.isfinite(float(row["value"]))
        except ValueError:
            finite = False
        if not finite:
            raise BiGainError(
                f"{path}, line {line}: value must be a number, got {shown(row['value'])}"
            )
    return list(rows.values())

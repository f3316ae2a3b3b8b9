"""A row of an experiment file as it is written, before it is put on a model and its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bigain.errors import BiGainError
from bigain.experiments.methods import FILE as METHODS
from bigain.experiments.methods import Method, method
from bigain.utils.setting_types import check_types, shown

# of a row: one of both, and what it may add
METHOD_KEYS = {"method": str, "methods": list[str]}
ROW_KEYS = {
    "title": str,
    "series": str,
    "overrides": list[str],
    "groups": list[str],
    "published": dict[str, str],
}


@dataclass(frozen=True)
class Written:
    """A row as the file holds it.

    Attributes:
        method: what it refers to.
        own: what the table adds, by `ROW_KEYS`.
    """

    method: Method
    own: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.method.reference

    @property
    def title(self) -> str:
        return self.method.fill(self.own["title"]) if "title" in self.own else self.method.title

    @property
    def series(self) -> str:
        """The one that the file gives; a row with a title of its own joins no other."""
        if "series" in self.own:
            return self.method.fill(self.own["series"])
        return self.title if "title" in self.own else self.method.series

    @property
    def overrides(self) -> list[str]:
        return [*self.method.overrides, *self.own.get("overrides", [])]


def written(given: Any) -> list[Written]:
    """The rows that one item of a file's rows stands for.

    Raises:
        BiGainError: if it is neither a reference nor a mapping of the known keys, or names no
            method.
    """
    row = {"method": given} if isinstance(given, str) else given
    if (
        not isinstance(row, dict)
        or len(METHOD_KEYS.keys() & set(row)) != 1
        or not set(row) <= METHOD_KEYS.keys() | ROW_KEYS.keys()
    ):
        raise BiGainError(
            f"a row is a method of {METHODS.name}, such as tome@0.5, or a mapping of method or "
            f"methods and any of {', '.join(sorted(ROW_KEYS))}; got {shown(given)}"
        )
    mend = "mend it as in the other files of experiments"
    check_types(f"row {shown(given)}", row, {**METHOD_KEYS, **ROW_KEYS}, mend)
    references = [row["method"]] if "method" in row else row["methods"]
    own = {key: value for key, value in row.items() if key in ROW_KEYS}
    rows = [Written(method(reference), own) for reference in references]
    for made in rows:
        made.series, made.title  # noqa: B018 (for what they refuse)
    return rows

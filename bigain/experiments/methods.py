"""The methods of experiments/methods.yaml: every one at every strength, by its reference.

A reference is a method's name with its strength, such as ``tome@0.5``, or the name alone of a
method that has none, such as ``none``. Tables, findings and benchmarks all use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

from bigain.errors import BiGainError
from bigain.experiments.yaml_files import check_keys, read_mapping, shown_path
from bigain.utils.paths import REPOSITORY
from bigain.utils.setting_types import shown

FILE = REPOSITORY / "experiments" / "methods.yaml"
KEYS = frozenset({"title", "overrides"})
TYPES = {
    "title": str,
    "overrides": list[str],
    "series": str,
    "strengths": list[str | float] | dict[str | float, dict[str, Any]],
}
LONGEST = 2_000  # characters of a title or override once its values are filled in


@dataclass(frozen=True)
class Method:
    """A compressor at one strength.

    Attributes:
        reference: what names it, such as ``tome@0.5``.
        title: its name as tables print it.
        series: what a figure joins by a line, a method at several strengths.
        overrides: what chooses it on the command line.
        values: what a title, a series or an override may name: "strength", and the named values
            of that strength.
    """

    reference: str
    title: str
    series: str
    overrides: Sequence[str]
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strength(self) -> float | None:
        """The number after the @; None if there is none, or it is no number."""
        value = self.values.get("strength")
        return float(value) if isinstance(value, int | float) else None

    def fill(self, template: str) -> str:
        """A title that a table gives it, such as "{series} on MLP" or "constant {strength}".

        Raises:
            BiGainError: if it names a value that the method does not have.
        """
        return _fill(self.reference, template, {**self.values, "series": self.series})


def method(reference: str) -> Method:
    """The method that a reference names.

    Raises:
        BiGainError: if there is none; it names those that may have been meant.
    """
    every = methods()
    if reference in every:
        return every[reference]
    names = dict.fromkeys(_name(known) for known in every)
    if _name(reference) in names:
        near = [known for known in every if _name(known) == _name(reference)]
    else:
        near = get_close_matches(reference, every, n=3)
    hint = f"did you mean {_either(near)}?" if near else f"it holds {', '.join(names)}"
    raise BiGainError(f"experiments/{FILE.name} holds no method {reference}; {hint}")


@cache
def methods() -> Mapping[str, Method]:
    """All of them by reference, in the order of the file."""
    return read(FILE)


def read(path: Path) -> dict[str, Method]:
    """The methods of a file.

    Raises:
        BiGainError: if the file cannot be read, an entry lacks a key, has an unknown one or one of
            another type, or names a value in a template that it does not have.
    """
    found: dict[str, Method] = {}
    for name, entry in read_mapping(path).items():
        where = f"{shown_path(path)}: {name}"
        if not isinstance(entry, dict):
            raise BiGainError(
                f"{where} must be a mapping of {', '.join(TYPES)}; got {shown(entry)}"
            )
        check_keys(where, entry, TYPES, KEYS)
        for reference, values in _references(name, entry.get("strengths")):
            try:
                title = _fill(reference, entry["title"], values)
                template = entry["series"] if "series" in entry else entry["title"]
                series = _fill(reference, template, values)
                overrides = [_fill(reference, override, values) for override in entry["overrides"]]
            except BiGainError as error:
                raise BiGainError(f"{shown_path(path)}: {error}") from None
            found[reference] = Method(reference, title, series, overrides, values)
    return found


def _references(name: str, strengths: Any) -> list[tuple[str, dict[str, Any]]]:
    """A method's references, each with the values of its templates."""
    if strengths is None:
        return [(name, {})]
    own = strengths if isinstance(strengths, dict) else {s: {} for s in strengths}
    return [(f"{name}@{s}", {"strength": s, **values}) for s, values in own.items()]


def _fill(reference: str, template: str, values: Mapping[str, Any]) -> str:
    """A template with each ``{name}`` replaced; attributes, indices and formats are refused."""
    try:
        parts = list(Formatter().parse(template))
        if any(name is not None and (spec or kind) for _, name, spec, kind in parts):
            raise ValueError
        text = "".join(
            before + ("" if name is None else str(values[name])) for before, name, *_ in parts
        )
    except (KeyError, ValueError):
        known = ", ".join(f"{{{name}}}" for name in values) or "none"
        raise BiGainError(
            f"{reference}: {shown(template)} names a value that the method does not have; it has "
            f"{known}, and braces of an override's own are doubled"
        ) from None
    if len(text) > LONGEST:
        raise BiGainError(
            f"{reference}: {shown(template)} becomes {len(text):,} characters long; shorten it to "
            f"{LONGEST:,} at most"
        )
    return text


def _name(reference: str) -> str:
    return reference.split("@")[0]


def _either(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last

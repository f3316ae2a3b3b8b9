"""The methods of experiments/methods.yaml: every one at every strength, by its reference.

A reference is a method's name with its strength, such as ``tome@0.5``, or the name alone of a
method that has none, such as ``none``. Tables, findings and benchmarks all use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bigain.errors import BiGainError
from bigain.utils.paths import REPOSITORY

FILE = REPOSITORY / "experiments" / "methods.yaml"
KEYS = {"title", "overrides"}
OPTIONAL = {"series", "strengths"}


@dataclass(frozen=True)
class Method:
    """A compressor at one strength.

    Attributes:
        reference: what names it, such as ``tome@0.5``.
        title: as tables print it.
        series: what a figure joins by a line, a method at several strengths.
        overrides: what chooses it on the command line.
        values: what a title or an override may name: "strength", and what that strength has beside.
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
        BiGainError: if an entry lacks a key, has an unknown one, or names a value in a template
            that it does not have.
    """
    found: dict[str, Method] = {}
    entries: Any = OmegaConf.to_container(OmegaConf.load(path))
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not KEYS <= set(entry) <= KEYS | OPTIONAL:
            raise BiGainError(
                f"{path.name}: {name} must have the keys {', '.join(sorted(KEYS))} and may have "
                f"{', '.join(sorted(OPTIONAL))}"
            )
        for reference, values in _references(name, entry.get("strengths")):
            title = _fill(reference, entry["title"], values)
            found[reference] = Method(
                reference,
                title,
                entry.get("series", title),
                [_fill(reference, override, values) for override in entry["overrides"]],
                values,
            )
    return found


def _references(name: str, strengths: Any) -> list[tuple[str, dict[str, Any]]]:
    """A method's references, each with the values of its templates."""
    if strengths is None:
        return [(name, {})]
    own = strengths if isinstance(strengths, dict) else {s: {} for s in strengths}
    return [(f"{name}@{s}", {"strength": s, **values}) for s, values in own.items()]


def _fill(reference: str, template: str, values: Mapping[str, Any]) -> str:
    try:
        return template.format_map(values)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in values) or "none"
        raise BiGainError(
            f"{reference}: {template!r} names a value that the method does not have; it has "
            f"{known}, and braces of an override's own are doubled"
        ) from error


def _name(reference: str) -> str:
    return reference.split("@")[0]


def _either(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last

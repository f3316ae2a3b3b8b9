"""Check settings against annotations, and the arguments of a class.

Settings come from a command line or a model's config.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from bigain.errors import BiGainError

WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "values of true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    NoneType: ("null", "nulls"),
    Any: ("any value", "values"),
}


def check_types(
    where: str, given: Mapping[str, Any], wanted: Mapping[str, Any], mend: str = ""
) -> None:
    """Refuse settings whose types are not those of ``wanted``.

    Args:
        where: what the settings belong to, as in ``task``, or the file that holds them.
        given: plain values by name; a nested object is a dict with ``_target_``.
        wanted: annotations by name; a setting without one may be anything.
        mend: how to mend it, for a setting in a file; empty for one on a command line.

    Raises:
        BiGainError: naming the first such setting, its value and the type that is accepted.
    """
    for name, value in given.items():
        hint = wanted.get(name, Any)
        if fits(value, hint):
            continue
        if mend:
            raise BiGainError(f"{where}: {name} must be {words(hint)}, got {shown(value)}; {mend}")
        key = f"{where}.{name}" if where else name
        quote = ""
        if not isinstance(value, str | list | dict | None) and fits("", hint):
            quote = f"; to give it as text, quote it twice: {key}=\"'{value}'\""
        raise BiGainError(f"{key} must be {words(hint)}; got {shown(value)}{quote}")


@cache
def annotations(built: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the parameters that a class or function accepts by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(built, eval_str=True).parameters.values()
    return {
        p.name: Any if p.annotation is p.empty else p.annotation
        for p in parameters
        if p.kind in kinds
    }


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has the type that an annotation asks for.

    A whole number also counts as a number; true, false, NaN and infinity do not, and text does not
    count as a list.
    """
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if hint in (None, NoneType):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    if hint is str:
        return isinstance(value, str)
    if kind in (list, tuple, Sequence):
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if kind in (dict, Mapping):
        return isinstance(value, dict) and all(
            fits(key, inner[0]) and fits(one, inner[1]) for key, one in value.items()
        )
    return isinstance(value, dict) and "_target_" in value


def words(hint: Any, plural: bool = False) -> str:
    """An annotation in words."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint in WORDS:
        return WORDS[hint][plural]
    if kind in (Union, UnionType):
        named = [words(one, plural) for one in inner]
        return " or ".join(dict.fromkeys(named))
    if kind in (list, tuple, Sequence):
        return f"a list of {words(inner[0], plural=True)}"
    if kind in (dict, Mapping):
        return "a mapping" if inner[1] is Any else f"a mapping to {words(inner[1], plural=True)}"
    return "a mapping with _target_, the name of its class"


def shown(value: Any) -> str:
    """A value as it is written on a command line, shortened to one line."""
    known = {None: "null", True: "true", False: "false"}
    text = known[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def check_number(name: str, field: str, value: Any) -> None:
    """Raise ValueError unless the value is a number; NaN and infinity are none."""
    if not fits(value, float):
        raise ValueError(f"{name}: {field} must be a number, got {value!r}")


def check_whole(name: str, field: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is a whole number of at least ``least``."""
    if not fits(value, int) or value < least:
        raise ValueError(
            f"{name}: {field} must be a whole number of at least {least}, got {value!r}"
        )


def check_choice(name: str, field: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of ``accepted``."""
    if value not in accepted:
        raise ValueError(f"{name}: {field} must be one of {', '.join(accepted)}; got {value!r}")

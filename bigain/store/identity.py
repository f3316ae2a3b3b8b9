"""What tells one run from another, in a form that new options leave as it is."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bigain.errors import BiGainError


def plain(value: Any) -> Any:
    """Plain JSON values of a compressor, a task or other settings, for an identity.

    A dataclass becomes its class's name and the fields that differ from their defaults, so a new
    option with a default leaves all identities as they were. A changed default, in turn, changes
    what old identities mean, so it takes another `bigain.experiments.job.PROTOCOL`. A compressor's
    strength (`bigain.compressors.base.strength`) is kept even at its default. A named value whose
    definition has changed carries the number of its definition, which the field's metadata hold.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f: _defined(f, plain(getattr(value, f.name))) for f in dataclasses.fields(value)}
        chosen = {f.name: v for f, v in fields.items() if not _is_default(f, v)}
        return {"class": type(value).__name__, **chosen}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} has no plain form; make it a dataclass")


def _defined(field: "dataclasses.Field[Any]", value: Any) -> Any:
    definitions = field.metadata.get("definitions", {})
    known = isinstance(value, str) and value in definitions
    return f"{value}, definition {definitions[value]}" if known else value


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.metadata.get("always_identity"):
        return False
    if field.default is not dataclasses.MISSING:
        return bool(plain(field.default) == value)
    if field.default_factory is not dataclasses.MISSING:
        return bool(plain(field.default_factory()) == value)
    return False


def fingerprint(identity: dict[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of ``identity`` as canonical JSON.

    Args:
        identity: all that can change a result, and nothing else; plain JSON values without NaN.

    Raises:
        BiGainError: if it holds anything else.
    """
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]


def canonical(data: Any, indent: int | None = None) -> str:
    """JSON that is the same for equal values, whatever the order of their keys.

    Raises:
        BiGainError: if ``data`` is not plain JSON.
    """
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(
            data, sort_keys=True, allow_nan=False, separators=separators, indent=indent
        )
    except (TypeError, ValueError) as error:
        raise BiGainError(
            f"expected plain JSON values (str, int, float, bool, None, list, dict) without NaN or "
            f"infinity: {error}"
        ) from error

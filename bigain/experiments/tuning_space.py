"""The axes of the space that ``task=tune`` searches, and their values as overrides."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from bigain.errors import BiGainError
from bigain.experiments.methods import method, methods
from bigain.utils.setting_types import shown

PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_][\w.@+-]*", re.I)  # needs no quotes


@dataclass(frozen=True)
class Axis:
    """A key of the space and its values, in an order that does not depend on how they were given.

    Attributes:
        ordered: whether the values are numbers.
    """

    key: str
    values: Sequence[Any]
    ordered: bool

    @classmethod
    def of(cls, key: str, given: Sequence[Any]) -> "Axis":
        """The axis of a key and the values that the user lists for it.

        Raises:
            BiGainError: if the key is "method" and a value names none.
        """
        values = _references(given) if key == "method" else list(given)
        distinct = {override_text(value): value for value in values}
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        order = sorted(distinct, key=lambda text: distinct[text] if numbers else text)
        return cls(key, [distinct[text] for text in order], numbers)

    def overrides(self, place: int) -> list[str]:
        """What chooses the value at this place on a command line."""
        value = self.values[place]
        if self.key == "method":
            return list(method(value).overrides)
        return [f"{self.key}={override_text(value)}"]

    def title(self, place: int) -> str:
        """The value at this place, as a candidate's title names it."""
        value = self.values[place]
        return value if self.key == "method" else f"{self.key}={override_text(value)}"


def override_text(value: Any) -> str:
    """A plain value as the right side of an override, such as ``[0,1]`` or ``{noise:0.8}``."""
    if isinstance(value, Mapping):
        pairs = (f"{override_text(k)}:{override_text(v)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(override_text, value))}]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _references(given: Sequence[Any]) -> list[str]:
    """Methods by reference; a name alone stands for all of its strengths."""
    found: list[str] = []
    for reference in given:
        if not isinstance(reference, str):
            raise BiGainError(
                f"task.space.method takes references such as tome@0.5; got {shown(reference)}"
            )
        every = [known for known in methods() if known.split("@")[0] == reference]
        found += every or [method(reference).reference]
    return found

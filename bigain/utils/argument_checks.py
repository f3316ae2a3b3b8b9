"""Checks of a class's arguments, whose errors name the class, the argument and what is accepted."""

from typing import Any

from bigain.utils.setting_types import fits


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

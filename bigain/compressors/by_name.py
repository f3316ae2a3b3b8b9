"""Compressors by their short names, as in ``compress(pipe, "lgtm", ratio=0.5)``."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from bigain.compressors.abm import ABM
from bigain.compressors.base import Compressor
from bigain.compressors.frequency import FrequencyFilter
from bigain.compressors.iekvd import IEKVD
from bigain.compressors.kv_merge import KVMerge
from bigain.compressors.kv_select import KVSelect
from bigain.compressors.lgtm import LGTM
from bigain.compressors.sito import SiTo
from bigain.compressors.todo import ToDo
from bigain.compressors.tome import ToMe

# as in configs/compressor
NAMES: dict[str, type[Compressor]] = {
    "abm": ABM,
    "frequency": FrequencyFilter,
    "iekvd": IEKVD,
    "kv_merge": KVMerge,
    "kv_select": KVSelect,
    "lgtm": LGTM,
    "sito": SiTo,
    "todo": ToDo,
    "tome": ToMe,
}

# the arguments of compress that a misspelt setting may have meant
OWN = ("blocks", "sites", "seed", "decide_on")


def compressor_of(given: object, settings: Mapping[str, Any]) -> Compressor:
    """The compressor that a user gave as an object, or by its name and settings.

    Capitals and hyphens in a name do not matter: "L-GTM" is "lgtm".

    Raises:
        TypeError: if ``given`` is neither, or the settings do not fit it.
        ValueError: if there is no such name, or a setting has a value that is not accepted.
    """
    accepted = ", ".join(NAMES)
    if isinstance(given, Compressor):
        if settings:
            raise TypeError(
                f"compress got {', '.join(settings)}, which is no argument of its own "
                f"({', '.join(OWN)}); settings of a compressor go into {type(given).__name__}(...)"
            )
        return given
    if isinstance(given, type) and issubclass(given, Compressor):
        raise TypeError(
            f"compress takes a compressor, got the class {given.__name__}; write "
            f"{given.__name__}(...) with its settings in the brackets, or one of the names "
            f"{accepted}"
        )
    if not isinstance(given, str):
        raise TypeError(
            f"compress takes a compressor such as LGTM(0.5), or one of the names {accepted}; got "
            f"{given!r}"
        )
    plain = {_plain(known): known for known in NAMES}
    if _plain(given) not in plain:
        hint = _hint(given.lower(), NAMES)
        raise ValueError(
            f"there is no compressor {given!r}{hint}; the names are {accepted}, and compressors of "
            "other compressors are objects, as in bigain.Anchored(bigain.ToMe(0.5))"
        )
    name = plain[_plain(given)]
    parameters = inspect.signature(NAMES[name]).parameters
    for setting in settings:
        if setting not in parameters:
            raise TypeError(
                f"{name} has no setting {setting}{_hint(setting, [*parameters, *OWN])}; it takes "
                f"{', '.join(parameters)}"
            )
    for setting, parameter in parameters.items():
        if parameter.default is parameter.empty and setting not in settings:
            raise TypeError(f"{name} needs a value for {setting}; it takes {', '.join(parameters)}")
    return NAMES[name](**settings)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _hint(given: str, known: Any) -> str:
    near = get_close_matches(given, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""

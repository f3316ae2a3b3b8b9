"""The base of errors meant for the user."""

import shlex
from collections.abc import Sequence


class BiGainError(Exception):
    """An error whose one line says what was given, what is accepted and how to mend it.

    The command line prints that line alone and exits with 1.
    """


class NotFiniteError(BiGainError):
    """The model returned NaN or infinity."""

    def __init__(self) -> None:
        super().__init__(
            "the model returned NaN or infinity; check the weights (model.path), or use "
            "dtype=float32 if this is half precision"
        )


class NotInstalledError(BiGainError, ImportError):
    """The packages of the extra ``experiments`` are not installed."""

    def __init__(self) -> None:
        super().__init__(
            "only the packages of `import bigain` are installed, and experiments need more: in a "
            "clone of BiGain, `make venv` installs them into .venv, and "
            "`pip install '.[experiments]'` into this environment"
        )


def one_line(error: object) -> str:
    """An error's message, or another text, without its line breaks."""
    return " ".join(str(error).split())


def reason_of(error: BaseException) -> str:
    """The beginning of an error's message in one line; the name of its class if it has none."""
    return one_line(error)[:200] or type(error).__name__


def shortened(text: object, most: int = 400) -> str:
    """A text in one line of at most so many characters."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def some(names: Sequence[str], most: int = 10) -> str:
    """The first names, and a mark if there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def shell(*words: object) -> str:
    """A command to type, such as ``rm FILE``, in backquotes and quoted for a shell."""
    return f"`{shlex.join(map(str, words))}`"

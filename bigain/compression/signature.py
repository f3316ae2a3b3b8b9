"""The arguments of a call by name, whether passed by position or by keyword."""

import inspect
from typing import Any

from torch import nn

from bigain.compression.wrapping import unwrap


class Signature:
    """The parameters of a module's forward.

    It is read once, and gives the same results as ``inspect.Signature.bind`` at a fraction of the
    cost.

    Args:
        module: the module, wrapped or not; its class's forward is read.
    """

    def __init__(self, module: nn.Module) -> None:
        self._owner = type(unwrap(module)).__name__
        parameters = inspect.signature(type(unwrap(module)).forward).parameters
        self._positions = {name: i - 1 for i, name in enumerate(parameters)}  # without self
        self._defaults = {
            name: None if parameter.default is parameter.empty else parameter.default
            for name, parameter in parameters.items()
        }
        self._required = {
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }

    def read(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The value that a call passes for ``name``, or the default.

        A name that only ``**kwargs`` can hold has the default None.

        Raises:
            TypeError: if the call lacks a required argument.
        """
        position = self._positions.get(name, len(args))
        if position < len(args):
            return args[position]
        if name in kwargs:
            return kwargs[name]
        if name in self._required:
            raise TypeError(f"{self._owner}.forward was called without {name}")
        return self._defaults.get(name)

    def replace(
        self, args: tuple, kwargs: dict[str, Any], values: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """The same call with new values, each passed by position or by name as before."""
        positional, named = list(args), dict(kwargs)
        for name, value in values.items():
            position = self._positions.get(name, len(args))
            if position < len(args):
                positional[position] = value
            else:
                named[name] = value
        return tuple(positional), named

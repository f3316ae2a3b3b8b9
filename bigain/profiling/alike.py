"""Models that are built anew from another one's config."""

from inspect import signature
from typing import Any


def alike(model: Any, **changes: Any) -> Any:
    """A model of the same class and config on torch's default device, with weights of its own.

    Args:
        model: a model of diffusers.
        changes: other settings of its config. FLUX.1's has no ``sample_size``; given one, the new
            config keeps it, and its adapter reads it.
    """
    config = {**model.config, **changes}
    taken = signature(type(model).__init__).parameters
    found = type(model).from_config({name: config[name] for name in taken if name in config})
    others = config.keys() - taken.keys()  # from_config keeps these too, but warns of them
    found.register_to_config(**{n: config[n] for n in others if not n.startswith("_")})
    return found

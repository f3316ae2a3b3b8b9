"""The device to compute on."""

import torch

from bigain.errors import BiGainError


def device_of(name: str) -> torch.device:
    """The device a configuration names; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BiGainError(f"device={name} cannot be used ({reason}); use auto or cpu") from error
    return device

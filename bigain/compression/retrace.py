"""Make torch.compile notice added and removed hooks."""

from functools import partial, update_wrapper

from torch import nn


class Retrace:
    """Until this is removed, torch.compile does not reuse earlier graphs of ``module``.

    Compiled code does not check whether a module has gained or lost hooks
    (torch._dynamo.config.skip_nnmodule_hook_guards), but it does check whether the module has a
    forward of its own. diffusers' HookRegistry also sets one, but its removal leaves that forward
    and a ``_diffusers_hook`` on the module, and discards what accelerate has put around it in the
    meantime, so it would not restore the model exactly.

    Something that wraps the forward meanwhile may put this one back after it was removed. It is
    therefore a partial of the original: copied and pickled, it belongs to the copy.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.own = module.__dict__.get("forward")  # accelerate sets one
        self.original = module.forward
        self.forward = update_wrapper(partial(self.original), self.original)
        module.forward = self.forward

    def remove(self) -> None:
        """Restore the module's original forward, beneath anything that has wrapped it since."""
        attributes = self.module.__dict__
        if attributes.get("forward") is not self.forward:
            if attributes.get("_old_forward") is self.forward:  # accelerate has wrapped it since
                attributes["_old_forward"] = self.original
        elif self.own is None:
            del self.module.forward
        else:
            self.module.forward = self.own

"""What torch.compile, DistributedDataParallel and PEFT wrap around a module."""

from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DistributedDataParallel


def unwrap(module: Any) -> Any:
    """The module inside all wrappers; anything that is not wrapped is returned unchanged.

    Raises:
        ValueError: if it was compiled ahead of time.
    """
    while True:
        if isinstance(module, DistributedDataParallel):
            module = module.module
        elif isinstance(module, OptimizedModule):
            if type(module.forward).__name__ == "AOTCompiledModel":
                raise ValueError(
                    "this model was compiled ahead of time and takes no compressor; give compress "
                    "the model itself, and compile it with torch.compile"
                )
            module = module._orig_mod
        elif isinstance(module, nn.Module) and hasattr(module, "get_base_model"):  # a PeftModel
            module = module.get_base_model()  # type: ignore[operator]
        else:
            return module

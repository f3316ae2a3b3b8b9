"""Compute only once what the classes of one noisy image share.

A classifier evaluates the model on the same noisy image once per class, and guidance does so twice.
A U-Net first sees the text at its first cross-attention, so everything before that is the same for
all classes, and the keys and values of a text are the same for every image. Both savings are exact:
results change by no more than rounding. The adapters (`bigain.compression.architectures`) say what
each family shares. Sharing a compressor's plans between classes is not exact, but divides the cost
of matching by the number of classes.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigain.compression.architectures import architecture_of
from bigain.compression.batch_groups import Groups, SharedBlock, of_samples
from bigain.compression.handle import Attachment
from bigain.compression.retrace import Retrace
from bigain.compressors import Compressor
from bigain.utils.randomness import KeyedStream

PLANS = ("shared", "per_class")
MOST = 4 * 2**30  # bytes of keys and values to keep; beyond that, they are computed every time


def shares_plans(compressor: Compressor) -> bool:
    """Whether one plan may serve all classes, and is not the same for all of them anyway."""
    return compressor.paired and compressor.content_dependent


class Sharing:
    """Hooks on a model that share work between the samples of a batch, and texts between batches.

    Use it in a ``with`` block, inside the compressor's block if there is one.

    Args:
        model: a denoiser, or a pipeline that holds one.
        attachment: the attachment of the model's compressor, if it has one.
        plans: one of `PLANS`: "shared" decides in every block for all classes of a noisy image at
            once, by the tokens of one of them; "per_class" for each of them, as the published code
            does. It matters to compressors that look at tokens and draw alike for all classes.
        trials: whether the forwards are the trials of a classifier, not the steps of a sampling
            run; `bigain.Anchored` then takes the first of each of these groups for its anchor,
            whatever ``plans`` says.

    Example:
        K texts [K, L, C] for one noisy image x [1, c, h, w]:

        >>> with bigain.compress(pipe, bigain.LGTM(0.5)) as attachment:
        ...     with Sharing(pipe, attachment) as sharing:
        ...         sharing.conditions(texts)
        ...         one_image = Groups.copies(1, len(texts), x.device)
        ...         condition = sharing.batch(torch.arange(len(texts)), one_image)
        ...         noise = pipe.unet(x.repeat(len(texts), 1, 1, 1), t, condition).sample
    """

    def __init__(
        self,
        model: Any,
        attachment: Attachment | None = None,
        plans: str = "shared",
        trials: bool = False,
    ) -> None:
        if plans not in PLANS:
            raise ValueError(f"plans must be one of {', '.join(PLANS)}; got {plans!r}")
        self.plans, self._trials = plans, trials
        architecture = architecture_of(model)
        self._attachment = attachment
        self._block = architecture.first_block()
        self._before = architecture.before_condition()
        self._projections = architecture.condition_projections()
        self._condition = torch.zeros(0)
        self._tables: list[Tensor] = []
        self._classes = torch.zeros(0, dtype=torch.int64)
        self._groups: Groups | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "Sharing":
        if self._attachment is not None:
            self._attachment.trials = self._trials
        keep = self._handles.append
        for module in self._before:
            keep(Retrace(module))
            # outside a compressor's hooks, which then see only one sample of each group
            keep(module.register_forward_pre_hook(self._once, with_kwargs=True, prepend=True))
            keep(module.register_forward_hook(self._every))
        for index, projection in enumerate(self._projections):
            keep(Retrace(projection))
            keep(projection.register_forward_pre_hook(self._nothing))
            keep(projection.register_forward_hook(partial(self._known, index)))
        return self

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._tables.clear()
        self._share(None)
        if self._attachment is not None:
            self._attachment.groups, self._attachment.trials = None, False

    @property
    def plans_together(self) -> bool:
        """Whether one plan serves all classes of a noisy image."""
        if self._attachment is None:
            return False
        compressor = self._attachment.compressor
        anchored = self._trials and compressor.anchor_every is not None
        return anchored or (self.plans == "shared" and shares_plans(compressor))

    def uncompressed(self) -> AbstractContextManager[None]:
        """Inside, the compressor is paused."""
        return nullcontext() if self._attachment is None else self._attachment.paused()

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return len(self._condition)

    def conditions(self, condition: Tensor) -> None:
        """Prepare for forwards with K classes.

        Args:
            condition: the condition of each class as the model takes it, [K, ...].
        """
        self._condition = condition
        self._tables.clear()
        width = sum(projection.out_features for projection in self._projections)
        if width and condition[..., 0].numel() * width * condition.element_size() <= MOST:
            with torch.no_grad():
                self._tables += [F.linear(condition, p.weight, p.bias) for p in self._projections]

    def batch(
        self,
        classes: Tensor,
        groups: Groups | None = None,
        keys: Tensor | None = None,
        together: Groups | None = None,
    ) -> Tensor:
        """Prepare for a forward with B samples.

        Args:
            classes: int64 [B], the class of each sample.
            groups: groups of samples with equal latents, timesteps and keys.
            keys: int64 [B], the samples' keys for random compressors.
            together: groups of samples with equal timesteps and keys that share one plan in every
                block under ``plans="shared"``, made from the first of each.

        Returns:
            The condition to pass to the model, [B, ...].
        """
        self._share(groups)
        if self._attachment is not None:
            self._attachment.groups = together if self.plans_together else None
        if self._attachment is not None and keys is not None:
            paired = self._attachment.compressor.paired
            self._attachment.sample_keys = keys if paired else KeyedStream(keys).fork(classes).keys
        self._classes = classes
        if self._tables:  # the model reads only its shape
            return self._condition[:1].expand(len(classes), *self._condition.shape[1:])
        return self._condition[classes]

    def _share(self, groups: Groups | None) -> None:
        attachment = self._attachment
        if attachment is not None and not attachment.compressor.paired:
            groups = None  # classes differ from the first block on
        self._groups = groups
        if attachment is None:
            return
        attachment.shared = None
        if groups is None or self._block is None:
            return
        attention = self._block.site("self_attention") in self._before
        # the input of an attention that is not shared has seen the class, and cannot decide for all
        if attention or attachment.decide_on == "block_input":
            attachment.shared = SharedBlock(self._block.module, groups, attention)

    def _once(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self._groups is None:
            return None
        return of_samples(args, kwargs, self._groups.first, len(self._groups.group))

    def _every(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output if self._groups is None else output[self._groups.group]

    def _nothing(self, module: nn.Module, args: tuple) -> tuple:
        """Pass the projection of the text an empty batch, so that it costs nothing."""
        return (args[0][:0], *args[1:]) if self._tables else args

    def _known(self, index: int, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self._tables[index][self._classes] if self._tables else output

"""Do the errors of compressed blocks add up or cancel?

A classifier compares the denoising errors of classes. Compressing a block shifts the difference
between two classes' errors, and the shifts of blocks that err in the same way add up, while those
of blocks that err independently grow only as the square root of their number. Here the blocks of a
model are compressed one by one, and then all together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bigain.backbones import Backbone
from bigain.compression import Attachment
from bigain.compression.handle import attached
from bigain.compression.sharing import Sharing
from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.experiments.methods import method
from bigain.experiments.runner import load
from bigain.reporting.all_trials import MODELS
from bigain.tasks.trials import denoising_errors
from bigain.utils import files
from bigain.utils.randomness import KeyedStream
from bigain.utils.tables import interval, markdown

METHODS = (
    *("tome_unpaired@0.7", "tome@0.7", "tome_first@0.7", "tome_cycle@0.7"),
    *("lgtm@0.7", "lgtm_cycle@0.7", "iekvd@2", "iekvd_cycle@2"),
)
TIMESTEPS = (125, 525, 925)
RESAMPLES = 1000
LEGEND = (
    "A block's shift is the change in the difference between two classes' errors when that block "
    "alone is compressed. The correlation is the mean over pairs of blocks of the product of their "
    "shifts, each divided by its root mean square; a shift common to all images counts too. What "
    "is added is a mean squared shift, as a share of the variance of the difference without "
    "compression. All over sum is what all blocks add together over the sum of what each adds "
    "alone: 1 if they err independently, and the number of blocks if they err alike. Brackets are "
    "95% bootstrap intervals over images."
)


class Shifts(NamedTuple):
    """How far the difference between two classes' errors moves, for I images at T timesteps.

    Attributes:
        exact: the difference without compression, float64 [I, T].
        alone: what each of L blocks adds to it if it alone is compressed, float64 [I, T, L].
        together: what all of them add, float64 [I, T].
    """

    exact: NDArray[np.float64]
    alone: NDArray[np.float64]
    together: NDArray[np.float64]


def depth(out: Path, overrides: Sequence[str]) -> str:
    """Measure `METHODS` on the embedded models; write and return ``<out>/depth.md``.

    Args:
        overrides: the images, such as start=0 and limit=128.
    """
    header = ["Model", "Method", "Correlation of two blocks", "Added by one block"]
    lines = [[*header, "Added by all blocks", "All over sum"]]
    for name, model in MODELS.items():
        backbone, exact = None, None
        for reference in METHODS:
            chosen = method(reference)
            asked = [f"model={model}", "task=classify", "blocks=all"]
            job = Job(settings_of(composed([*asked, *chosen.overrides, *overrides])))
            backbone = backbone or load(job)
            shifts = measure(job, backbone, TIMESTEPS, exact)
            exact, values = shifts.exact, row(shifts)
            specs = ("+.2f", ".3f", ".2f", ".2f")
            texts = [interval(value, spec) for value, spec in zip(values, specs, strict=True)]
            lines.append([name, chosen.title, *texts])
    text = f"# Errors over depth\n\nOn the images {' '.join(overrides)}.\n\n{markdown(lines)}\n"
    text += f"\n{LEGEND}\n"
    files.make_folder(out)
    files.write_text(out / "depth.md", text)
    return text


@torch.inference_mode()
def measure(
    job: Job,
    backbone: Backbone,
    timesteps: Sequence[int],
    exact: NDArray[np.float64] | None = None,
) -> Shifts:
    """The shifts between each image's first label and the class after it.

    Both classes have the same noise and random draws as in classification.

    Args:
        exact: `Shifts.exact` of the same images and timesteps under any method; None computes it.

    Raises:
        BiGainError: if other sites than self-attention are compressed.
    """
    if job.setup.sites != ("self_attention",):
        raise BiGainError(
            "this analysis switches self-attention alone on and off, got "
            f"sites=[{','.join(job.setup.sites)}]; remove it"
        )
    setup, condition = job.setup, backbone.condition(job.dataset)
    where: dict[str, Any] = {"blocks": job.blocks, "sites": setup.sites, "seed": setup.seed}
    found: list[Tensor] = []
    with (
        attached(backbone.denoiser, job.compressor, decide_on=job.decide_on, **where) as handle,
        Sharing(backbone.denoiser, handle, plans="per_class", trials=True) as sharing,
    ):
        assert handle is not None
        sharing.conditions(condition)
        every = set(range(len(handle.blocks)))
        runs: list[set[int]] = [*({number} for number in every), every]
        if exact is None:
            runs.insert(0, set())
        for batch in _batches(job, backbone, timesteps):
            parts = []
            for chosen in runs:
                with compressing(handle, chosen):
                    parts.append(_differences(backbone, sharing, batch))
            found.append(torch.stack(parts, -1))
    differences = list(torch.cat(found).numpy().transpose(2, 0, 1))
    if exact is None:
        exact = differences.pop(0)
    *alone, together = differences
    return Shifts(exact, np.stack([one - exact for one in alone], -1), together - exact)


@contextmanager
def compressing(attachment: Attachment, chosen: set[int]) -> Iterator[None]:
    """Inside the ``with`` block, only the self-attention at these positions is compressed."""
    inputs: dict[int, tuple[tuple, dict]] = {}

    def before(number: int, module: Any, args: tuple, kwargs: dict) -> None:
        inputs[number] = (args, kwargs)

    def after(number: int, module: Any, args: tuple, output: Any) -> Any:
        args, kwargs = inputs.pop(number)
        # without the hooks, which compress
        return output if number in chosen else module.forward(*args, **kwargs)

    handles = []
    for number, block in enumerate(attachment.blocks):
        module = block.parts("self_attention")[0].module
        first = {"with_kwargs": True, "prepend": True}  # before the tokens are merged
        handles.append(module.register_forward_pre_hook(partial(before, number), **first))
        handles.append(module.register_forward_hook(partial(after, number)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Batch(NamedTuple):
    """B images, each twice: with its first label, and then with the class after it.

    Attributes:
        latents: [2B, c, h, w].
        classes, keys: int64 [2B].
        noises: the noise [2B, c, h, w] of each timestep, and the timestep itself, [2B].
    """

    latents: Tensor
    classes: Tensor
    keys: Tensor
    noises: Sequence[tuple[Tensor, Tensor]]


def _batches(job: Job, backbone: Backbone, timesteps: Sequence[int]) -> Iterator[Batch]:
    place = {image_id: i for i, image_id in enumerate(job.dataset.ids())}
    for start in range(0, len(job.ids), job.setup.batch_size):
        ids = job.ids[start : start + job.setup.batch_size]
        examples = [job.dataset[place[image_id]] for image_id in ids]
        latents = backbone.encode(torch.stack([e.image for e in examples])).repeat(2, 1, 1, 1)
        labels = torch.tensor([e.labels[0] for e in examples], device=latents.device)
        classes = torch.cat([labels, (labels + 1) % len(job.dataset.classes)])
        twice = [*ids, *ids]
        keys = KeyedStream.of(job.setup.seed, "image", twice, latents.device).keys
        stream = KeyedStream.of(job.setup.seed, "noise", twice, latents.device)
        times = [backbone.schedule.timesteps([step] * len(twice)) for step in timesteps]
        noises = [(stream.fork(t).normal(*latents.shape[1:]), t) for t in times]
        yield Batch(latents, classes, keys, noises)


def _differences(backbone: Backbone, sharing: Sharing, batch: Batch) -> Tensor:
    """The error of the class after the label less that of the label, float64 [B, T]."""
    columns = []
    for noise, t in batch.noises:
        errors = denoising_errors(
            backbone, sharing, "l2", batch.latents, noise, t, batch.classes, None, batch.keys
        )
        label, other = errors.double().chunk(2)
        columns.append(other - label)
    return torch.stack(columns, 1).cpu()


def row(shifts: Shifts) -> list[tuple[float, float, float]]:
    """Correlation and the three values of `added`, with 95% bootstrap intervals over images."""
    rng = np.random.default_rng(0)
    count = len(shifts.exact)
    draws = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(count, size=count)
        resampled = Shifts(*(part[chosen] for part in shifts))
        draws.append((correlation(resampled), *added(resampled)))
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return list(zip((correlation(shifts), *added(shifts)), low, high, strict=True))


def correlation(shifts: Shifts) -> float:
    """The correlation of two blocks' shifts over images, averaged over timesteps and pairs.

    Shifts are not centred, because the part that all images share adds up as well.
    """
    alone = shifts.alone / np.sqrt((shifts.alone**2).mean(0))
    matrices = np.einsum("itl,itm->tlm", alone, alone) / len(alone)
    blocks = alone.shape[2]
    return float(((matrices.sum((1, 2)) - blocks) / (blocks * (blocks - 1))).mean())


def added(shifts: Shifts) -> tuple[float, float, float]:
    """What compression adds to the variance between two classes, relative to the exact one.

    Mean squares over images and timesteps, in which each timestep counts in proportion to its exact
    differences.

    Returns:
        Of one block, averaged over blocks; of all blocks; and the latter over the sum of the
        blocks', which is 1 if they err independently and L if all err alike.
    """
    usual = shifts.exact.var(0).sum()
    each = (shifts.alone**2).mean(0).sum(0)
    together = (shifts.together**2).mean(0).sum()
    return float(each.mean() / usual), float(together / usual), float(together / each.sum())

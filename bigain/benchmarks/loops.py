"""One classification in stages, as a race, and by a plain loop like the published one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bigain.benchmarks.models import Subject
from bigain.compression import Attachment, attached
from bigain.compression.sharing import Sharing
from bigain.compressors import Compressor
from bigain.tasks.classify import Classify
from bigain.tasks.generate import first_ids
from bigain.tasks.trials import LOSSES, Scores, keyed_noise


@dataclass(frozen=True)
class Loop:
    """One classification, to be carried out in any of the ways below.

    Attributes:
        noise, keys: as `bigain.tasks.trials.keyed_noise` returns them.
        plans: one of `bigain.compression.sharing.PLANS`; the plain loop decides per class.
    """

    model: Subject
    protocol: Classify
    noise: Tensor
    keys: Tensor
    attachment: Attachment | None
    batch_size: int
    plans: str = "per_class"
    smallest_batch: int = 1

    def ours(self) -> Scores:
        """Pack the evaluations of all images into batches, and do shared work once."""
        with Sharing(self.model.backbone.denoiser, self.attachment, self.plans) as sharing:
            sharing.conditions(self.model.condition)
            sizes = (self.batch_size, self.smallest_batch)
            stages = self.protocol.staged(self.model.backbone, sharing, *sizes)
            return stages.run(self.model.latents, self.noise, self.keys)

    @torch.inference_mode()
    def race(self) -> Scores:
        """As `ours`, but drop each class as soon as it can hardly win any more."""
        protocol = Classify(self.protocol.samples, strategy="race", loss=self.protocol.loss)
        count = len(self.model.latents)
        prepared = (first_ids(count), [()] * count, self.model.latents, self.noise, self.keys)
        with Sharing(self.model.backbone.denoiser, self.attachment, self.plans) as sharing:
            sharing.conditions(self.model.condition)
            sizes = (self.batch_size, self.smallest_batch)
            track = protocol.track(self.model.backbone, sharing, *sizes)
            found = [scores for *_, scores in track.in_groups([prepared], lambda count: None)]
        return Scores(
            torch.cat([scores.trials for scores in found]),
            torch.cat([scores.predictions for scores in found]),
        )

    @torch.inference_mode()
    def plain(self) -> Scores:
        """Go image by image and batch by batch, share nothing, and fetch every error."""
        model, protocol = self.model, self.protocol
        backbone, loss = model.backbone, LOSSES[protocol.loss]
        schedule = backbone.schedule
        times = protocol.timesteps(len(schedule))
        trials = torch.full((len(model.latents), len(model.condition), protocol.trials), torch.nan)
        predictions = []
        for i, latent in enumerate(model.latents):
            alive = list(range(len(model.condition)))
            first = 0
            for stage, keep in zip(protocol.stages(), protocol.keep, strict=True):
                evaluations = [(first + s, times[p], k) for s, p in enumerate(stage) for k in alive]
                first += len(stage)
                for start in range(0, len(evaluations), self.batch_size):
                    batch = evaluations[start : start + self.batch_size]
                    tried, ts, classes = zip(*batch, strict=True)
                    t = torch.tensor(ts, device=latent.device)
                    eps = self.noise[i, list(tried)]
                    x = schedule.noised(latent.expand_as(eps), eps, t)
                    if self.attachment is not None:
                        self.attachment.sample_keys = self.keys[i].expand(len(t))
                    predicted = backbone.predict(x, t, model.condition[list(classes)])
                    trials[i, list(classes), list(tried)] = loss(predicted, eps).cpu()
                errors = trials[i, alive].nanmean(-1)
                alive = [alive[j] for j in errors.argsort()[:keep]]
            predictions.append(alive[0])
        return Scores(trials, torch.tensor(predictions))


@contextmanager
def side(
    how: Callable[[Loop], Scores],
    model: Subject,
    *,
    protocol: Classify,
    compressor: Compressor | None,
    batch_size: int,
    seed: int,
    plans: str = "per_class",
    smallest_batch: int = 1,
) -> Iterator[Callable[[], Scores]]:
    """A side to time: the classification by one of the ways of `Loop`."""
    noise, keys = keyed_noise(protocol.trials, model.latents, first_ids(len(model.latents)), seed)
    with attached(model.backbone.denoiser, compressor, seed=seed) as attachment:
        loop = Loop(model, protocol, noise, keys, attachment, batch_size, plans, smallest_batch)
        yield partial(how, loop)

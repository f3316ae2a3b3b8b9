"""Two ways through the same classification: this project's, and a plain one like the published."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bigain.attach import Attachment, compress
from bigain.randomness import KeyedStream
from bigain.sharing import Sharing
from bigain.tasks.classify import LOSSES, Classify, Scores, classify
from scripts.benchmarking.models import Subject


@contextmanager
def side(
    how: Callable[..., Scores],
    model: Subject,
    *,
    protocol: Classify,
    compressor: Any,
    batch_size: int,
    seed: int,
) -> Iterator[Callable[[], Scores]]:
    denoiser = model.backbone.denoiser
    ids = [f"{i:06d}" for i in range(len(model.latents))]
    device, shape = model.latents.device, model.latents.shape[1:]
    stream = KeyedStream.of(seed, "noise", ids, device)
    noise = torch.stack([stream.fork(s).normal(*shape) for s in range(protocol.trials)], 1)
    keys = KeyedStream.of(seed, "image", ids, device).keys
    attached = nullcontext() if compressor is None else compress(denoiser, compressor, seed=seed)
    with attached as attachment:
        yield partial(how, model, protocol, noise, keys, attachment, batch_size)


def ours(
    model: Subject,
    protocol: Classify,
    noise: Tensor,
    keys: Tensor,
    attachment: Attachment | None,
    batch_size: int,
) -> Scores:
    with Sharing(model.backbone.denoiser, attachment) as sharing:
        sharing.conditions(model.condition)
        return classify(
            model.backbone,
            protocol,
            model.latents,
            noise,
            sharing,
            batch_size=batch_size,
            sample_keys=keys,
        )


@torch.inference_mode()
def plain(
    model: Subject,
    protocol: Classify,
    noise: Tensor,
    keys: Tensor,
    attachment: Attachment | None,
    batch_size: int,
) -> Scores:
    backbone, loss = model.backbone, LOSSES[protocol.loss]
    times = protocol.timesteps(len(backbone.alphas_cumprod))
    trials = torch.full((len(model.latents), len(model.condition), protocol.trials), torch.nan)
    predictions = []
    for i, latent in enumerate(model.latents):
        alive = list(range(len(model.condition)))
        first = 0
        for stage, keep in zip(protocol.stages(), protocol.keep, strict=True):
            cells = [(first + s, times[p], k) for s, p in enumerate(stage) for k in alive]
            first += len(stage)
            for start in range(0, len(cells), batch_size):
                draws, ts, classes = zip(*cells[start : start + batch_size], strict=True)
                t = torch.tensor(ts, device=latent.device)
                eps = noise[i, list(draws)]
                a = backbone.alphas_cumprod[t].view(-1, 1, 1, 1)
                x = latent * a.sqrt() + eps * (1 - a).sqrt()
                if attachment is not None:
                    attachment.sample_keys = keys[i].expand(len(t))
                predicted = backbone.predict_noise(x, t, model.condition[list(classes)])
                values = loss(predicted, eps, reduction="none").mean((1, 2, 3))
                trials[i, list(classes), list(draws)] = values.cpu()
            errors = trials[i, alive].nanmean(-1)
            alive = [alive[j] for j in errors.argsort()[:keep]]
        predictions.append(alive[0])
    return Scores(trials, torch.tensor(predictions))

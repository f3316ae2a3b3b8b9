"""Neither the batch size nor the number of threads changes a float32 result by a bit on a CPU."""

from functools import cache

import pytest
import torch

from bigain.backbones import Backbone
from bigain.compression import attached
from bigain.compression.sharing import Sharing
from bigain.experiments import runner
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.tasks.generate import generate
from bigain.tasks.trials import keyed_noise

BATCHES = (1, 7, 48, 64)
METHODS = ["none", "tome@0.7", "lgtm@0.5", "lgtm@0.7", "sito@0.7", "abm@0.5", "todo", "iekvd"]
MODELS = ["sd_fashion", "dit_fashion"]
PLANS = [*((method, "shared") for method in METHODS), *((m, "per_class") for m in METHODS[1:3])]
# the third model takes three times as long
TRIED = [*((m, *how) for m in MODELS for how in PLANS), ("sd3_fashion", "lgtm@0.5", "shared")]
IMAGES = 2


@cache
def _loaded(model: str) -> Backbone:
    return runner.load(_job(model, "none", "classify"))


def _job(model: str, method: str, task: str, *more: str) -> Job:
    name, _, ratio = method.partition("@")
    strength = [f"compressor.ratio={ratio}"] if ratio else []
    chosen = [f"model={model}", f"compressor={name}", f"task={task}", "blocks=all", *strength]
    return Job(settings_of(composed([*chosen, f"limit={IMAGES}", *more])))


def _trials(job: Job, backbone: Backbone, batch_size: int, plans: str = "shared") -> torch.Tensor:
    images = torch.stack([job.dataset[i].image for i in range(IMAGES)])
    latents = backbone.encode(images)
    noise, keys = keyed_noise(job.task.trials, latents, job.ids, seed=0)
    where = {"blocks": job.blocks, "sites": job.setup.sites, "seed": 0}
    with (
        attached(backbone.denoiser, job.compressor, **where) as attachment,
        Sharing(backbone.denoiser, attachment, plans) as sharing,
    ):
        sharing.conditions(backbone.condition(job.dataset))
        stages = job.task.staged(backbone, sharing, batch_size, job.setup.smallest_batch)
        found = stages.run(latents, noise, keys)
    return found.trials.nan_to_num(-1)


def _pixels(job: Job, backbone: Backbone, batch_size: int) -> list[bytes]:
    where = {"blocks": job.blocks, "sites": job.setup.sites, "seed": 0}
    with (
        attached(backbone.denoiser, job.compressor, **where) as attachment,
        Sharing(backbone.denoiser, attachment) as sharing,
    ):
        drawn = []
        for start in range(0, IMAGES, batch_size):
            ids = job.ids[start : start + batch_size]
            condition = backbone.condition_images(job.dataset, [int(i) for i in ids])
            smallest = job.setup.smallest_batch
            images, _ = generate(backbone, job.task, condition, ids, 0, sharing, smallest)
            drawn += [image.tobytes() for image in images]
    return drawn


@pytest.mark.parametrize(("model", "method", "plans"), TRIED)
def test_errors_do_not_depend_on_the_batch_size(model: str, method: str, plans: str) -> None:
    job = _job(model, method, "classify", "task.samples=[1]", "task.keep=[1]")
    want = _trials(job, _loaded(model), BATCHES[-1], plans)
    for batch_size in BATCHES[:-1]:
        assert torch.equal(_trials(job, _loaded(model), batch_size, plans), want), batch_size


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_pixels_do_not_depend_on_the_batch_size(model: str, method: str) -> None:
    job = _job(model, method, "generate", "task.steps=2", "task.guidance=2", "features=none")
    want = _pixels(job, _loaded(model), IMAGES)
    assert _pixels(job, _loaded(model), 1) == want


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["none", "lgtm@0.5", "sito@0.7"])
def test_results_do_not_depend_on_threads(model: str, method: str) -> None:
    job = _job(model, method, "classify", "task.samples=[1]", "task.keep=[1]")
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(_trials(job, _loaded(model), 16))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])

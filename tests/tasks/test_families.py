"""Whole runs of SDXL, PixArt, Stable Diffusion 3 and Flux, by the commands that users type."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigain.backbones import StableDiffusion3
from bigain.errors import BiGainError
from bigain.experiments.runner import execute
from bigain.tasks.generate import folder as images_of
from bigain.utils.images import open_folder
from bigain.utils.randomness import KeyedStream
from tests import saved_families, tiny_data

FLUX = ["model.sample_size=8"]
MODELS: dict[str, Any] = {
    "sdxl": (saved_families.sdxl, {}, []),
    "pixart_alpha": (saved_families.pixart, {}, []),
    "pixart_sigma": (saved_families.pixart, {"sigma": True}, []),
    "sd3_medium": (saved_families.sd3, {"dual_attention_layers": (), "qk_norm": None}, []),
    "sd35_medium": (saved_families.sd3, {}, []),
    "sd35_large": (saved_families.sd3, {"dual_attention_layers": ()}, []),
    "flux_dev": (saved_families.flux, {}, FLUX),
    "flux_schnell": (saved_families.flux, {"schnell": True}, FLUX),
}
PROTOCOL = ["task=classify", "task.samples=[1,2]", "task.keep=[2,1]", "limit=1"]
FLOWS = [name for name in MODELS if name.startswith(("sd3", "flux"))]


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    return tiny_data.pets(tmp_path_factory.mktemp("pets"))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name, **settings) for name, (make, settings, _) in MODELS.items()}


@pytest.fixture
def overrides(models, pets, tmp_path):
    """Of a run on the tiny pipeline; the model's own config says all else."""

    def made(name, *more):
        model = [f"model={name}", f"model.path={models[name]}", "model.image_size=16"]
        data = ["dataset=pets", f"dataset.root={pets}", f"results={tmp_path}"]
        return [*model, *MODELS[name][2], *data, "compressor=none", *more]

    return made


@pytest.fixture
def run(configure, overrides):
    return lambda *given: execute(configure(overrides(*given)))


@pytest.mark.parametrize("name", MODELS)
def test_classification(run, name):
    found = run(name, *PROTOCOL)
    rows = found.rows()
    errors = np.stack(list(rows["errors"]))
    assert errors.shape == (1, 37) and np.isfinite(errors).all() and (errors.std(1) > 0).all()
    assert set(rows["samples"].map(sum)) == {37 + 2}


@pytest.mark.parametrize("name", ["sdxl", "pixart_alpha", "sd35_medium", "flux_dev"])
def test_batches_change_no_error(run, tmp_path, name):
    """Whatever a condition consists of travels with its class."""
    one, other = (
        run(name, *PROTOCOL, f"batch_size={n}", f"results={tmp_path / str(n)}").rows()
        for n in (20, 64)
    )
    assert one["image_id"].tolist() == other["image_id"].tolist()
    for a, b in zip(one["trials"], other["trials"], strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)


def test_a_trial_is_the_error_of_the_velocity(run, job, overrides, models):
    """Computed again by hand, from the weights and what keys the noise."""
    rows = run("sd35_medium", *PROTOCOL, "task.loss=l2").rows()
    data = job(overrides("sd35_medium", *PROTOCOL)).dataset
    backbone = StableDiffusion3(str(models["sd35_medium"])).load(torch.device("cpu"), torch.float32)
    image_id = rows["image_id"][0]
    clean = backbone.encode(data[data.ids().index(image_id)].image[None])
    noise = KeyedStream.of(0, "noise", [image_id]).fork(0).normal(*clean.shape[1:])
    # of two evenly spaced timesteps, the first stage takes place 750 of 1,000, shifted by 3
    share = 751 / 1000
    sigma = 3 * share / (1 + 2 * share)
    x = (1 - sigma) * clean + sigma * noise
    text = backbone.texts.embed(data.prompts[:3])
    with torch.no_grad():
        found = backbone.predict(x.expand(3, -1, -1, -1), torch.full((3,), 1000 * sigma), text)
    want = (found - (noise - clean)).square().flatten(1).mean(1)
    trials = torch.tensor(np.asarray(rows["trials"][0])).view(37, 2)
    torch.testing.assert_close(trials[:3, 0].float(), want, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_generation(run, name):
    found = run(name, "task=generate", "features=none", "task.steps=2", "limit=1")
    images = open_folder(images_of(found))
    assert len(images) == 1 and images.size == (16, 16)
    assert next(iter(images)).std() > 0
    passes = 1 if name.startswith("flux") else 2  # guided by the model's own default
    assert found.rows()["evaluations"].tolist() == [2 * passes]


@pytest.mark.parametrize("name", ["sdxl", "pixart_sigma", "sd35_medium", "flux_dev"])
def test_classification_compressed(run, name):
    """What the condition consists of passes the hooks."""
    plain = run(name, *PROTOCOL).rows()
    rows = run(name, *PROTOCOL, "compressor=lgtm", "blocks=all").rows()
    found, without = (np.asarray(frame["errors"][0]) for frame in (rows, plain))
    assert np.isfinite(found).all() and np.abs(found - without).max() > 1e-6


@pytest.mark.parametrize("name", ["sdxl", "pixart_sigma", "sd35_medium", "flux_schnell"])
def test_the_protocol_is_the_model_s(job, overrides, name):
    """Each model's own sampler and loss, unless the command names others."""
    task = job(overrides(name, "task=generate", "features=none")).task
    wanted = {
        "sdxl": ("euler", "leading", 50, 5.0),
        "pixart_sigma": ("dpmsolver++", "linspace", 20, 4.5),
        "sd35_medium": ("flow_euler", None, 40, 4.5),
        "flux_schnell": ("flow_euler", "trailing", 4, 1.0),
    }
    assert (task.sampler, task.spacing, task.steps, task.guidance) == wanted[name]
    assert job(overrides(name, "task=classify")).task.loss == ("norm" if name in FLOWS else "l2")
    job(overrides(name, "task=generate", "features=none")).identity  # noqa: B018 (it checks)


def test_a_sampler_of_noise_is_refused_before_the_model_is_loaded(run):
    with pytest.raises(BiGainError, match=r"set task\.sampler=flow_euler"):
        run("sd35_medium", "task=generate", "features=none", "task.sampler=ddim", "limit=1")
    with pytest.raises(BiGainError, match="choose one of ddim"):
        run("sdxl", "task=generate", "features=none", "task.sampler=flow_euler", "limit=1")


def test_an_image_of_another_size_says_what_to_set(run):
    with pytest.raises(BiGainError, match=r"model\.image_size=16"):
        run("flux_schnell", *PROTOCOL, "model.image_size=32")

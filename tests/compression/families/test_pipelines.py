"""bigain.compress(pipe, ...) on small random pipelines of every family, from their folders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FluxImg2ImgPipeline,
    FluxPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor
from torch.testing import assert_close

import bigain
from bigain.compressors import IEKVD, LGTM, Compose, LinearAlpha, ToMe
from tests import saved_families, tiny_families
from tests.planned import planned

BOTH = Compose(LGTM(0.5), IEKVD(2))
PIPELINES: dict[str, Callable[..., Path]] = {
    "sdxl": saved_families.sdxl,
    # the pipeline tells sizes only to a model of 1,024 pixels
    "pixart_alpha": partial(saved_families.pixart, use_additional_conditions=False),
    "pixart_sigma": partial(saved_families.pixart, sigma=True),
    "sd3": saved_families.sd3,
    "flux_dev": saved_families.flux,
    "flux_schnell": partial(saved_families.flux, schnell=True),
}
every_pipeline = pytest.mark.parametrize("name", PIPELINES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save(root / name, tiny_families.SIDE) for name, save in PIPELINES.items()}


@pytest.fixture
def pipeline(folders) -> Callable[..., Any]:
    """A fresh pipeline by its name."""

    def load(name: str, kind: Any = DiffusionPipeline) -> Any:
        pipe = kind.from_pretrained(folders[name])
        if name == "sdxl":  # whose own spacing does not start from the noisiest timesteps
            pipe.scheduler.register_to_config(timestep_spacing="linspace")
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def generate(pipe: Any, **options: Any) -> Tensor:
    """Two steps from a fixed seed with guidance, of the kind that the pipeline has."""
    usual: dict[str, Any] = {
        "prompt": "a cat",
        "generator": torch.Generator().manual_seed(0),
        "num_inference_steps": 2,
        "output_type": "latent",
        "height": 32,
        "width": 32,
    }
    if not (isinstance(pipe, FluxPipeline) and not pipe.transformer.config.guidance_embeds):
        usual["guidance_scale"] = 4.0
    if not isinstance(pipe, StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline):
        usual["max_sequence_length"] = 12
    if "PixArt" in type(pipe).__name__:
        usual |= {"use_resolution_binning": False, "clean_caption": False}
    result: Tensor = pipe(**{**usual, **options}).images
    return result


OPTIONS: dict[str, dict[str, Any]] = {
    "wide": {"width": 48},
    "tall": {"height": 56, "width": 40},
    "two prompts": {"prompt": ["a cat", "a dog"], "num_images_per_prompt": 2},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("sdxl", "pixart_sigma", "sd3", "flux_dev") for kind in OPTIONS),
        ("pixart_alpha", "wide"),
        ("flux_schnell", "wide"),
    ],
)
def test_text_to_image(name, kind, pipeline):
    """The pipeline's own loop around compressed forwards, and afterwards as it was."""
    pipe, options = pipeline(name), OPTIONS[kind]
    model = denoiser(pipe)
    plain, before = generate(pipe, **options), tiny_families.state(model)
    assert len(plain) == (4 if "prompt" in options else 1)
    compressor = LGTM(0.5) if "height" in options else BOTH
    with bigain.compress(model, compressor):
        want = generate(pipe, **options)
    assert want.isfinite().all() and (want - plain).abs().max() > 1e-4
    with bigain.compress(pipe, compressor):
        assert torch.equal(generate(pipe, **options), want)
    assert tiny_families.state(model) == before
    assert torch.equal(generate(pipe, **options), plain)


@every_pipeline
def test_guidance_draws_the_same_numbers_for_both_halves(name, pipeline):
    """True guidance is a batch of two, and a Flux that is distilled needs one evaluation."""
    pipe = pipeline(name)
    with bigain.compress(pipe, ToMe(0.5)) as handle:
        plans = planned(handle)
        generate(pipe)
    keys = [made.rng.keys.tolist() for made in plans]
    assert {len(each) for each in keys} == {1 if name.startswith("flux") else 2}
    assert all(len(set(each)) == 1 for each in keys)
    times = [float(made.t[0]) for made in plans]
    assert times == sorted(times, reverse=True) and 0 <= times[-1] < 900 < times[0] <= 1000


def test_true_guidance_of_flux(pipeline):
    pipe = pipeline("flux_dev")
    options = {"negative_prompt": "a dog", "true_cfg_scale": 3.0}
    plain = generate(pipe, **options)
    with bigain.compress(pipe, LGTM(0.5)):
        assert not torch.equal(generate(pipe, **options), plain)
    assert torch.equal(generate(pipe, **options), plain)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sdxl", StableDiffusionXLImg2ImgPipeline),
        ("sd3", StableDiffusion3Img2ImgPipeline),
        ("flux_dev", FluxImg2ImgPipeline),
    ],
)
def test_image_to_image(name, kind, pipeline):
    pipe = pipeline(name, kind)
    options: dict[str, Any] = {"image": torch.rand(1, 3, 32, 32), "strength": 1.0}
    if name == "sdxl":  # takes its size from the image
        sizes = {"height": None, "width": None}
        pipe.__class__ = type("Sizeless", (kind,), {"__call__": _without(kind, sizes)})
    plain = generate(pipe, **options)
    with bigain.compress(pipe, LGTM(0.5)):
        assert (generate(pipe, **options) - plain).abs().max() > 1e-4
    assert torch.equal(generate(pipe, **options), plain)


def _without(kind: Any, names: Any) -> Callable[..., Any]:
    def call(self: Any, **options: Any) -> Any:
        return kind.__call__(self, **{k: v for k, v in options.items() if k not in names})

    return call


CHANGES: dict[str, Callable[[Any], Any]] = {
    "model offload": lambda model: accelerate.cpu_offload_with_hook(model, "cpu"),
    "sequential offload": lambda model: accelerate.cpu_offload(model, "cpu", offload_buffers=True),
}


@pytest.mark.parametrize("name", ["sdxl", "pixart_sigma", "sd3", "flux_dev"])
@pytest.mark.parametrize(
    ("kind", "when"),
    [("model offload", "before"), ("sequential offload", "inside")],
)
def test_offloading(name, kind, when, pipeline):
    """accelerate replaces forwards, around which the hooks run."""
    pipe, change = pipeline(name), CHANGES[kind]
    plain = generate(pipe)
    with bigain.compress(pipe, BOTH):
        want = generate(pipe)
    if when == "before":
        change(denoiser(pipe))
    with bigain.compress(pipe, BOTH):
        if when == "inside":
            change(denoiser(pipe))
        assert_close(generate(pipe), want, rtol=0, atol=1e-5)
    assert_close(generate(pipe), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sdxl", "pixart_alpha", "sd3", "flux_schnell"])
def test_a_schedule_over_time_reads_the_scheduler(name, pipeline):
    """Flux's timesteps are fractions of the schedule's, and SD3's are not whole numbers."""
    pipe, seen = pipeline(name), []

    class Watched(LinearAlpha):
        def __call__(self, t):
            seen.append(float(t.max() / self.timesteps))
            return super().__call__(t)

    with bigain.compress(pipe, IEKVD(2, Watched())):
        generate(pipe)
    assert 0.9 <= max(seen) <= 1 and 0 <= min(seen) < 0.9


def test_skip_layer_guidance_of_sd3(pipeline):
    pipe = pipeline("sd3")
    options = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    }
    plain = generate(pipe, **options)
    with bigain.compress(pipe, LGTM(0.5), blocks="all"):
        assert not torch.equal(generate(pipe, **options), plain)
    assert torch.equal(generate(pipe, **options), plain)

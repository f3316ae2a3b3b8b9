"""What users combine with a compressor: diffusers' caches, layer skipping, ControlNets, weights.

Each either works or is refused with a reason.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    FluxControlNetModel,
    LayerSkipConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SD3ControlNetModel,
    TaylorSeerCacheConfig,
    apply_faster_cache,
    apply_layer_skip,
    apply_mag_cache,
    apply_pyramid_attention_broadcast,
)
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compressors import IEKVD, LGTM, Compose, LinearAlpha, ToDo, ToMe
from tests import tiny_families

BOTH = Compose(LGTM(0.5), IEKVD(2))
COMPRESSORS = [LGTM(0.5), ToDo(2), BOTH]
every_compressor = pytest.mark.parametrize("compressor", COMPRESSORS, ids=["lgtm", "todo", "both"])
every_family = pytest.mark.parametrize("family", tiny_families.FAMILIES)
REFUSALS = r"did not compute in this forward|applied at \d+ of \d+ places|given 1 of the 2 samples"
EARLY, LATE = 900, 500  # timesteps: caches replay nothing in the first steps


class Steps:
    """The steps of a sampler: a tiny model's outputs at falling timesteps, for other latents."""

    def __init__(self, family: str) -> None:
        self.tiny = tiny_families.Tiny(family)
        self.now = EARLY

    def __call__(self, count: int) -> list[Tensor]:
        model, found = self.tiny.model, []
        latent = self.tiny.architecture.arguments[0]
        for step in range(count):
            self.now = EARLY if step == 0 else LATE
            with model.cache_context("cond") if isinstance(model, CacheMixin) else nullcontext():
                found.append(self.tiny(**{latent: self.tiny.inputs[latent] * (1 - step / 4)}))
        return found


def _broadcast(steps: Steps) -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("transformer_blocks",),
        current_timestep_callback=lambda: steps.now,
    )


def _faster(steps: Steps, **settings: Any) -> FasterCacheConfig:
    """FasterCache, which also leaves out the unconditional half unless guidance is distilled."""
    names = ("hidden_states", "encoder_hidden_states", "timestep", "pooled_projections")
    usual: dict[str, Any] = {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_block_identifiers": ("transformer_blocks",),
        "current_timestep_callback": lambda: steps.now,
        "attention_weight_callback": lambda _: 0.3,
        "tensor_format": "BCHW",
        "_unconditional_conditional_input_kwargs_identifiers": names,
    }
    return FasterCacheConfig(**{**usual, **settings})


def _mag(steps: Steps) -> MagCacheConfig:
    return MagCacheConfig(
        threshold=1e9, num_inference_steps=4, retention_ratio=0.0, mag_ratios=[1.0] * 4
    )


def _enabled(make: Callable[[Steps], Any]) -> Callable[[Steps], None]:
    return lambda steps: steps.tiny.model.enable_cache(make(steps))


def _applied(apply: Callable[[Any, Any], None], make: Callable) -> Callable[[Steps], None]:
    return lambda steps: apply(steps.tiny.model, make(steps))


def _taylor(**settings: Any) -> Callable[[Steps], Any]:
    usual = {"cache_interval": 3, "disable_cache_before_step": 1}
    return lambda steps: TaylorSeerCacheConfig(**usual, **settings)


# Of these models, diffusers gives only Flux the method enable_cache.
CACHES: dict[tuple[str, str], Callable[[Steps], None]] = {
    ("flux", "pyramid attention broadcast"): _enabled(_broadcast),
    ("flux", "FasterCache"): _enabled(lambda steps: _faster(steps, is_guidance_distilled=True)),
    ("flux", "first-block cache"): _enabled(lambda steps: FirstBlockCacheConfig(threshold=1e9)),
    ("flux", "MagCache"): _enabled(_mag),
    ("flux", "TaylorSeer"): _enabled(_taylor()),
    ("flux", "TaylorSeer, lite"): _enabled(_taylor(use_lite_mode=True)),
    **{
        (family, "pyramid attention broadcast"): _applied(
            apply_pyramid_attention_broadcast, _broadcast
        )
        for family in ("sdxl", "pixart", "sd3")
    },
    **{
        (family, "FasterCache"): _applied(apply_faster_cache, _faster)
        for family in ("pixart", "sd3")
    },
    **{(family, "MagCache"): _applied(apply_mag_cache, _mag) for family in ("pixart", "sd3")},
}


@pytest.mark.parametrize(("family", "cache"), CACHES)
@every_compressor
def test_caches_are_refused(family, cache, compressor):
    """At the first step that replays anything; without a compressor they do replay."""
    steps = Steps(family)
    plain = steps(3)
    with compress(steps.tiny.model, compressor, blocks="all"):
        want = steps(1)[0]
    CACHES[family, cache](steps)
    with compress(steps.tiny.model, compressor, blocks="all"):
        assert torch.equal(steps(1)[0], want)
        with pytest.raises(RuntimeError, match=REFUSALS):
            steps(3)
    fresh = Steps(family)
    CACHES[family, cache](fresh)
    assert any(not torch.equal(a, b) for a, b in zip(fresh(3), plain, strict=True))


@pytest.mark.parametrize(
    "compressor", [LGTM(0.5), ToMe(0.5), IEKVD(2, LinearAlpha())], ids=["lgtm", "tome", "iekvd"]
)
def test_a_cache_that_cuts_the_batch_is_refused(compressor):
    """FasterCache without its replayed attention leaves out the unconditional half."""
    steps = Steps("pixart")
    config = _faster(steps, spatial_attention_timestep_skip_range=(-2, -1))
    apply_faster_cache(steps.tiny.model, config)
    with (
        compress(steps.tiny.model, compressor, blocks="all"),
        pytest.raises(RuntimeError, match=r"given 1 of the 2 samples .*disable_cache\(\)"),
    ):
        steps(3)


def test_a_cache_may_skip_blocks_that_are_not_compressed():
    """The first-block cache always computes the first block."""
    steps = Steps("flux")
    steps.tiny.model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    plain = steps(2)
    with compress(steps.tiny.model, LGTM(0.5), blocks=[0]):
        found = steps(2)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(found, plain, strict=True))


# Layer skipping. diffusers knows no skipped blocks or attentions of SD3 and Flux.
LAYERS = {
    "sdxl": "mid_block.attentions.0.transformer_blocks",
    "pixart": "transformer_blocks",
    "sd3": "transformer_blocks",
    "flux": "transformer_blocks",
}
MLP = {"skip_attention": False}
ATTENTION = {"skip_ff": False}
SCORES = {"skip_attention": False, "skip_ff": False, "skip_attention_scores": True}


def skip(family: str, **settings: Any) -> tiny_families.Tiny:
    tiny = tiny_families.Tiny(family)
    apply_layer_skip(tiny.model, LayerSkipConfig([1], fqn=LAYERS[family], **settings))
    return tiny


@pytest.mark.parametrize(
    ("family", "settings"),
    [*((family, MLP) for family in LAYERS), ("sdxl", SCORES), ("pixart", SCORES)],
    ids=repr,
)
def test_a_skipped_layer(family, settings):
    whole, tiny = tiny_families.Tiny(family), skip(family, **settings)
    plain = tiny()
    assert (plain - whole()).abs().max() > 1e-3
    with (
        compress(tiny.model, LGTM(0.5), blocks="all"),
        compress(whole.model, LGTM(0.5), blocks="all"),
    ):
        found = tiny()
        assert (found - whole()).abs().max() > 1e-3 and (found - plain).abs().max() > 1e-4
    assert torch.equal(tiny(), plain)


@pytest.mark.parametrize("family", ["sdxl", "pixart"])
@pytest.mark.parametrize(
    ("settings", "compressor", "reason"),
    [
        ({}, LGTM(0.5), r"applied at \d+ of \d+ places"),
        (ATTENTION, LGTM(0.5), "did not compute in this forward.*LayerSkipConfig"),
        (SCORES, ToDo(2), r"has no effect where queries and keys differ .*; skip the whole"),
        (SCORES, BOTH, "has no effect where queries and keys differ"),
    ],
    ids=["block", "attention", "scores, todo", "scores, both"],
)
def test_skipped_layers_that_are_refused(family, settings, compressor, reason):
    tiny = skip(family, **settings)
    plain = tiny()
    places = "all" if family == "pixart" else [4]
    with (
        compress(tiny.model, compressor, blocks=places),
        pytest.raises((RuntimeError, ValueError), match=reason),
    ):
        tiny()
    assert torch.equal(tiny(), plain)


# ControlNets


def _control_sdxl() -> tuple[Any, dict[str, Any]]:
    model = tiny_families.denoiser("sdxl")
    net = ControlNetModel.from_unet(model, conditioning_channels=3, load_weights_from_unet=False)
    return net, {"controlnet_cond": torch.rand(2, 3, 128, 128)}


def _control_sd3() -> tuple[Any, dict[str, Any]]:
    net = SD3ControlNetModel.from_transformer(
        tiny_families.denoiser("sd3"), num_layers=2, num_extra_conditioning_channels=0
    )
    return net, {"controlnet_cond": torch.randn(2, 4, tiny_families.SIDE, tiny_families.SIDE)}


def _control_flux() -> tuple[Any, dict[str, Any]]:
    model = tiny_families.published("flux")
    net = FluxControlNetModel.from_transformer(
        model, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=8
    )
    return net, {"controlnet_cond": torch.randn(2, 64, 16)}


# How each denoiser takes what its ControlNet returns.
CONTROLS: dict[str, tuple[Callable[[], Any], Sequence[str]]] = {
    "sdxl": (
        _control_sdxl,
        ("down_block_additional_residuals", "mid_block_additional_residual"),
    ),
    "sd3": (_control_sd3, ("block_controlnet_hidden_states",)),
    "flux": (_control_flux, ("controlnet_block_samples", "controlnet_single_block_samples")),
}


@pytest.mark.parametrize("family", CONTROLS)
@torch.no_grad()
def test_a_control_net(family):
    """It is not compressed itself, and what it adds to the model is the same."""
    make, names = CONTROLS[family]
    tiny = tiny_families.Tiny(family)
    torch.manual_seed(2)
    net, given = make()
    for parameter in net.parameters():  # its last layers begin at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    net.double()
    inputs = {**tiny.inputs, **{name: value.double() for name, value in given.items()}}
    residuals = net(**inputs, return_dict=False)
    added = dict(zip(names, residuals, strict=True))
    plain = tiny(**added)
    with compress(tiny.model, BOTH, blocks="all"):
        again = net(**inputs, return_dict=False)
        without, found = tiny(), tiny(**added)
    assert_close(again, residuals, rtol=0, atol=0)
    assert (found - without).abs().max() > 1e-3 and (found - plain).abs().max() > 1e-3
    assert torch.equal(tiny(**added), plain)


# Weights of few bits


def _eight_bits(model: Any) -> Any:
    """Linear layers of torch's own dynamic quantisation on the CPU."""
    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def _layerwise(model: Any) -> Any:
    """diffusers' layerwise casting: weights of eight bits, computed with in float32."""
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    return model


@every_family
@every_compressor
@pytest.mark.parametrize("change", [_eight_bits, _layerwise], ids=["int8", "float8"])
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@torch.no_grad()
def test_quantised_weights(family, compressor, change):
    """Compressed, they are as far from whole weights as uncompressed, and are restored."""
    whole, fewer = (tiny_families.denoiser(family) for _ in range(2))
    fewer = change(fewer)
    torch.manual_seed(1)
    inputs = tiny_families.inputs(whole, 1)
    plain, coarse = whole(**inputs).sample, fewer(**inputs).sample
    with compress(whole, compressor, blocks="all"):
        want = whole(**inputs).sample
    with compress(fewer, compressor, blocks="all"):
        found = fewer(**inputs).sample
    lost, compressed = (coarse - plain).norm(), (found - coarse).norm()
    assert lost > 0 and compressed > 0
    assert (found - want).norm() < 2 * lost
    assert torch.equal(fewer(**inputs).sample, coarse)

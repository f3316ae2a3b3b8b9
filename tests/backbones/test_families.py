"""SDXL, PixArt, Stable Diffusion 3 and Flux against diffusers' own pipelines."""

from functools import cache
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from diffusers import FluxPipeline

from bigain.backbones import StableDiffusion3
from bigain.backbones.text import unpack
from bigain.compression.architectures.flux import patches, unpatched
from bigain.errors import BiGainError
from bigain.tasks.generate import generate
from bigain.utils.randomness import KeyedStream
from tests import tiny_families
from tests.family_cases import FAMILIES, LENGTH

CPU = torch.device("cpu")
PROMPTS = ["a photo of a cat.", "A photo of a dog, a type of pet. "]
DATASET = SimpleNamespace(
    prompts=PROMPTS, classes=["cat", "dog"], class_ids=None, prompt=lambda i: PROMPTS[i % 2]
)
NAMES = [name for name in FAMILIES if name != "flux_dev_guided"]  # the same pipeline as flux_dev


@pytest.fixture(scope="module")
def load(family_folder):
    @cache
    def loaded(name, dtype=torch.float32):
        family = FAMILIES[name]
        return family.backbone(str(family_folder(name)), **family.options).load(CPU, dtype)

    return loaded


@pytest.fixture(scope="module")
def pipe_of(family_folder):
    return cache(lambda name: pipeline(family_folder(name), name))


def pipeline(folder, name):
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name.endswith("without_t5") else {}
    pipe = FAMILIES[name].pipeline.from_pretrained(folder, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def parts(backbone, packed):
    """What the denoiser is given of packed conditions."""
    return unpack(packed, *backbone._parts(backbone.texts.encoders))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_the_pipeline_s(pipe_of, load, name):
    backbone, pipe = load(name), pipe_of(name)
    found, nothing = parts(backbone, backbone.condition(DATASET)), backbone.unconditional()
    assert nothing.shape == (1, backbone.condition(DATASET).shape[1])
    if name == "sdxl":
        text, no_text, pooled, no_pooled = pipe.encode_prompt(PROMPTS, device=CPU)
        want, missing = [text, pooled], [no_text, no_pooled]
    elif name.startswith("pixart"):
        options = {"device": CPU, "max_sequence_length": LENGTH}
        text, mask, no_text, no_mask = pipe.encode_prompt(PROMPTS, negative_prompt="", **options)
        want, missing = [text, mask.float()], [no_text, no_mask.float()]
    elif name.startswith("sd3"):
        options = {"device": CPU, "max_sequence_length": LENGTH}
        text, no_text, pooled, no_pooled = pipe.encode_prompt(PROMPTS, None, None, **options)
        width = sum(tiny_families.WIDTHS)
        want, missing = [text[:, :77, :width], pooled], [no_text[:, :77, :width], no_pooled]
        assert not text[:, :77, width:].any()
        if name == "sd3":
            want, missing = [*want, text[:, 77:]], [*missing, no_text[:, 77:]]
        else:
            assert not text[:, 77:].any()
    else:
        text, pooled, _ = pipe.encode_prompt(PROMPTS, device=CPU, max_sequence_length=LENGTH)
        no_text, no_pooled, _ = pipe.encode_prompt([""], device=CPU, max_sequence_length=LENGTH)
        told = torch.tensor([backbone.distilled_guidance])
        want, missing = [text, pooled, torch.ones(2)], [no_text, no_pooled, told]
    assert len(want) == len(found)
    for ours, theirs in zip(found, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(parts(backbone, nothing), missing, strict=True):
        torch.testing.assert_close(ours, theirs[:1])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*starts from pure noise at:UserWarning")
def test_generation_is_the_pipeline_s(pipe_of, load, name, monkeypatch):
    family, backbone = FAMILIES[name], load(name)
    decode = Mock(wraps=backbone.decode)
    monkeypatch.setattr(backbone, "decode", decode)
    ids = ["000000", "000001"]
    condition = backbone.condition_images(DATASET, [0, 1])
    images, evaluations = generate(backbone, family.protocol, condition, ids, seed=3)
    (latents,) = decode.call_args.args
    assert evaluations == family.protocol.passes * family.protocol.steps
    assert [image.shape for image in images] == [(16, 16, 3)] * 2

    pipe = pipe_of(name)
    if name == "pixart_alpha":  # the pipeline asks for this size before it tells the model sizes
        pipe.transformer.register_to_config(sample_size=128)
    noise = KeyedStream.of(3, "latent", ids, CPU).normal(4, 8, 8)
    start = patches(noise) if name.startswith("flux") else noise
    steps = family.protocol.steps
    size = {"height": 16, "width": 16, "num_inference_steps": steps, "output_type": "latent"}
    want = pipe(PROMPTS, latents=start, **size, **family.call).images
    if name.startswith("flux"):
        want = unpatched(want, 8, 8)
    torch.testing.assert_close(latents, want, rtol=0, atol=1e-4)
    assert latents.std() > 0.1
    with torch.no_grad():
        vae = pipe.vae.config
        want = want / vae.scaling_factor + (vae.shift_factor or 0)
        decoded = pipe.vae.decode(want).sample
    torch.testing.assert_close(backbone.decode(latents), decoded, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_latents_are_the_posterior_s_mean(pipe_of, load, name):
    backbone, pipe = load(name), pipe_of(name)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    shift, scale = pipe.vae.config.shift_factor or 0, pipe.vae.config.scaling_factor
    want = (pipe.vae.encode(images).latent_dist.mean - shift) * scale
    torch.testing.assert_close(backbone.encode(images), want)
    assert backbone.latent_shape == (4, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_close(load, name):
    dtype = torch.float16 if name in ("sdxl", "flux_schnell") else torch.bfloat16
    half, whole = load(name, dtype), load(name)
    condition = whole.condition(DATASET)
    assert half.condition(DATASET).dtype == dtype
    assert {p.dtype for p in half.denoiser.parameters()} == {dtype}
    x, t = torch.randn(2, 4, 8, 8), whole.schedule.timesteps([250, 750])
    found = half.predict(x, t, half.condition(DATASET))
    assert found.dtype == torch.float32
    assert (found - whole.predict(x, t, condition)).abs().mean() < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_batch(load, name):
    backbone = load(name)
    condition = backbone.condition(DATASET)
    x, t = torch.randn(2, 4, 8, 8), backbone.schedule.timesteps([250, 750])
    with torch.no_grad():
        both = backbone.predict(x, t, condition)
        alone = [backbone.predict(x[i : i + 1], t[i : i + 1], condition[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(torch.cat(alone), both, rtol=0, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_skeleton_is_the_denoiser_without_data(family_folder, load, name):
    family = FAMILIES[name]
    skeleton = family.backbone(str(family_folder(name)), **family.options).skeleton()
    assert all(p.is_meta for p in skeleton.parameters())
    shapes = {n: p.shape for n, p in load(name).denoiser.named_parameters()}
    assert {n: p.shape for n, p in skeleton.named_parameters()} == shapes


def test_a_distilled_model_is_told_its_guidance_in_generation_alone(load, monkeypatch):
    backbone = load("flux_dev")
    seen = Mock(wraps=backbone.denoiser.forward)
    monkeypatch.setattr(backbone.denoiser, "forward", seen)
    x, t = torch.randn(2, 4, 8, 8), backbone.schedule.timesteps([250, 750])
    with torch.no_grad():
        backbone.predict(x, t, backbone.condition(DATASET))
        backbone.predict(x, t, backbone.condition_images(DATASET, [0, 1]))
    assert [c.kwargs["guidance"].tolist() for c in seen.call_args_list] == [[1, 1], [2.5, 2.5]]


def test_latents_are_divided_into_patches_as_in_the_pipeline():
    latents = torch.randn(2, 4, 6, 8)
    want = FluxPipeline._pack_latents(latents, 2, 4, 6, 8)
    assert torch.equal(patches(latents), want)
    assert torch.equal(unpatched(want, 6, 8), latents)


@pytest.mark.parametrize("name", ["sdxl", "pixart_alpha", "sd3", "flux_dev"])
def test_classes_that_the_model_cannot_tell_apart_are_refused(load, name):
    long = "a photo " * 80
    same = SimpleNamespace(classes=["cat", "dog"], class_ids=None)
    same.prompts = [f"{long}of a cat.", f"{long}of a dog."]
    length = LENGTH if name == "pixart_alpha" else 77
    with pytest.raises(BiGainError, match=rf"the same text, which it cuts after {length} tokens"):
        load(name).condition(same)
    with pytest.warns(UserWarning, match=rf"1 of 1 prompts exceed the {length} tokens"):
        load(name).texts.embed([long])


def test_a_prompt_that_one_of_the_encoders_reads_is_not_cut(family_folder):
    """T5 reads on where CLIP stops."""
    backbone = StableDiffusion3(str(family_folder("sd3")), text_length=500).load(CPU, torch.float32)
    long = "a photo " * 40
    apart = SimpleNamespace(classes=["cat", "dog"], class_ids=None)
    apart.prompts = [f"{long}of a cat.", f"{long}of a dog."]
    one, two = backbone.condition(apart)
    assert not torch.equal(one, two)

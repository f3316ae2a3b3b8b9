"""The Stable Diffusion backbone against diffusers' own pipeline."""

import json
import shutil
import warnings
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from bigain.backbones import StableDiffusion
from bigain.datasets.prompts import published
from bigain.errors import BiGainError
from bigain.experiments.composition import composed
from bigain.tasks.generate import Generate, generate
from bigain.utils.randomness import KeyedStream
from tests.tiny_pipelines import stable_diffusion

CPU = torch.device("cpu")
KINDS = ["epsilon", "v_prediction"]
PROMPTS = ["a photo of a cat.", "a photo of a café, a type of pet.", "a " + "very " * 90 + "end"]
DDIM = (DDIMScheduler, {"clip_sample": False})
EULER = (EulerDiscreteScheduler, {"timestep_spacing": "linspace"})
DATASET = SimpleNamespace(prompts=PROMPTS, prompt=lambda i: PROMPTS[i % 2])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: stable_diffusion(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def backbone(folders):
    return StableDiffusion(str(folders["epsilon"])).load(CPU, torch.float32)


@pytest.fixture(scope="module")
def pipe(folders):
    return pipeline(folders["epsilon"])


def pipeline(folder, scheduler=DDIM):
    kind, settings = scheduler
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def test_noise_is_the_unet_s(backbone, pipe):
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([25, 500, 975])
    condition = backbone.condition(DATASET)
    want = pipe.unet(x, t, encoder_hidden_states=condition).sample
    assert torch.equal(backbone.predict(x, t, condition), want)
    assert backbone.latent_shape == (4, 8, 8)


@torch.no_grad()
def test_latents_are_the_posterior_s_mean(backbone, pipe):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    want = pipe.vae.encode(images).latent_dist.mean * 0.18215
    found = backbone.encode(images)
    torch.testing.assert_close(found, want)
    assert torch.equal(found[:1], backbone.encode(images[:1]))  # in any batch
    torch.testing.assert_close(backbone.decode(want), pipe.vae.decode(want / 0.18215).sample)


@torch.no_grad()
def test_embeddings_are_the_pipeline_s(backbone, pipe):
    want, nothing = pipe.encode_prompt(PROMPTS, CPU, 1, True)
    assert backbone.condition(DATASET).shape == (3, 77, 32)
    torch.testing.assert_close(backbone.condition(DATASET), want)
    torch.testing.assert_close(backbone.unconditional(), nothing[:1])
    found = backbone.condition_images(DATASET, [0, 1, 2, 3])
    torch.testing.assert_close(found, want[[0, 1, 0, 1]])


def test_prompts_are_encoded_once(backbone, monkeypatch):
    embed = Mock(wraps=backbone.texts.embed)
    monkeypatch.setattr(backbone.texts, "embed", embed)
    other = SimpleNamespace(prompts=["one", "two"], prompt=lambda i: "same")
    assert backbone.condition(other) is backbone.condition(other)
    backbone.condition_images(other, range(5))
    assert [list(c.args[0]) for c in embed.call_args_list] == [["one", "two"], ["same"]]


def encoder_calls(backbone, monkeypatch):
    """A mock around the text encoder that counts the prompts of its calls."""
    (encoder,) = backbone.texts.encoders
    spy = Mock(wraps=encoder.model, config=encoder.model.config)
    monkeypatch.setattr(encoder, "model", spy)
    return lambda: [len(call.args[0]) for call in spy.call_args_list]


def test_each_distinct_prompt_is_encoded_once(folders, monkeypatch):
    backbone = StableDiffusion(str(folders["epsilon"])).load(CPU, torch.float32)
    calls = encoder_calls(backbone, monkeypatch)
    texts = [f"prompt {i}" for i in range(5)]
    captions = SimpleNamespace(prompt=lambda i: texts[i % 5])
    first = backbone.condition_images(captions, [0, 1, 0, 6])
    assert torch.equal(backbone.condition_images(captions, [5, 1]), first[:2])
    assert torch.equal(backbone.texts.embed(texts)[:2], first[:2])
    assert calls() == [2, 3]


def test_embeddings_in_memory_are_bounded(folders, monkeypatch):
    backbone = StableDiffusion(str(folders["epsilon"])).load(CPU, torch.float32)
    calls = encoder_calls(backbone, monkeypatch)
    monkeypatch.setattr("bigain.backbones.text.KEPT", 2 * 77 * 32 * 4)
    want = backbone.texts.embed(["a", "b", "c"])
    assert list(backbone.texts._rows) == ["b", "c"]
    assert torch.equal(backbone.texts.embed(["c", "b", "a"]), want.flip(0)) and calls() == [3, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_embedding_does_not_depend_on_the_others_in_its_batch(folders, threads):
    before = torch.get_num_threads()
    texts = ["", *PROMPTS[:2], *(f"prompt {i}" for i in range(61))]

    def embedded(places):  # by a backbone that has not met them
        backbone = StableDiffusion(str(folders["epsilon"])).load(CPU, torch.float32)
        return backbone.texts.embed([texts[i] for i in places])

    want = embedded(range(64))
    try:
        torch.set_num_threads(threads)
        for places in ([5], [63], [9, 5], *(range(64 - n, 64) for n in (3, 7, 15, 17, 37))):
            assert torch.equal(embedded(places), want[list(places)]), places
    finally:
        torch.set_num_threads(before)


def test_another_process_reads_the_embeddings(folders, tmp_path, monkeypatch):
    """For the same weights, tokenizer and prompt alone, and unless the cache is off."""

    def encoded(folder, *prompts):
        backbone = StableDiffusion(str(folder)).load(CPU, torch.bfloat16)
        calls = encoder_calls(backbone, monkeypatch)
        return backbone.texts.embed(prompts), sum(calls())

    monkeypatch.setenv("BIGAIN_CACHE", "off")
    want, _ = encoded(folders["epsilon"], "one", "two", "three")
    monkeypatch.setenv("BIGAIN_CACHE", str(tmp_path / "cache"))
    assert encoded(folders["epsilon"], "one", "two")[1] == 2
    found, count = encoded(folders["epsilon"], "one", "two", "three")
    assert torch.equal(found, want) and count == 1
    assert encoded(folders["epsilon"], "one ", "Two")[1] == 2

    copy = shutil.copytree(folders["epsilon"], tmp_path / "copy")
    assert encoded(copy, "one")[1] == 0
    weights = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: -tensor for name, tensor in tensors.items()}, weights, {"format": "pt"})
    assert encoded(copy, "one")[1] == 1
    merges = copy / "tokenizer" / "merges.txt"
    merges.write_text(merges.read_text().replace("o f</w>\n", ""))
    assert encoded(copy, "one")[1] == 1

    for path in (tmp_path / "cache" / "tensors").iterdir():
        path.write_bytes(b"damaged")
    found, count = encoded(folders["epsilon"], "one", "two", "three")
    assert torch.equal(found, want) and count == 3
    monkeypatch.setattr("bigain.backbones.text.transformers.__version__", "9")
    assert encoded(folders["epsilon"], "one")[1] == 1
    monkeypatch.setenv("BIGAIN_CACHE", "off")
    assert encoded(folders["epsilon"], "two")[1] == 1


LONG = "a photo " * 40


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        (f"{LONG}of a cat.", f"{LONG}of a dog.", "the same text, which it cuts after 77 tokens: "),
        ("a Cat.", "a  cat. ", "the same text: 'a Cat.' and 'a  cat. '"),
        ("a cat.", "a cat.", "the same text: 'a cat.' and 'a cat.'"),
    ],
)
def test_classes_that_the_model_cannot_tell_apart_are_refused(backbone, one, two, why):
    known = SimpleNamespace(
        classes=["cat", "pear", "dog"], prompts=[one, "a pear.", two], class_ids=None
    )
    with pytest.raises(BiGainError, match=rf"^the classes 'cat' and 'dog' have .*{why}"):
        backbone.condition(known)


def test_imagenet_s_two_equal_pairs_are_accepted(backbone):
    """As published; other pairs are not."""
    listed = published("imagenet1k")
    known = SimpleNamespace(
        classes=listed.names, prompts=listed.prompts, class_ids=listed.indices, known_classes=1000
    )
    found = backbone.condition(known)
    for one, two in ((657, 744), (836, 837)):
        assert torch.equal(found[one], found[two])
    known.prompts = [*listed.prompts[:-1], listed.prompts[0].upper()]
    with pytest.raises(BiGainError, match="the classes 'tench' and 'toilet paper'"):
        backbone.condition(known)


def test_prompts_that_are_cut_are_warned_of(backbone):
    long = [f"{name} {LONG}" for name in ("cat", "dog")]
    with pytest.warns(UserWarning, match=r"2 of 3 prompts exceed the 77 tokens.*'cat a"):
        backbone.condition(SimpleNamespace(prompts=["a pear.", *long]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.condition(SimpleNamespace(prompts=["a pear.", "a cat."]))


def test_the_tokenizer_merges(backbone):
    words = backbone.texts.encoders[0].tokenizer.tokenize("a photo of it")
    assert words == ["a</w>", "photo</w>", "of</w>", "i", "t</w>"]


def like_the_paper(**overrides):
    """What task=generate makes of the configuration of SD-2.0."""
    cfg = composed(["model=sd2", "task=generate", "dataset=pets"])
    node = {key: value for key, value in cfg.task.items() if key not in ("_target_", "name")}
    assert (node["sampler"], node["steps"], node["guidance"]) == ("euler", 50, 7.5)
    return Generate(**{**node, **overrides})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scheduler", "protocol"),
    [(DDIM, Generate("ddim", 6, 7.5)), (EULER, like_the_paper()), (EULER, like_the_paper(steps=7))],
    ids=["ddim", "paper", "7 steps"],
)
def test_generation_is_the_pipeline_s(folders, kind, scheduler, protocol, monkeypatch):
    backbone = StableDiffusion(str(folders[kind])).load(CPU, torch.float32)
    assert backbone.schedule.config["prediction_type"] == kind
    decode = Mock(wraps=backbone.decode)
    monkeypatch.setattr(backbone, "decode", decode)
    ids = ["000000", "000001"]
    condition = backbone.condition_images(DATASET, [0, 1])
    images, evaluations = generate(backbone, protocol, condition, ids, seed=3)

    pipe = pipeline(folders[kind], scheduler)
    want = pipe(
        PROMPTS[:2],
        num_inference_steps=protocol.steps,
        guidance_scale=7.5,
        latents=KeyedStream.of(3, "latent", ids, CPU).normal(4, 8, 8),
        output_type="latent",
    ).images
    (latents,) = decode.call_args.args
    assert evaluations == 2 * protocol.steps and len(images) == 2
    torch.testing.assert_close(latents, want, rtol=0, atol=1e-4)
    with torch.no_grad():
        want = pipe.vae.decode(want / 0.18215).sample
    torch.testing.assert_close(backbone.decode(latents), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "euler", "dpmsolver++", "unipc"])
def test_every_sampler_takes_v_predictions(folders, sampler):
    """Euler's timesteps are fractions here, as spacing is the sampler's own."""
    backbone = StableDiffusion(str(folders["v_prediction"])).load(CPU, torch.float32)
    protocol = Generate(sampler, 4, 2.0)
    images, _ = generate(backbone, protocol, backbone.condition(DATASET)[:1], ["0"], seed=0)
    assert images[0].shape == (16, 16, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_denoiser_s_alone(folders, backbone, dtype):
    half = StableDiffusion(str(folders["v_prediction"])).load(CPU, dtype)
    assert half.denoiser.dtype == dtype
    assert half.schedule.alphas_cumprod.dtype == torch.float32
    assert torch.equal(half.schedule.alphas_cumprod, backbone.schedule.alphas_cumprod)
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(half.encode(images), backbone.encode(images))
    condition = half.condition(DATASET)
    assert condition.dtype == dtype
    torch.testing.assert_close(condition, backbone.condition(DATASET).to(dtype))
    with torch.no_grad():
        noise = half.predict(torch.randn(3, 4, 8, 8), torch.tensor([1, 2, 3]), condition)
    assert noise.dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "mend"),
    [
        ((1, 3, 32, 32), r"; set model\.image_size=16$"),
        ((1, 1, 16, 16), "; choose a data set of colour images$"),
        ((1, 1, 32, 32), r"; set model\.image_size=16 and choose a data set of colour images$"),
    ],
)
def test_images_of_another_shape_are_refused(backbone, shape, mend):
    with pytest.raises(BiGainError, match=mend):
        backbone.encode(torch.zeros(shape))


def test_components_of_different_models_are_refused(tmp_path):
    folder = stable_diffusion(tmp_path, cross_attention_dim=16)
    with pytest.raises(BiGainError, match=r"\(4, 16\).*\(4, 32\)"):
        StableDiffusion(str(folder)).load(CPU, torch.float32)


def test_models_that_predict_the_image_are_refused(tmp_path):
    folder = stable_diffusion(tmp_path)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(BiGainError, match="got sample"):
        StableDiffusion(str(folder)).load(CPU, torch.float32)


def test_the_skeleton_is_the_unet_without_data(folders, backbone):
    skeleton = StableDiffusion(str(folders["epsilon"])).skeleton()
    assert all(p.is_meta for p in skeleton.parameters())
    shapes = {n: p.shape for n, p in backbone.denoiser.named_parameters()}
    assert {n: p.shape for n, p in skeleton.named_parameters()} == shapes


def test_larger_images_have_larger_factors(tmp_path):
    folder = stable_diffusion(tmp_path, vae_levels=4)
    backbone = StableDiffusion(str(folder)).load(CPU, torch.float32)
    assert backbone.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 8, 8)
    assert backbone.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)

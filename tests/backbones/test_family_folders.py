"""Folders of SDXL, PixArt, Stable Diffusion 3 and Flux: what is read, refused and identified."""

import json
import shutil
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from bigain.backbones import Flux, PixArt, StableDiffusion, StableDiffusion3, StableDiffusionXL
from bigain.errors import BiGainError
from tests import tiny_pipelines
from tests.family_cases import FAMILIES, FLUX, T5

CPU = torch.device("cpu")
DATASET = SimpleNamespace(
    prompts=["a photo of a cat.", "a photo of a dog."], classes=["cat", "dog"], class_ids=None
)


@pytest.fixture(scope="module")
def load(family_folder):
    return cache(
        lambda name: (
            FAMILIES[name]
            .backbone(str(family_folder(name)), **FAMILIES[name].options)
            .load(CPU, torch.float32)
        )
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sdxl", {"cross_attention_dim": 48}, "unet takes 48 channels, but both text.* gives 56"),
        ("sdxl", {"projection_class_embeddings_input_dim": 60}, "pooled text of unet takes 12 "),
        ("sdxl", {"addition_embed_type": None}, "no base model of Stable Diffusion XL"),
        ("pixart_alpha", {"caption_channels": 30}, "transformer takes 30 .*, but text_encoder"),
        ("sd3", {"pooled_projection_dim": 40}, "takes 40 channels, but CLIP gives 36"),
        ("sd3", {"joint_attention_dim": 90}, "takes 90 channels, but text_encoder_3 gives 84"),
        ("sd3", {"joint_attention_dim": 50}, "give 32 and 24 channels, of which .* takes 50"),
        ("flux_dev", {"in_channels": 20}, "takes 20 channels, but vae, in patches, gives 16"),
        ("flux_dev", {"joint_attention_dim": 30}, "takes 30 .*, but text_encoder_2 gives 28"),
    ],
)
def test_components_of_different_models_are_refused(tmp_path, name, settings, message):
    family = FAMILIES[name]
    folder = family.make(tmp_path, **settings)
    with pytest.raises(BiGainError, match=message):
        family.backbone(str(folder), **family.options).load(CPU, torch.float32)


def test_another_family_s_folder_is_refused_by_name(family_folder, tmp_path):
    with pytest.raises(BiGainError, match="has no shift; the scheduler of a flow matching model"):
        StableDiffusion3(str(family_folder("pixart_alpha"))).load(CPU, torch.float32)
    with pytest.raises(BiGainError, match="has no beta_schedule"):
        PixArt(str(family_folder("sd3")), 40).load(CPU, torch.float32)
    with pytest.raises(BiGainError, match="is no text-to-image model of Stable Diffusion 1 or 2"):
        StableDiffusion(str(family_folder("sdxl"))).load(CPU, torch.float32)
    other = tiny_pipelines.stable_diffusion(tmp_path)
    with pytest.raises(BiGainError, match=r"tokenizer_2 lacks vocab\.json"):
        StableDiffusionXL(str(other)).load(CPU, torch.float32)


def test_a_missing_tokenizer_is_named(family_folder, tmp_path):
    copy = shutil.copytree(family_folder("flux_schnell"), tmp_path / "copy")
    (copy / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(BiGainError, match=r"tokenizer_2 lacks .*spiece\.model"):
        Flux(str(copy), sample_size=8).load(CPU, torch.float32)
    with pytest.raises(BiGainError, match="must be a multiple of 2"):
        Flux(str(copy), sample_size=7)


def test_the_published_pixart_names_an_older_class(family_folder, load, tmp_path):
    """diffusers' Transformer2DModel, of which PixArt's own class was split off."""
    copy = shutil.copytree(family_folder("pixart_alpha"), tmp_path / "copy")
    path = copy / "transformer" / "config.json"
    older = {"_class_name": "Transformer2DModel", "double_self_attention": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **older}))
    found, want = PixArt(str(copy), **T5).load(CPU, torch.float32), load("pixart_alpha")
    x, t = torch.randn(2, 4, 8, 8), want.schedule.timesteps([250, 750])
    with torch.no_grad():
        both = [b.predict(x, t, want.condition(DATASET)) for b in (found, want)]
    assert torch.equal(*both)


def test_latents_with_a_mean_per_channel_are_refused(family_folder, tmp_path):
    copy = shutil.copytree(family_folder("sdxl"), tmp_path / "copy")
    path = copy / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latents_mean": [0.0] * 4}))
    with pytest.raises(BiGainError, match="has latents_mean, numbers per channel"):
        StableDiffusionXL(str(copy)).load(CPU, torch.float32)


def test_weights_in_several_files_are_read(family_folder, load, tmp_path):
    """As those of T5 and Flux are published."""
    copy = shutil.copytree(family_folder("sd3"), tmp_path / "copy")
    pipe = FAMILIES["sd3"].pipeline.from_pretrained(copy)
    for part in ("transformer", "text_encoder_3"):
        shutil.rmtree(copy / part)
        getattr(pipe, part).save_pretrained(copy / part, max_shard_size="20KB")
        assert len(list((copy / part).glob("*.safetensors"))) > 2
    found, want = StableDiffusion3(str(copy), **T5).load(CPU, torch.float32), load("sd3")
    assert torch.equal(found.condition(DATASET), want.condition(DATASET))
    assert found.identity().keys() == want.identity().keys()
    x, t = torch.randn(2, 4, 8, 8), want.schedule.timesteps([250, 750])
    with torch.no_grad():
        both = [b.predict(x, t, want.condition(DATASET)) for b in (found, want)]
    assert torch.equal(*both)


def test_identity_covers_every_part_and_setting(family_folder, tmp_path):
    copy = shutil.copytree(family_folder("flux_dev"), tmp_path / "copy")
    before = Flux(str(copy), **FLUX).identity()
    assert {"transformer", "vae", "text_encoder_2", "tokenizer_2", "scheduler"} < before.keys()
    assert Flux(str(copy), **{**FLUX, "text_length": 41}).identity() != before
    for part in ("tokenizer_2/tokenizer.json", "text_encoder_2/config.json"):
        path = copy / part
        kept = path.read_text()
        path.write_text(json.dumps({**json.loads(kept), "changed": 1}))
        assert Flux(str(copy), **FLUX).identity() != before
        path.write_text(kept)
    assert Flux(str(copy), **FLUX).identity() == before

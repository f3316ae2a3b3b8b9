"""Pipelines of random weights run like published ones, and so do the images beside them."""

import gzip
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline, StableDiffusionPipeline
from hydra import compose, initialize_config_dir
from safetensors import safe_open
from transformers import CLIPTokenizer

from bigain.backbones import DiT, StableDiffusion
from bigain.backbones.text import byte_symbols
from bigain.datasets import ImageNet, Pets
from bigain.errors import BiGainError
from bigain.preparation import random_pipeline
from bigain.utils.paths import REPOSITORY

CPU = torch.device("cpu")
TEXT_MODELS = ["sd2", "sd15"]
VAE = "+vae={block_out_channels: [8, 8], norm_num_groups: 4, layers_per_block: 1, "
VAE += "down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D], "
VAE += "up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D]}"
SMALL = {
    # heads of 4 channels, and as many as in the published ones
    "sd2": [
        "+denoiser={sample_size: 8, block_out_channels: [20, 40, 80, 80], layers_per_block: 1, "
        "norm_num_groups: 4}",
        "+text_encoder={num_hidden_layers: 1}",
    ],
    "sd15": [
        "+denoiser={sample_size: 8, block_out_channels: [16, 16, 32, 32], layers_per_block: 1, "
        "norm_num_groups: 4}",
        "+text_encoder={num_hidden_layers: 1}",
    ],
    "dit_xl2_256": ["+denoiser={sample_size: 8, num_layers: 2, attention_head_dim: 4}"],
    "dit_xl2_512": ["+denoiser={sample_size: 16, num_layers: 2, attention_head_dim: 4}"],
}


def make(name: str, folder: Path, *overrides: str) -> Path:
    side = 32 if name == "dit_xl2_512" else 16
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
        given = [f"model={name}", f"model.image_size={side}", f"output={folder}", VAE]
        given += ["vocabulary=bytes", *SMALL[name], *overrides]
        return random_pipeline.make(compose("make_random_pipeline", given))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(name, tmp_path_factory.mktemp(name)) for name in SMALL}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("task", ["classify", "generate"])
def test_the_four_models_run(name, task, folders, tmp_path, run):
    """With the command that the script prints, and generation likewise."""
    folder = folders[name]
    dataset = "pets" if name in TEXT_MODELS else "imagenet100"
    own = {
        "classify": ["task.samples=[1]", "task.keep=[1]"],
        "generate": ["task.steps=2", "features=none"],
    }
    done = run(
        [
            f"model={name}",
            f"model.path={folder}",
            f"model.image_size={32 if name == 'dit_xl2_512' else 16}",
            f"dataset={dataset}",
            f"dataset.root={folder.parent / 'images'}",
            "compressor=lgtm",
            *([] if name in TEXT_MODELS else ["blocks=all"]),  # of two
            f"task={task}",
            "limit=1",
            f"results={tmp_path}",
            "dtype=bfloat16",
            *own[task],
        ]
    )
    rows = done.rows()
    assert len(rows) == 1
    if task == "classify":
        errors = torch.tensor(list(rows["errors"][0]))
        assert len(errors) == (37 if name in TEXT_MODELS else 100) and errors.isfinite().all()
        assert len(errors.unique()) > 1  # the conditioning reaches the denoiser


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_noise_is_finite(name, dtype, folders):
    kind = StableDiffusion if name in TEXT_MODELS else DiT
    backbone = kind(str(folders[name])).load(CPU, dtype)
    x, t = torch.randn(2, *backbone.latent_shape), torch.tensor([5, 995])
    if name in TEXT_MODELS:
        condition = backbone.texts.embed(["a cat", "a dog"])
    else:
        condition = torch.tensor([1, 2])
    noise = backbone.predict(x, t, condition)
    assert noise.isfinite().all() and noise.std() > 0.01


@pytest.mark.parametrize(("name", "pipeline"), [("sd2", StableDiffusionPipeline),
                                                ("dit_xl2_256", DiTPipeline)])  # fmt: skip
def test_diffusers_reads_the_folder(name, pipeline, folders):
    assert len(list(pipeline.from_pretrained(folders[name]).components)) >= 3


def test_the_same_seed_writes_the_same_weights(folders, tmp_path):
    file = "transformer/diffusion_pytorch_model.safetensors"
    first = (folders["dit_xl2_256"] / file).read_bytes()
    assert (make("dit_xl2_256", tmp_path) / file).read_bytes() == first
    assert (make("dit_xl2_256", tmp_path, "seed=1") / file).read_bytes() != first


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_have_the_type_asked_for(dtype, tmp_path):
    folder = make("dit_xl2_256", tmp_path, f"dtype={dtype}")
    with safe_open(folder / "vae" / random_pipeline.WEIGHTS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {t.dtype for t in tensors.values()} == {getattr(torch, dtype)}
    assert "encoder.mid_block.attentions.0.query.weight" in tensors  # as published
    assert (tensors["encoder.conv_norm_out.weight"] == 1).all()
    assert (tensors["encoder.conv_in.bias"] == 0).all()
    assert tensors["encoder.conv_in.weight"].float().std().item() == pytest.approx(
        27**-0.5, rel=0.2
    )


def test_the_images_are_those_of_the_data_sets(folders, tmp_path):
    pets = Pets(str(folders["sd2"].parent / "images"), size=16)
    assert len(pets) == 37 and pets[0].image.shape == (3, 16, 16)
    photographs = ImageNet(
        str(folders["dit_xl2_256"].parent / "images"), "imagenet100", size=16, subset=100
    )
    assert len(photographs) == 100 and photographs[0].image.shape == (3, 16, 16)
    folder = make("dit_xl2_256", tmp_path, "images_per_class=2")
    assert len(ImageNet(str(folder.parent / "images"), "imagenet100", size=16)) == 200


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A package of that name whose list of merges has CLIP's first three and then any others."""
    first = ["i n", "t h", "a n"]
    symbols = sorted(byte_symbols())
    others = (f"{a} {b}" for a in symbols for b in symbols)
    lines = ["# version", *first, *(pair for pair in others if pair not in first)]
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").write_text("raise ImportError('not to be imported')")
    packed = gzip.compress("\n".join(lines).encode())
    (tmp_path / "open_clip" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(packed)
    monkeypatch.syspath_prepend(tmp_path)


def test_clip_s_vocabulary(clip, tmp_path):
    folder = make("sd2", tmp_path / "sd2", "vocabulary=clip")
    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    assert len(words) == 49408
    assert (words.bos_token_id, words.eos_token_id) == (49406, 49407)  # as in CLIP
    assert words.convert_tokens_to_ids(["!", "a", "!</w>", "in", "an"]) == [0, 64, 256, 512, 514]


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "open_clip" not in p])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BiGainError, match=r"pip install --no-deps open_clip_torch.*=bytes"):
        make("sd2", tmp_path, "vocabulary=clip")
    assert not (tmp_path / "model" / "unet").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dtype=float8", "dtype must be one of float32, float16, bfloat16; got float8"),
        ("vocabulary=real", "vocabulary must be one of clip, bytes; got real"),
        ("images_per_class=0", "images_per_class must be at least 1, got 0"),
        ("model.path=/there", "no published architecture here"),
        ("model=sdxl", "no published architecture here that is made of random weights"),
    ],
)
def test_settings_it_cannot_use(override, message, tmp_path):
    with pytest.raises(BiGainError, match=message):
        make("dit_xl2_256", tmp_path, override)

"""A pipeline of a published architecture with random weights, in the format of its hub repository.

It lets every command run at true size where the weights are not at hand. Its predictions mean
nothing.
"""

import gzip
import importlib.util
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTTransformer2DModel,
    PNDMScheduler,
    UNet2DConditionModel,
)
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from bigain.backbones.architectures import ARCHITECTURES
from bigain.backbones.text import byte_symbols
from bigain.errors import BiGainError
from bigain.preparation import random_images
from bigain.utils.files import explained

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
VOCABULARIES = ("clip", "bytes")
WEIGHTS = "diffusion_pytorch_model.safetensors"
LENGTH = 77  # tokens of a prompt
MERGES = 49152 - 256 - 2  # as many as CLIP takes from its published list
START, END = "<|startoftext|>", "<|endoftext|>"
# the autoencoder of Rombach et al. 2022, the same in all of these pipelines
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
# text encoders by the channels that they give: CLIP ViT-L/14, and OpenCLIP ViT-H/14 without its
# last layer
TEXT: dict[int, dict[str, Any]] = {
    768: {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    1024: {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "projection_dim": 512,
        "hidden_act": "gelu",
    },
}
# names of the attention in the published files of Stable Diffusion's autoencoder
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def make(cfg: DictConfig) -> Path:
    """Write what configs/make_random_pipeline.yaml describes, and return the pipeline's folder.

    Raises:
        BiGainError: if a setting cannot be used, CLIP's vocabulary is not installed, or something
            cannot be written.
    """
    name = cfg.model.name
    made = [path for path, found in ARCHITECTURES.items() if _can_be_made(found)]
    if cfg.model.path not in made:
        raise BiGainError(
            f"model={name} with model.path={cfg.model.path} has no published architecture here "
            f"that is made of random weights; choose a model of configs/model whose path is one of "
            f"{', '.join(made)}"
        )
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in TYPES}
    if cfg.dtype not in dtypes:
        raise BiGainError(f"dtype must be one of {', '.join(dtypes)}; got {cfg.dtype}")
    if cfg.vocabulary not in VOCABULARIES:
        raise BiGainError(
            f"vocabulary must be one of {', '.join(VOCABULARIES)}; got {cfg.vocabulary}"
        )
    parts: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key]) for key in ("denoiser", "vae", "text_encoder")
    }
    architecture = {**ARCHITECTURES[cfg.model.path], **parts["denoiser"]}
    folder, images = Path(cfg.output) / "model", Path(cfg.output) / "images"
    write = _Writer(folder, dtypes[cfg.dtype], cfg.seed)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if "cross_attention_dim" in architecture:
            prediction = "v_prediction" if name == "sd21" else "epsilon"
            text = TEXT[ARCHITECTURES[cfg.model.path]["cross_attention_dim"]]
            text = {**text, **parts["text_encoder"]}
            _stable_diffusion(
                write, architecture, VAE | parts["vae"], text, cfg.vocabulary, prediction
            )
            dataset = "pets"
        else:
            _dit(write, architecture, VAE | parts["vae"])
            dataset = "imagenet100"
    with explained(images):
        random_images.make(dataset, images, cfg.model.image_size, cfg.images_per_class, cfg.seed)
    print(f"{folder}: {write.parameters / 1e6:.0f} million random parameters in {cfg.dtype}")
    print(
        f"try it: python run.py model={name} model.path={folder} dataset={dataset} "
        f"dataset.root={images} compressor=lgtm task=classify dtype={cfg.dtype} limit=1 "
        "'task.samples=[1]' 'task.keep=[1]'"
    )
    return folder


def _can_be_made(architecture: Mapping[str, Any]) -> bool:
    dit = architecture.get("norm_type") == "ada_norm_zero"
    return dit or architecture.get("cross_attention_dim") in TEXT


def _stable_diffusion(
    write: "_Writer",
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    text: Mapping[str, Any],
    vocabulary: str,
    prediction_type: str,
) -> None:
    words = clip_vocabulary() if vocabulary == "clip" else ([], _symbols())
    size = _tokenizer(write.folder / "tokenizer", *words)
    write.network(UNet2DConditionModel, "unet", unet)
    side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    write.network(AutoencoderKL, "vae", {**vae, "sample_size": side}, OLD_NAMES)
    config = CLIPTextConfig(
        **text,
        vocab_size=size,
        max_position_embeddings=LENGTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        architectures=["CLIPTextModel"],
    )
    write.text_encoder(config)
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_config(write.folder / "scheduler")
    write.index(
        "StableDiffusionPipeline",
        unet="UNet2DConditionModel",
        vae="AutoencoderKL",
        scheduler="PNDMScheduler",
        text_encoder="CLIPTextModel",
        tokenizer="CLIPTokenizer",
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _dit(write: "_Writer", transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    write.network(DiTTransformer2DModel, "transformer", transformer)
    side = transformer["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    write.network(AutoencoderKL, "vae", {**vae, "sample_size": side}, OLD_NAMES)
    DDIMScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False
    ).save_config(write.folder / "scheduler")
    write.index(
        "DiTPipeline",
        transformer="DiTTransformer2DModel",
        vae="AutoencoderKL",
        scheduler="DDIMScheduler",
    )


class _Writer:
    """Writes the parts of a pipeline, one tensor at a time.

    Attributes:
        parameters: how many numbers have been written so far.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, seed: int) -> None:
        self.folder, self.dtype, self.parameters = folder, dtype, 0
        self._generator = torch.Generator().manual_seed(seed)

    def network(
        self, kind: Any, name: str, config: Mapping[str, Any], names: Mapping[str, str] = {}
    ) -> None:
        """A network of diffusers, with parts of its tensors' names replaced."""
        with torch.device("meta"):
            model = kind.from_config(dict(config))
        model.save_config(self.folder / name)
        tensors = model.state_dict()
        for new, old in names.items():
            tensors = {k.replace(f".{new}.", f".{old}."): v for k, v in tensors.items()}
        self._weights(self.folder / name / WEIGHTS, tensors)

    def text_encoder(self, config: CLIPTextConfig) -> None:
        folder = self.folder / "text_encoder"
        with torch.device("meta"):
            model = CLIPTextModel(config)
        config.dtype = self.dtype
        config.save_pretrained(folder)
        found = model.state_dict()
        tensors = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in found.items()}
        self._weights(folder / "model.safetensors", tensors)

    def index(self, pipeline: str, **parts: Any) -> None:
        """Write model_index.json; a part is named by its class."""
        entries = {
            name: ["transformers" if "CLIP" in kind else "diffusers", kind]
            if isinstance(kind, str)
            else ([None, None] if kind is None else kind)
            for name, kind in parts.items()
        }
        text = json.dumps({"_class_name": pipeline, **entries}, indent=2)
        (self.folder / "model_index.json").write_text(text + "\n")

    def _weights(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file, whose format is a header of JSON and then the numbers."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, tensor in tensors.items():
            start, end = end, end + tensor.numel() * self.dtype.itemsize
            about = {"dtype": TYPES[self.dtype], "shape": list(tensor.shape)}
            header[name] = {**about, "data_offsets": [start, end]}
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        with path.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for name, tensor in tensors.items():
                values = self._values(name, tensor.shape).to(self.dtype)
                file.write(values.view(torch.uint8).numpy().data)
                self.parameters += tensor.numel()

    def _values(self, name: str, shape: torch.Size) -> Tensor:
        """Ones for the weights of norms, zeros for biases; all else keeps the size of its input."""
        if len(shape) < 2:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        return torch.randn(shape, generator=self._generator).div_(prod(shape[1:]) ** 0.5)


def clip_vocabulary() -> tuple[list[str], list[str]]:
    """CLIP's merges, and its tokens in order but for the last two, from the package open_clip.

    Raises:
        BiGainError: if that is not installed.
    """
    found = importlib.util.find_spec("open_clip")
    folder = Path(found.origin).parent if found and found.origin else None
    path = folder / "bpe_simple_vocab_16e6.txt.gz" if folder else None
    if path is None or not path.is_file():
        raise BiGainError(
            "CLIP's vocabulary is not installed; run pip install --no-deps open_clip_torch, or set "
            "vocabulary=bytes for a small stand-in, which cuts prompts off earlier"
        )
    with gzip.open(path, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 1 + MERGES]
    return merges, [*_symbols(), *(merge.replace(" ", "") for merge in merges)]


def _symbols() -> list[str]:
    """The characters of the 256 bytes in CLIP's order, and the same at the end of a word."""
    symbols = sorted(byte_symbols())
    return [*symbols, *(f"{symbol}</w>" for symbol in symbols)]


def _tokenizer(folder: Path, merges: list[str], tokens: list[str]) -> int:
    """Write a CLIPTokenizer, and return its number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate([*tokens, START, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(vocabulary)

"""Stable Diffusion 1 and 2 (Rombach et al. 2022) from diffusers."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from bigain.backbones.base import Subjects
from bigain.backbones.checkpoint import Checkpoint
from bigain.backbones.latents import Autoencoder, square
from bigain.backbones.schedule import FILE, NoiseSchedule
from bigain.compression.batch_groups import padded
from bigain.errors import BiGainError
from bigain.utils import tensor_cache, user_cache
from bigain.utils.hardware import hardware
from bigain.utils.hash_cache import sha256

PROMPTS = 64  # number of prompts encoded at a time
KEPT = 512 * 2**20  # bytes of prompts' embeddings that are kept in memory


class StableDiffusion:
    """A text-conditional U-Net on latents that predicts noise or v.

    Args:
        path: a folder with ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and
            ``scheduler/``, as saved by diffusers' StableDiffusionPipeline, or a hub id.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    family: ClassVar[str] = "unet"

    def __init__(self, path: str, revision: str | None = None) -> None:
        components = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        self.checkpoint = Checkpoint(path, components, revision)

    def identity(self) -> dict[str, Any]:
        networks = {name: self.checkpoint.digest(name) for name in ("unet", "vae", "text_encoder")}
        return {
            **networks,
            "tokenizer": self._tokenizer_digest(),
            "scheduler": self.checkpoint.config("scheduler", FILE),
        }

    def fetched(self) -> bool:
        return self.checkpoint.fetched

    def skeleton(self) -> UNet2DConditionModel:
        return self.checkpoint.skeleton(UNet2DConditionModel, "unet")

    def load(self, device: torch.device, dtype: torch.dtype) -> "StableDiffusion":
        folder = self.checkpoint.folder
        self.schedule = NoiseSchedule.load(self.checkpoint, device, latent=True)
        self.noise_schedule = self.schedule.config
        self.alphas_cumprod = self.schedule.alphas_cumprod
        self._vocabulary()
        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        except Exception as error:  # damaged files raise many kinds of errors
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BiGainError(
                f"{folder / 'tokenizer'} cannot be loaded ({reason}); {self.checkpoint.mend}"
            ) from error
        # in float32 like the autoencoder, because prompts are encoded only once
        encoder: Any = self.checkpoint.load(CLIPTextModel, "text_encoder")
        self.text_encoder: Any = encoder.to(device, torch.float32)
        self._fixed = self._what_fixes_embeddings(device)
        self.autoencoder = Autoencoder(self.checkpoint, device)
        options = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
        unet: Any = self.checkpoint.load(UNet2DConditionModel, "unet", **options)
        takes = (unet.config.in_channels, unet.config.cross_attention_dim)
        given = (self.autoencoder.channels, self.text_encoder.config.hidden_size)
        if takes != given or unet.config.addition_embed_type is not None:
            raise BiGainError(
                f"{self.checkpoint.path} is no text-to-image model of Stable Diffusion 1 or 2: "
                f"unet takes latent and text channels {takes}, but vae and text_encoder give "
                f"{given}; "
                "choose one, and copy all components from it"
            )
        size = square(self.checkpoint.path, unet)
        self.latent_shape = (unet.config.in_channels, size, size)
        self.denoiser = unet.to(device)
        self._known: dict[tuple[str, ...], Tensor] = {}
        self._rows: dict[str, Tensor] = {}
        return self

    def encode(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images, self.latent_shape[-1])

    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)

    def condition(self, dataset: Subjects) -> Tensor:
        """The embeddings of the classes' prompts, [K, L, C] in the denoiser's type.

        Raises:
            BiGainError: if the model reads the prompts of two classes as the same text.
        """
        self._check_distinct(dataset)
        return self._once(tuple(dataset.prompts))

    def condition_images(self, dataset: Subjects, indices: Sequence[int]) -> Tensor:
        prompts = [dataset.prompt(i) for i in indices]
        different = list(dict.fromkeys(prompts))
        places = [different.index(p) for p in prompts]
        return self.embed(different)[places]

    def unconditional(self) -> Tensor:
        return self._once(("",))

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        output = self.denoiser(
            x.to(self.denoiser.dtype), t, encoder_hidden_states=condition, return_dict=False
        )[0]
        return self.schedule.noise(output, x, t)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """The text encoder's last hidden state for each prompt, [B, L, C] in the denoiser's type.

        Prompts are padded or truncated to the text encoder's length L, as in diffusers' pipeline. A
        truncated prompt gives a warning. Each distinct prompt is encoded once, and its embedding
        is the same to the bit whichever others are given with it.
        """
        distinct = list(dict.fromkeys(prompts))
        found = {p: self._rows[p] for p in distinct if p in self._rows}
        new = [p for p in distinct if p not in found]
        if new:
            self._warn_of_cuts(distinct)
        for start in range(0, len(new), PROMPTS):
            found |= self._encoded(new[start : start + PROMPTS])
        embeddings = torch.stack([found[p] for p in prompts])
        self._rows |= found
        most = KEPT // embeddings[0].nbytes
        while len(self._rows) > most:
            del self._rows[next(iter(self._rows))]  # the oldest
        return embeddings

    @torch.no_grad()
    def _encoded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The embeddings of at most `PROMPTS` prompts, from the user's cache or the encoder."""
        config = self.text_encoder.config
        shape = (self._length, config.hidden_size)
        found = {}
        if self._fixed is not None:
            kept = {p: tensor_cache.read(self._key(p), shape) for p in prompts}
            found = {p: embedding for p, embedding in kept.items() if embedding is not None}
        if new := [p for p in prompts if p not in found]:
            device = self.alphas_cumprod.device
            # a CPU gives a prompt the same bits in a batch of any size; other devices might not
            smallest = 1 if device.type == "cpu" else PROMPTS
            tokens = self.tokenizer(
                [new[i] for i in padded(len(new), smallest)],
                padding="max_length",
                max_length=self._length,
                truncation=True,
                return_tensors="pt",
            ).to(device)
            # only some encoders were trained with the padding masked
            mask = tokens.attention_mask if getattr(config, "use_attention_mask", False) else None
            hidden = self.text_encoder(tokens.input_ids, attention_mask=mask).last_hidden_state
            computed = dict(zip(new, hidden, strict=False))  # without the padding
            if self._fixed is not None:
                tensor_cache.write({self._key(p): row for p, row in computed.items()})
            found |= computed
        place = {"device": self.alphas_cumprod.device, "dtype": self.denoiser.dtype}
        return {p: embedding.to(**place) for p, embedding in found.items()}

    def _what_fixes_embeddings(self, device: torch.device) -> Mapping[str, Any] | None:
        """All that an embedding depends on beside the prompt; None if no cache is kept."""
        if user_cache.folder() is None:
            return None
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        return {
            "text_encoder": self.checkpoint.digest("text_encoder"),
            "tokenizer": self._tokenizer_digest(),
            "length": self._length,
            "device": [hardware(device.type), name],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def _key(self, prompt: str) -> str:
        return json.dumps({"prompt": prompt, **(self._fixed or {})}, sort_keys=True)

    @property
    def _length(self) -> int:
        """L, the number of tokens of a prompt."""
        most: int = self.text_encoder.config.max_position_embeddings
        return min(self.tokenizer.model_max_length, most)

    def _check_distinct(self, dataset: Subjects) -> None:
        """Refuse different classes whose prompts are the same tokens.

        Two pairs of ImageNet's classes share a published prompt, and are accepted.
        """
        read = self.tokenizer(list(dataset.prompts), max_length=self._length, truncation=True)
        first: dict[tuple[int, ...], int] = {}
        for label, tokens in enumerate(map(tuple, read.input_ids)):
            other = first.setdefault(tokens, label)
            one, two = dataset.prompts[other], dataset.prompts[label]
            if other == label or (one == two and dataset.class_ids is not None):
                continue
            cut = (
                f", which it cuts after {self._length} tokens"
                if len(tokens) == self._length
                else ""
            )
            raise BiGainError(
                f"the classes {dataset.classes[other]!r} and {dataset.classes[label]!r} have "
                f"prompts that the model reads as the same text{cut}: {_short(one)} and "
                f"{_short(two)}; give them prompts that differ early on, in the file of "
                "dataset.prompts or by the names of the classes"
            )

    def _warn_of_cuts(self, prompts: Sequence[str]) -> None:
        read = self.tokenizer(list(prompts), verbose=False).input_ids
        long = [p for p, tokens in zip(prompts, read, strict=True) if len(tokens) > self._length]
        if long:
            warnings.warn(
                f"{len(long)} of {len(prompts)} prompts exceed the {self._length} tokens that the "
                f"model reads, so their ends are cut off; the first is {_short(long[0])}",
                stacklevel=2,
            )

    def _once(self, prompts: tuple[str, ...]) -> Tensor:
        if prompts not in self._known:
            self._known[prompts] = self.embed(prompts)
        return self._known[prompts]

    def _tokenizer_digest(self) -> dict[str, str]:
        return {file.name: sha256(file) for file in self._vocabulary()}

    def _vocabulary(self) -> list[Path]:
        """The tokenizer's files."""
        folder = self.checkpoint.folder / "tokenizer"
        found = sorted([*folder.glob("*.json"), *folder.glob("*.txt")])
        names = {file.name for file in found}
        if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
            raise BiGainError(
                f"{folder} lacks vocab.json and merges.txt, or tokenizer.json; "
                f"{self.checkpoint.mend}"
            )
        return found


def _short(text: str) -> str:
    """A prompt in quotes, and no more than its beginning."""
    return repr(text if len(text) <= 80 else f"{text[:79]}…")

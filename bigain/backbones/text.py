"""Prompts as the denoisers of text-to-image models read them, each encoded once."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (  # type: ignore[attr-defined]  # a new name in version 5
    CLIPTextModel,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from bigain.backbones.base import Subjects
from bigain.backbones.checkpoint import Checkpoint
from bigain.compression.batch_groups import padded
from bigain.errors import BiGainError, reason_of
from bigain.utils import tensor_cache, user_cache
from bigain.utils.hardware import hardware
from bigain.utils.hash_cache import sha256

PROMPTS = 64  # number of prompts encoded at a time
KEPT = 512 * 2**20  # bytes of prompts' embeddings that are kept in memory


class TextEncoder:
    """A text encoder of a pipeline with its tokenizer.

    Args:
        suffix: of the two folders' names, such as "_2" of ``text_encoder_2``.
        kind, tokenizer: their classes in transformers.
        dtype: of the encoder. It is float32 for CLIP whatever the denoiser's, because prompts are
            encoded only once.
        length: of a prompt in tokens; None for the most that both take.
        clean: what is done to a prompt before it is read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        kind: Any,
        tokenizer: Any,
        suffix: str = "",
        *,
        dtype: torch.dtype = torch.float32,
        length: int | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        self._checkpoint, self._suffix, self._clean = checkpoint, suffix, clean
        self.device = device
        folder = checkpoint.folder / f"tokenizer{suffix}"
        vocabulary(checkpoint, suffix)
        try:
            self.tokenizer: Any = tokenizer.from_pretrained(folder)
        except Exception as error:  # damaged files raise many kinds of errors
            reason = reason_of(error)
            raise BiGainError(f"{folder} cannot be loaded ({reason}); {checkpoint.mend}") from error
        encoder: Any = checkpoint.load(kind, f"text_encoder{suffix}")
        self.model: Any = encoder.to(device, dtype)
        if length is None:
            most: int = self.model.config.max_position_embeddings
            length = min(self.tokenizer.model_max_length, most)
        self.length = length

    @property
    def width(self) -> int:
        """The channels of its hidden states."""
        return int(self.model.config.hidden_size)

    def identity(self) -> dict[str, Any]:
        """All that what it makes of a prompt depends on, but for the machine."""
        found = {
            "text_encoder": self._checkpoint.digest(f"text_encoder{self._suffix}"),
            "tokenizer": tokenizer_digest(self._checkpoint, self._suffix),
            "length": self.length,
        }
        if self.model.dtype != torch.float32:
            found["dtype"] = str(self.model.dtype)
        return found

    def tokens(self, prompts: Sequence[str]) -> Any:
        """Prompts padded or truncated to the length, with ``input_ids`` and ``attention_mask``."""
        return self.tokenizer(
            [self._clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)

    def read(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each prompt that the model reads, without padding."""
        texts = [self._clean(prompt) for prompt in prompts]
        found = self.tokenizer(texts, max_length=self.length, truncation=True).input_ids
        return [tuple(tokens) for tokens in found]

    def cuts(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than the model reads."""
        texts = [self._clean(prompt) for prompt in prompts]
        found = self.tokenizer(texts, verbose=False).input_ids
        return [len(tokens) > self.length for tokens in found]


def clip(
    checkpoint: Checkpoint, device: torch.device, suffix: str = "", kind: Any = CLIPTextModel
) -> TextEncoder:
    """CLIP's text encoder, as long as a prompt may be; ``kind`` is its class."""
    return TextEncoder(checkpoint, device, kind, CLIPTokenizer, suffix)


def t5(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    suffix: str,
    length: int,
    clean: Callable[[str], str] = str,
) -> TextEncoder:
    """T5's encoder beside a denoiser of type ``dtype``, whose type it shares.

    In float32, the T5 of published pipelines takes 19 GB. In float16 it overflows, so that it runs
    in bfloat16 there.
    """
    dtype = torch.bfloat16 if dtype == torch.float16 else dtype
    kinds = (T5EncoderModel, T5TokenizerFast)
    return TextEncoder(checkpoint, device, *kinds, suffix, dtype=dtype, length=length, clean=clean)


class Texts:
    """The prompts of a pipeline as its denoiser reads them.

    Each distinct prompt is encoded once, and its embedding is the same to the bit whichever others
    are given with it. Embeddings are kept in memory, and from process to process in the user's
    cache.

    Args:
        encoders: that read a prompt.
        shape: of a prompt's embedding.
        encode: at most `PROMPTS` prompts to their embeddings, [B, *shape].
        device, dtype: of the embeddings.
    """

    def __init__(
        self,
        encoders: Sequence[TextEncoder],
        shape: Sequence[int],
        encode: Callable[[Sequence[str]], Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.encoders = encoders
        self._shape, self._encode = tuple(shape), encode
        self._device, self._dtype = device, dtype
        self._fixed = self._what_fixes_embeddings()
        self._known: dict[tuple[str, ...], Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def classes(self, dataset: Subjects) -> Tensor:
        """The embeddings of the classes' prompts, [K, *shape].

        Raises:
            BiGainError: if the model reads the prompts of two classes as the same text.
        """
        self._check_distinct(dataset)
        return self.once(tuple(dataset.prompts))

    def images(self, dataset: Subjects, indices: Sequence[int]) -> Tensor:
        """The embeddings of the prompts to generate from in place of images, [B, *shape]."""
        prompts = [dataset.prompt(i) for i in indices]
        different = list(dict.fromkeys(prompts))
        places = [different.index(p) for p in prompts]
        return self.embed(different)[places]

    def once(self, prompts: tuple[str, ...]) -> Tensor:
        """`embed`, whose result is kept for the next call."""
        if prompts not in self._known:
            self._known[prompts] = self.embed(prompts)
        return self._known[prompts]

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """The embedding of each prompt, [B, *shape].

        Prompts are padded or truncated to the encoders' lengths, as in diffusers' pipelines. A
        prompt that no encoder reads to its end gives a warning.
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
        """The embeddings of at most `PROMPTS` prompts, from the user's cache or the encoders."""
        found = {}
        if self._fixed is not None:
            kept = {p: tensor_cache.read(self._key(p), self._shape) for p in prompts}
            found = {p: embedding for p, embedding in kept.items() if embedding is not None}
        if new := [p for p in prompts if p not in found]:
            # a CPU gives a prompt the same bits in a batch of any size; other devices might not
            smallest = 1 if self._device.type == "cpu" else PROMPTS
            rows = self._encode([new[i] for i in padded(len(new), smallest)]).float()
            computed = dict(zip(new, rows, strict=False))  # without the padding
            if self._fixed is not None:
                tensor_cache.write({self._key(p): row for p, row in computed.items()})
            found |= computed
        return {p: row.to(self._device, self._dtype) for p, row in found.items()}

    def _what_fixes_embeddings(self) -> Mapping[str, Any] | None:
        """All that an embedding depends on beside the prompt; None if no cache is kept."""
        if user_cache.folder() is None:
            return None
        device = self._device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        first, *others = [encoder.identity() for encoder in self.encoders]
        return {
            **first,
            **({"others": others} if others else {}),
            "device": [hardware(device.type), name],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def _key(self, prompt: str) -> str:
        return json.dumps({"prompt": prompt, **(self._fixed or {})}, sort_keys=True)

    @property
    def _longest(self) -> TextEncoder:
        """The encoder that reads the most of a prompt."""
        return max(self.encoders, key=lambda encoder: encoder.length)

    def _check_distinct(self, dataset: Subjects) -> None:
        """Refuse different classes whose prompts are the same tokens to every encoder.

        Two pairs of ImageNet's classes share a published prompt, and are accepted.
        """
        length = self._longest.length
        read = zip(*(encoder.read(dataset.prompts) for encoder in self.encoders), strict=True)
        first: dict[tuple[tuple[int, ...], ...], int] = {}
        for label, tokens in enumerate(read):
            other = first.setdefault(tokens, label)
            one, two = dataset.prompts[other], dataset.prompts[label]
            if other == label or (one == two and dataset.class_ids is not None):
                continue
            cut = f", which it cuts after {length} tokens" if length in map(len, tokens) else ""
            raise BiGainError(
                f"the classes {dataset.classes[other]!r} and {dataset.classes[label]!r} have "
                f"prompts that the model reads as the same text{cut}: {_short(one)} and "
                f"{_short(two)}; give them prompts that differ early on, in the file of "
                "dataset.prompts or by the names of the classes"
            )

    def _warn_of_cuts(self, prompts: Sequence[str]) -> None:
        cuts = [encoder.cuts(prompts) for encoder in self.encoders]
        long = [p for p, *by in zip(prompts, *cuts, strict=True) if all(by)]
        if long:
            warnings.warn(
                f"{len(long)} of {len(prompts)} prompts exceed the {self._longest.length} tokens "
                "that the model reads, so their ends are cut off; the first is "
                f"{_short(long[0])}",
                stacklevel=2,
            )


def pack(*parts: Tensor) -> Tensor:
    """Several tensors [B, ...] as one, [B, n]: tasks handle a condition as a single tensor."""
    return torch.cat([part.flatten(1) for part in parts], 1)


def unpack(packed: Tensor, *shapes: Sequence[int]) -> list[Tensor]:
    """What `pack` was given, as views of the packed tensor [B, n]; ``shapes`` are without B."""
    pieces = packed.split([prod(shape) for shape in shapes], 1)
    return [piece.reshape(len(packed), *s) for piece, s in zip(pieces, shapes, strict=True)]


def tokenizer_digest(checkpoint: Checkpoint, suffix: str = "") -> dict[str, str]:
    """What identifies a tokenizer in a run's fingerprint: the SHA-256 of its files."""
    return {file.name: sha256(file) for file in vocabulary(checkpoint, suffix)}


def vocabulary(checkpoint: Checkpoint, suffix: str) -> list[Path]:
    """A tokenizer's files.

    Raises:
        BiGainError: if there is none that lists its tokens.
    """
    folder = checkpoint.folder / f"tokenizer{suffix}"
    found = sorted(f for kind in ("*.json", "*.model", "*.txt") for f in folder.glob(kind))
    names = {file.name for file in found}
    if not names & {"tokenizer.json", "spiece.model"} and not {"vocab.json", "merges.txt"} <= names:
        raise BiGainError(
            f"{folder} lacks vocab.json and merges.txt, tokenizer.json, or spiece.model; "
            f"{checkpoint.mend}"
        )
    return found


def byte_symbols() -> list[str]:
    """A printable character for each of the 256 bytes, by the byte; in CLIP's order if sorted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def _short(text: str) -> str:
    """A prompt in quotes, and no more than its beginning."""
    return repr(text if len(text) <= 80 else f"{text[:79]}…")

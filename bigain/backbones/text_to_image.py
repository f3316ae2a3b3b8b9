"""What the text-to-image models have in common: prompts, an autoencoder, and files to load."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bigain.backbones.base import Subjects
from bigain.backbones.checkpoint import Checkpoint
from bigain.backbones.latents import Autoencoder, square
from bigain.backbones.schedule import NoiseSchedule, Schedule
from bigain.backbones.scheduler_config import FILE, bounded
from bigain.backbones.text import TextEncoder, Texts, tokenizer_digest
from bigain.errors import BiGainError


class TextToImage(ABC):
    """A text-conditional denoiser of latents, loaded from a diffusers pipeline.

    Args:
        path: a folder as saved by the model's pipeline in diffusers, or a hub id.
        revision: branch, tag or commit on the hub; None for the newest.

    Attributes:
        component: the folder of the denoiser.
        kind: its class in diffusers.
        suffixes: of the folders of text encoders and their tokenizers; the first has none.
        optional: those of ``suffixes`` that a pipeline may lack.
    """

    family: ClassVar[str]
    component: ClassVar[str] = "transformer"
    kind: ClassVar[Any]
    suffixes: ClassVar[Sequence[str]] = ("",)
    optional: ClassVar[Sequence[str]] = ()

    schedule: Schedule

    def __init__(self, path: str, revision: str | None = None) -> None:
        texts = [f"{part}{s}" for s in self.suffixes for part in ("text_encoder", "tokenizer")]
        components = (self.component, "vae", *texts, "scheduler")
        self.checkpoint = Checkpoint(path, components, revision)

    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: self.checkpoint.digest(name) for name in (self.component, "vae")
        }
        for suffix in self._suffixes:
            found[f"text_encoder{suffix}"] = self.checkpoint.digest(f"text_encoder{suffix}")
            found[f"tokenizer{suffix}"] = tokenizer_digest(self.checkpoint, suffix)
        return {**found, "scheduler": bounded(self.checkpoint.config("scheduler", FILE))}

    def fetched(self) -> bool:
        return self.checkpoint.fetched

    def skeleton(self) -> Any:
        return self.checkpoint.skeleton(self.kind, self.component)

    def load(self, device: torch.device, dtype: torch.dtype) -> Self:
        self.schedule = self._load_schedule(device)
        encoders = self._load_encoders(device, dtype)
        self.autoencoder = Autoencoder(self.checkpoint, device)
        options = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
        denoiser: Any = self.checkpoint.load(self.kind, self.component, **options)
        self._check(denoiser, encoders)
        size = self._side(denoiser)
        self.latent_shape = (self.autoencoder.channels, size, size)
        # again with the type, which diffusers leaves out for some models; not by diffusers' own
        # `to`, which warns of modules to be kept in float32 even if there are none
        self.denoiser: Any = torch.nn.Module.to(denoiser, device, dtype)
        self.texts = Texts(encoders, self._row_shape(encoders), self._encode_texts, device, dtype)
        return self

    def encode(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images, self.latent_shape[-1])

    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)

    def condition(self, dataset: Subjects) -> Tensor:
        """The classes' prompts as the denoiser reads them, [K, ...] in its type.

        Raises:
            BiGainError: if the model reads the prompts of two classes as the same text.
        """
        return self.texts.classes(dataset)

    def condition_images(self, dataset: Subjects, indices: Sequence[int]) -> Tensor:
        return self.texts.images(dataset, indices)

    def unconditional(self) -> Tensor:
        return self.texts.once(("",))

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """See `bigain.backbones.Backbone.predict`."""

    # What the families differ in

    def _load_schedule(self, device: torch.device) -> Schedule:
        """Of noise, unless the family says otherwise."""
        return NoiseSchedule.load(self.checkpoint, device, latent=True)

    @abstractmethod
    def _load_encoders(self, device: torch.device, dtype: torch.dtype) -> list[TextEncoder]:
        """The text encoders of `_suffixes`; ``dtype`` is the denoiser's."""

    @abstractmethod
    def _parts(self, encoders: Sequence[TextEncoder]) -> list[tuple[int, ...]]:
        """The shapes of what a condition consists of."""

    def _row_shape(self, encoders: Sequence[TextEncoder]) -> tuple[int, ...]:
        """The shape of what `_encode_texts` makes of one prompt: all parts, packed."""
        return (sum(prod(shape) for shape in self._parts(encoders)),)

    @abstractmethod
    def _encode_texts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts as the denoiser reads them, [B, ...]; they come through `texts`."""

    @abstractmethod
    def _check(self, denoiser: Any, encoders: Sequence[TextEncoder]) -> None:
        """Refuse parts that do not fit each other, with a BiGainError."""

    def _side(self, denoiser: Any) -> int:
        """The side of the denoiser's latents."""
        return square(self.checkpoint.path, denoiser)

    @property
    def _suffixes(self) -> list[str]:
        """Those of ``suffixes`` that this pipeline has."""
        return [
            s
            for s in self.suffixes
            if s not in self.optional or self.checkpoint.has(f"text_encoder{s}")
        ]

    def _fit(self, kind: str, *parts: tuple[str, int, str, int]) -> None:
        """Compare widths that must be equal.

        Args:
            kind: what the pipeline is taken for.
            parts: a part and the width that it takes; a part and the width that it gives.

        Raises:
            BiGainError: if some are not.
        """
        for takes, wanted, gives, found in parts:
            if wanted != found:
                raise BiGainError(
                    f"{self.checkpoint.path} is no {kind}: {takes} takes {wanted} channels, but "
                    f"{gives} gives {found}; choose one, and copy all components from it"
                )

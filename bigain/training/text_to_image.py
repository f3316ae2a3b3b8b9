"""Latent text-to-image models of Fashion-MNIST: what they share, and Stable Diffusion's U-Net."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bigain.backbones.checkpoint import Checkpoint
from bigain.datasets.fashion_mnist import PROMPTS
from bigain.errors import BiGainError
from bigain.training.curves import Panel
from bigain.training.denoising import MinSNR, Objective, class_gap, times
from bigain.training.draws import Garments, generator
from bigain.training.muon import muon_and_adam
from bigain.training.words import write_tokenizer

FIRST, LAST = "a photo of ", "."  # what stands around the garment in a class's prompt


class TextToImage(ABC):
    """A denoiser of frozen latents and its text encoders, trained together on captions."""

    panel = Panel("class_gap", "loss added by another prompt (1e-4)", 1e4)
    loss_name: str
    pipeline: type[Any]  # in whose format the model is saved

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.garments = Garments(cfg.data, cfg.held_out)
        folder = Path(cfg.autoencoder)
        if not (folder / "config.json").is_file():
            raise BiGainError(
                f"{folder} holds no autoencoder; train it first: "
                f"python scripts/train_reference.py reference=sd_fashion_vae data={cfg.data}"
            )
        self.checkpoint = Checkpoint(str(folder.parent), (folder.name,))
        self.autoencoder: AutoencoderKL = self.checkpoint.load(AutoencoderKL, folder.name)
        self.captions = captions(cfg.templates)
        with TemporaryDirectory() as temporary:
            self.tokenizer = self._tokenizer(Path(temporary))
        self.tokens = torch.stack([self._tokens(of_template) for of_template in self.captions])
        self.prompts, self.nothing = self._tokens(PROMPTS), self._tokens([""])[0]

    def identity(self) -> dict[str, Any]:
        weights = self.checkpoint.digest(Path(self.cfg.autoencoder).name)["weights"]
        return {**self.garments.data.identity(), "autoencoder": sorted(weights.values())}

    def build(self, device: torch.device) -> nn.Module:
        self.objective = self._objective(device)
        autoencoder = self.autoencoder.to(device)
        self.latents = encode(autoencoder, self.garments.images)
        self.held_latents = encode(autoencoder, self.garments.held_images)
        return self._model(self.latents.shape[1:], device).to(device)

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def is_hidden(name: str, p: nn.Parameter) -> bool:
            return self._is_inner(name) and p.ndim in (2, 4)

        return muon_and_adam(self.cfg, model, is_hidden)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Latents, stratified timesteps, noise and captions, as the objective takes them."""
        cfg, g = self.cfg, generator(self.cfg.seed, step)
        size = cfg.batch_size
        index = torch.randint(len(self.latents), (size,), generator=g)
        template = torch.randint(len(self.tokens), (size,), generator=g)
        tokens = self.tokens[template, self.garments.labels[index]]
        dropped = torch.rand(size, 1, generator=g) < cfg.caption_dropout
        x = self.latents[index]
        noise = torch.randn(x.shape, generator=g)
        return x, self._times(size, g), noise, torch.where(dropped, self.nothing, tokens)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        return self.objective(model, *batch).mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss with the true prompt and its mean rise with another, on the held-out images."""
        labels = self.garments.held_labels
        return class_gap(
            self.objective, model, self.held_latents, labels, lambda y: self.prompts[y]
        )

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Nothing: the accuracy on the model's card comes from a separate run."""
        return {}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the whole pipeline, with files named like the published ones."""
        self.pipeline(**self._parts(model)).save_pretrained(folder)
        for tokenizer in folder.glob("tokenizer*"):
            # the newest libraries write a single file of their own
            for file in tokenizer.iterdir():
                file.unlink()
            self._tokenizer(tokenizer)
        for weights in folder.glob("text_encoder*/model.safetensors"):
            # older libraries need the prefix that the newest ones drop
            tensors = {_prefixed(name): v for name, v in load_file(weights).items()}
            save_file(tensors, weights, {"format": "pt"})

    # What the architectures differ in

    @abstractmethod
    def _objective(self, device: torch.device) -> Objective:
        """The loss of a batch."""

    @abstractmethod
    def _model(self, latent: Sequence[int], device: torch.device) -> nn.Module:
        """The denoiser with its text encoders, for latents of shape (c, h, w)."""

    @abstractmethod
    def _is_inner(self, name: str) -> bool:
        """Whether a parameter of the model belongs to an inner layer, which Muon optimises."""

    @abstractmethod
    def _parts(self, model: nn.Module) -> dict[str, Any]:
        """The arguments of `pipeline`."""

    def _times(self, size: int, g: torch.Generator) -> Tensor:
        return times(size, g)

    def _tokenizer(self, folder: Path) -> CLIPTokenizer:
        texts = [caption for of_template in self.captions for caption in of_template]
        return write_tokenizer(texts, self.cfg.length, folder)

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids as the backbone takes them, int64 [len(texts), length]."""
        found = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.cfg.length,
            truncation=True,
            return_tensors="pt",
        )
        ids: Tensor = found.input_ids
        return ids


class UNet(TextToImage):
    """Noise prediction, built like Stable Diffusion."""

    loss_name = "Min-SNR weighted loss"
    pipeline = StableDiffusionPipeline

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        # Stable Diffusion's schedule ends at 0.012, where the brightness of so small an image is
        # still visible; this one adds a little more noise.
        self.scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.015,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )

    def _objective(self, device: torch.device) -> Objective:
        return MinSNR(predict, self.scheduler, self.cfg.snr_gamma, device)

    def _model(self, latent: Sequence[int], device: torch.device) -> "Conditioned":
        unet = build_unet(self.cfg, latent)
        if device.type == "cpu":  # where the backward pass of fused attention is slower
            unet.set_attn_processor(AttnProcessor())
        return Conditioned(unet, build_text_encoder(self.cfg, self.tokenizer))

    def _is_inner(self, name: str) -> bool:
        return "_block" in name or ".layers." in name

    def _parts(self, model: nn.Module) -> dict[str, Any]:
        assert isinstance(model, Conditioned)
        return {
            "unet": model.unet,
            "vae": self.autoencoder,
            "text_encoder": model.text_encoder,
            "tokenizer": self.tokenizer,
            "scheduler": self.scheduler,
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }


class Conditioned(nn.Module):
    """A U-Net and the text encoder that conditions it."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predict the noise in x [B, c, h, w] at t [B], given the captions' tokens [B, L]."""
        text = self.text_encoder(tokens, position_ids=places(tokens)).last_hidden_state
        found: Tensor = self.unet(x, t, encoder_hidden_states=text).sample
        return found


def places(tokens: Tensor) -> Tensor:
    """The tokens' positions, [1, L]; the averaged model rounds an encoder's own down."""
    return torch.arange(tokens.shape[1], device=tokens.device)[None]


def _prefixed(name: str) -> str:
    """A tensor's name with the prefix of the text model's layers."""
    if name.startswith("text_projection."):
        return name
    return f"text_model.{name.removeprefix('text_model.')}"


def predict(model: nn.Module, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
    """What the model predicts at x [B, c, h, w] and t [B], given the captions' tokens [B, L]."""
    found: Tensor = model(x, t, tokens)
    return found


def captions(templates: Sequence[str]) -> list[list[str]]:
    """Put each class's garment in place of ``{}`` in each template, [templates][classes].

    Raises:
        BiGainError: if a template has no place for it.
    """
    if lacking := [template for template in templates if "{}" not in template]:
        raise BiGainError(f"templates need {{}} where the garment goes, got {lacking[0]!r}")
    garments = [prompt.removeprefix(FIRST).removesuffix(LAST) for prompt in PROMPTS]
    return [[template.replace("{}", garment) for garment in garments] for template in templates]


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """The posterior's mean, scaled as in a pipeline: [N, 1, H, W] to [N, c, h, w] on the CPU."""
    parts = [autoencoder.encode(x.to(autoencoder.device)) for x in images.split(128)]
    means = torch.cat([part.latent_dist.mean.cpu() for part in parts])
    return means * autoencoder.config.scaling_factor


def build_unet(cfg: DictConfig, latent: Sequence[int]) -> UNet2DConditionModel:
    """Stable Diffusion's U-Net, with transformers at every resolution.

    Args:
        cfg: the settings of the reference model.
        latent: shape of a latent, (c, h, w).
    """
    levels = len(cfg.model.channels)
    model = UNet2DConditionModel(
        sample_size=latent[-1],
        in_channels=latent[0],
        out_channels=latent[0],
        block_out_channels=tuple(cfg.model.channels),
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        layers_per_block=cfg.model.layers,
        attention_head_dim=tuple(cfg.model.heads),  # diffusers' name for their number
        norm_num_groups=cfg.model.groups,
        cross_attention_dim=cfg.text.width,
        use_linear_projection=True,
    )
    # residual branches start at zero, as in the original code; diffusers omits that
    for name, module in model.named_modules():
        last = name == "conv_out" or name.rpartition(".")[2] in ("conv2", "proj_out")
        if last and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def build_text_encoder(cfg: DictConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text encoder with random weights."""
    return CLIPTextModel(text_config(cfg, tokenizer))


def text_config(cfg: DictConfig, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """The config of a text encoder of CLIP."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=cfg.text.width,
        intermediate_size=4 * cfg.text.width,
        num_hidden_layers=cfg.text.layers,
        num_attention_heads=cfg.text.heads,
        max_position_embeddings=cfg.length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

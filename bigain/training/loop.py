"""Training that an interruption cannot change: batches are keyed, a checkpoint holds the rest."""

import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from bigain.errors import BiGainError
from bigain.training.export import export
from bigain.training.recipe import Recipe
from bigain.utils.devices import device_of
from bigain.utils.files import atomic, make_folder, write_text
from bigain.utils.hardware import multiplies

PRECISIONS = ("auto", "bf16", "fp32")
PATHS = ("data", "output", "checkpoints", "autoencoder")
# these cannot change the result, so they may differ when a training is resumed
FREE = (*PATHS, "device", "save_every")


class Trainer:
    """The state of a training, which its checkpoint saves.

    Args:
        cfg: configs/train_reference.yaml with one of configs/reference.
        recipe: the recipe that ``cfg.recipe`` names.

    Attributes:
        step: number of updates done.
        seconds: time spent on them, over all starts.
        losses: losses of the steps since the last row of the log.
        rows: rows of the log.

    Raises:
        BiGainError: if a setting cannot be used.
    """

    def __init__(self, cfg: DictConfig, recipe: Recipe) -> None:
        if cfg.precision not in PRECISIONS:
            raise BiGainError(
                f"precision must be one of {', '.join(PRECISIONS)}; got {cfg.precision}"
            )
        if cfg.images < cfg.batch_size:
            raise BiGainError(
                f"images must be at least batch_size={cfg.batch_size}, one step; got {cfg.images}"
            )
        self.cfg, self.recipe = cfg, recipe
        self.device = device_of(cfg.device)
        self.bf16 = native_bf16(self.device) if cfg.precision == "auto" else cfg.precision == "bf16"
        torch.manual_seed(cfg.seed)
        self.model = recipe.build(self.device)
        # with buffers: the moments of batch normalisation fit the weights they were measured with
        self.ema = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(cfg.ema_decay), use_buffers=True
        ).eval()
        self.optimizers = recipe.optimizers(self.model)
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.step, self.seconds = 0, 0.0
        self.losses: list[Tensor] = []
        self.rows: list[dict[str, float]] = []
        self.folder = Path(cfg.checkpoints)
        self.steps = cfg.images // cfg.batch_size
        self.settings = self._settings()

    def run(self) -> None:
        """Train to the end, from the last checkpoint if there is one, and export the model.

        Raises:
            BiGainError: if the checkpoint belongs to another training, or a file cannot be written.
        """
        cfg = self.cfg
        make_folder(self.folder)
        if self.latest.exists():
            self._resume()
        bar = tqdm(total=cfg.images, initial=self.step * cfg.batch_size, unit="img", smoothing=0.05)
        began = time.monotonic() - self.seconds
        with bar:
            while self.step < self.steps:
                self._update()
                self.seconds = time.monotonic() - began
                bar.update(cfg.batch_size)
                last = self.step == self.steps
                if last or self.step % cfg.log_every == 0:
                    bar.set_postfix(self._log())
                if last or self.step % cfg.save_every == 0:
                    self._save()
        export(self.recipe, self.ema.module.float(), self._facts(), self.rows, Path(cfg.output))

    @property
    def latest(self) -> Path:
        return self.folder / "latest.pt"

    def _update(self) -> None:
        factor = rate(self.cfg, self.step * self.cfg.batch_size)
        for optimizer, full in zip(self.optimizers, self.rates, strict=True):
            for group, lr in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = lr * factor
        batch = [v.to(self.device, non_blocking=True) for v in self.recipe.batch(self.step)]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.recipe.loss(self.model, *batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update_parameters(self.model)
        self.losses.append(loss.detach())
        self.step += 1

    def _log(self) -> dict[str, float]:
        """Add a row and rewrite the whole log, so that no row is doubled after an interruption."""
        with torch.no_grad():
            measured = self.recipe.validate(self.ema.module)
        measured = {"train_loss": torch.stack(self.losses).mean().item(), **measured}
        self.losses = []
        row = {"step": self.step, "images": self.step * self.cfg.batch_size}
        row["seconds"] = round(self.seconds)
        self.rows.append({**row, **{k: float(f"{v:.6g}") for k, v in measured.items()}})
        lines = [",".join(self.rows[0]), *(",".join(map(str, r.values())) for r in self.rows)]
        write_text(self.folder / "log.csv", "\n".join(lines) + "\n")
        return measured

    def _save(self) -> None:
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "rows": self.rows,
        }
        with atomic(self.latest) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        start_anew = "remove it, or set checkpoints=..., to train anew"
        try:
            state = torch.load(self.latest, map_location=self.device, weights_only=True)
            settings = state["settings"]
        except Exception as error:  # a damaged file makes torch raise errors of many types
            raise BiGainError(
                f"{self.latest} is no checkpoint of this script; {start_anew}"
            ) from error
        for key in sorted(settings.keys() | self.settings.keys()):
            saved, asked = settings.get(key), self.settings.get(key)
            if saved != asked:
                raise BiGainError(
                    f"{self.latest} was trained with {key}={saved}, not {asked}; "
                    f"set it back to resume, or {start_anew}"
                )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses, self.rows = state["losses"], state["rows"]

    def _settings(self) -> dict[str, Any]:
        """Every setting that can change the result, with nested keys joined by dots."""
        settings = dict(flatten({k: v for k, v in plain(self.cfg).items() if k not in FREE}))
        settings["precision"] = "bf16" if self.bf16 else "fp32"
        return settings | dict(flatten({"data": self.recipe.identity()}))

    def _facts(self) -> dict[str, Any]:
        """What training.json says about this training."""
        gpu = self.device.type == "cuda"
        last = {k: v for k, v in self.rows[-1].items() if k not in ("step", "images", "seconds")}
        return {
            "config": {k: v for k, v in plain(self.cfg).items() if k not in PATHS},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "steps": self.step,
            "images": self.step * self.cfg.batch_size,
            "minutes": round(self.seconds / 60, 1),
            "device": torch.cuda.get_device_name(self.device) if gpu else platform.machine(),
            "threads": torch.get_num_threads(),
            "precision": "bf16" if self.bf16 else "fp32",
            "torch": torch.__version__,
            **last,
        }


def rate(cfg: DictConfig, seen: int) -> float:
    """Learning-rate factor: a linear warm-up, a constant stretch and a linear fall to zero."""
    warmup = min(1.0, (seen + cfg.batch_size) / cfg.warmup_images)
    return min(warmup, (cfg.images - seen) / (cfg.decay_fraction * cfg.images))


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself, rather than by way of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return multiplies("bfloat16", "cpu")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The settings as plain Python values."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Join nested keys by dots: ``{"a": {"b": 1}}`` gives ``("a.b", 1)``."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

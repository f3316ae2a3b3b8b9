"""From a configuration to finished rows in the store."""

import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from bigain import config
from bigain.attach import Attachment, compress
from bigain.backbones import Backbone
from bigain.compressors import Compressor
from bigain.datasets.base import Dataset, select
from bigain.errors import BiGainError
from bigain.metrics import flops, memory
from bigain.metrics.accuracy import top1
from bigain.randomness import KeyedStream
from bigain.results.store import Run, fingerprint
from bigain.tasks.classify import Classify, classify, rows

# Raised when the same configuration starts to give other numbers.
PROTOCOL = 1


class Plan:
    """A configuration's objects, and the run it belongs to; nothing heavy is loaded.

    Attributes:
        ids: the images asked for.
        run_path: the run's folder, there or not.
    """

    def __init__(self, cfg: DictConfig) -> None:
        config.check(cfg)
        self.cfg = cfg
        self.compressor: Compressor | None = config.build(cfg, "compressor")
        self.task: Classify = config.build(cfg, "task")
        self.dataset: Dataset = config.build(cfg, "dataset")
        self.backbone: Backbone = config.build(cfg, "model")
        self.ids = select(self.dataset.ids(), cfg.limit)

    @property
    def identity(self) -> dict[str, Any]:
        """All that can change a result; not the images asked for, nor how they are computed."""
        compression = None
        if self.compressor is not None:
            compression = {
                "compressor": config.plain(self.compressor),
                "blocks": self.blocks,
                "sites": sorted(self.cfg.sites),
            }
        return {
            "protocol": PROTOCOL,
            "model": self.backbone.identity(),
            "compression": compression,
            "dataset": self.dataset.identity(),
            "task": config.plain(self.task),
            "seed": self.cfg.seed,
            "dtype": self.cfg.dtype,
        }

    @property
    def blocks(self) -> str | list[int]:
        """A word, or a list, of :func:`bigain.compress`."""
        return self.cfg.blocks if isinstance(self.cfg.blocks, str) else list(self.cfg.blocks)

    @property
    def _root(self) -> Path:
        return Path(self.cfg.results) / "runs"

    @property
    def _prefix(self) -> str:
        return "-".join(self.cfg[g].name for g in ("task", "model", "dataset", "compressor"))

    @property
    def run_path(self) -> Path:
        return self._root / f"{self._prefix}-{fingerprint(self.identity)}"

    def run(self) -> Run:
        """The run, its folder made if it is new."""
        settings = OmegaConf.to_container(self.cfg, resolve=True)
        return Run.create(self._root, self._prefix, self.identity, settings)  # type: ignore[arg-type]


def execute(cfg: DictConfig) -> Run:
    """Compute the images of a configuration that its run lacks, and say what came out.

    Raises:
        BiGainError: if the configuration, the data or the model cannot be used.
    """
    plan = Plan(cfg)
    run = plan.run()
    with run.lock():
        finished = run.finished()
        todo = [i for i in plan.ids if i not in finished]
        if todo:
            _compute(plan, run, todo, len(plan.ids))
        else:
            print(f"nothing to compute: all {len(plan.ids)} images are in {run.path}")
    frame = run.require(plan.ids)
    accuracy = top1(frame["prediction"], frame["label"])
    print(
        f"{cfg.compressor.name}: top-1 {100 * accuracy.value:.1f}% "
        f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}] on {accuracy.n} images, "
        f"{frame['seconds'].median():.2f} s an image; {run.path}"
    )
    return run


def device_of(name: str) -> torch.device:
    """The device a configuration names; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BiGainError(f"device={name} cannot be used ({reason}); use auto or cpu") from error
    return device


def _compute(plan: Plan, run: Run, todo: list[str], total: int) -> None:
    cfg = plan.cfg
    device = device_of(cfg.device)
    backbone = plan.backbone.load(device, getattr(torch, cfg.dtype))
    condition = backbone.condition(plan.dataset)
    # enough images to fill several batches, few enough to lose little
    wanted = 4 * cfg.batch_size // plan.task.evaluations(len(condition))
    chunk = min(max(wanted, 8), 64)
    memory.reset_peak(device)
    if plan.compressor is None:
        _classify(plan, run, todo, total, chunk, condition, None)
    else:
        try:
            attachment = compress(
                backbone.denoiser,
                plan.compressor,
                blocks=plan.blocks,
                sites=cfg.sites,
                seed=cfg.seed,
            )
        except ValueError as error:
            raise BiGainError(f"compressor={cfg.compressor.name}: {error}") from error
        with attachment:
            try:
                _classify(plan, run, todo, total, chunk, condition, attachment)
            except ValueError as error:
                raise BiGainError(f"compressor={cfg.compressor.name}: {error}") from error
    _record_cost(plan, run, backbone, device)


def _classify(
    plan: Plan,
    run: Run,
    todo: list[str],
    total: int,
    chunk: int,
    condition: torch.Tensor,
    attachment: Attachment | None,
) -> None:
    cfg, backbone, task = plan.cfg, plan.backbone, plan.task
    position = {image_id: i for i, image_id in enumerate(plan.dataset.ids())}
    right, seen = 0, 0
    bar = tqdm(total=total, initial=total - len(todo), unit="img", desc=cfg.compressor.name)
    with bar:
        for start in range(0, len(todo), chunk):
            ids = todo[start : start + chunk]
            began = time.perf_counter()
            examples = [plan.dataset[position[i]] for i in ids]
            latents = backbone.encode(torch.stack([e.image for e in examples]))
            stream = KeyedStream.of(cfg.seed, "noise", ids, latents.device)
            noise = torch.stack(
                [stream.fork(s).normal(*latents.shape[1:]) for s in range(task.samples[-1])], 1
            )
            scores = classify(
                backbone,
                task,
                latents,
                noise,
                condition,
                batch_size=cfg.batch_size,
                attachment=attachment,
                sample_keys=KeyedStream.of(cfg.seed, "image", ids, latents.device).keys,
            )
            labels = [e.label for e in examples]
            hits = sum(p == y for p, y in zip(scores.predictions.tolist(), labels, strict=True))
            seconds = (time.perf_counter() - began) / len(ids)
            run.append(list(rows(scores, ids, labels, seconds)))
            right, seen = right + hits, seen + len(ids)
            bar.update(len(ids))
            bar.set_postfix_str(f"top-1 {100 * right / seen:.1f}%")


def _record_cost(plan: Plan, run: Run, backbone: Backbone, device: torch.device) -> None:
    cfg = plan.cfg
    where = {}
    if plan.compressor is not None:
        where = {"blocks": plan.blocks, "sites": list(cfg.sites)}
    counted = flops.count(backbone.denoiser, plan.compressor, **where)  # type: ignore[arg-type]
    gpu = device.type == "cuda"
    run.record(
        "cost",
        {
            "gflops": counted.total / 1e9 if counted else None,
            "gflops_matching": counted.matching / 1e9 if counted else None,
            "peak_memory_mib": memory.peak(device),
            "flops": asdict(counted) if counted else None,
            "device": torch.cuda.get_device_name(device) if gpu else platform.machine(),
            "threads": torch.get_num_threads(),
            "batch_size": cfg.batch_size,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
            "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )

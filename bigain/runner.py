"""From a configuration to finished rows in the store."""

import platform
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from bigain import config
from bigain.attach import Attachment, compress
from bigain.backbones import Backbone
from bigain.compressors import Compressor
from bigain.datasets.base import Dataset, select
from bigain.errors import BiGainError
from bigain.metrics import flops
from bigain.metrics.accuracy import paired, top1
from bigain.metrics.memory import PeakMemory
from bigain.randomness import KeyedStream
from bigain.results.store import MissingImagesError, Run, fingerprint
from bigain.tasks.classify import Classify, classify, rows

# Raised when the same configuration starts to give other numbers.
PROTOCOL = 1


class Job:
    """A configuration's objects, and the run it belongs to; no weights are loaded.

    Attributes:
        ids: the images asked for.
        blocks: the places compressed, sorted; empty without a compressor.
        flops: of one evaluation, None if they depend on the data.

    Raises:
        BiGainError: if the configuration or the data cannot be used, or the compressor does not
            fit the model.
    """

    def __init__(self, cfg: DictConfig) -> None:
        config.check(cfg)
        self.cfg = cfg
        self.compressor: Compressor | None = config.build(cfg, "compressor")
        self.task: Classify = config.build(cfg, "task")
        self.dataset: Dataset = config.build(cfg, "dataset")
        self.backbone: Backbone = config.build(cfg, "model")
        self.ids = select(self.dataset.ids(), cfg.limit)
        skeleton: Any = self.backbone.skeleton()
        self.blocks: list[int] = []
        if self.compressor is None:
            self.flops = flops.count(skeleton)
            return
        try:
            named = cfg.blocks if isinstance(cfg.blocks, str) else list(cfg.blocks)
            attachment = compress(skeleton, self.compressor, blocks=named, sites=cfg.sites)
            self.blocks = sorted({block.place for block in attachment.blocks})
            # a forward on the meta device, which any misfit breaks
            self.flops = flops.count(skeleton, self.compressor, blocks=named, sites=cfg.sites)
        except ValueError as error:
            raise BiGainError(f"compressor={cfg.compressor.name}: {error}") from error

    @cached_property
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
    def _root(self) -> Path:
        return Path(self.cfg.results) / "runs"

    @property
    def _prefix(self) -> str:
        return "-".join(self.cfg[g].name for g in ("task", "model", "dataset", "compressor"))

    @property
    def run_path(self) -> Path:
        """The run's folder, there or not."""
        return self._root / f"{self._prefix}-{fingerprint(self.identity)}"

    def run(self) -> Run:
        """The run, its folder made if it is new."""
        settings = OmegaConf.to_container(self.cfg)
        assert isinstance(settings, dict)
        where = {"results", "device", "batch_size", "limit"}
        kept = {str(k): v for k, v in settings.items() if k not in where}
        return Run.create(self._root, self._prefix, self.identity, kept)


def execute(cfg: DictConfig) -> Run:
    """Compute the images of a configuration that its run lacks, and say what came out.

    Raises:
        BiGainError: if the configuration, the data or the model cannot be used.
    """
    job = Job(cfg)
    run = job.run()
    with run.lock():
        # before the first image, so that no kill can lose it
        _record_cost(job, run, None)
        finished = run.finished()
        todo = [i for i in job.ids if i not in finished]
        if todo:
            _compute(job, run, todo)
        else:
            print(f"nothing to compute: all {len(job.ids)} images are in {run.path}")
    print(report(job, run))
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


def report(job: Job, run: Run) -> str:
    """Accuracy, cost, and the comparison with the uncompressed run of the same images."""
    frame, cost = run.require(job.ids), run.read_record("cost") or {}
    accuracy = top1(frame["prediction"], frame["label"])
    name = job.cfg.compressor.name
    lines = [
        f"{name}: top-1 {100 * accuracy.value:.1f}% "
        f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}] on {accuracy.n} images"
    ]
    evaluations = frame["samples"].map(sum).mean()
    line = f"  {evaluations:.0f} evaluations an image"
    if cost.get("gflops") is not None:
        line += f" of {cost['gflops']:.3f} GFLOPs, {cost['gflops_matching']:.3f} for matching"
    line += f"; {frame['seconds'].median():.2f} s an image"
    if cost.get("peak_memory_mib") is not None:
        line += f", {cost['peak_memory_mib']:.0f} MiB at the peak"
    lines.append(line)
    if job.compressor is not None:
        lines.append(f"  {_against_uncompressed(job, frame)}")
    return "\n".join([*lines, f"  {run.path}"])


def _against_uncompressed(job: Job, frame: pd.DataFrame) -> str:
    plain = job.cfg.copy()
    plain.compressor = {"name": "none", "_target_": None}
    baseline = Job(plain)
    try:
        other = Run.open(baseline.run_path).require(job.ids) if baseline.run_path.exists() else None
    except MissingImagesError:
        other = None
    if other is None:
        return "uncompressed: not run on these images; the same command with compressor=none does"
    test = paired(frame["prediction"] == frame["label"], other["prediction"] == other["label"])
    return (
        f"against uncompressed: {test.difference:+.1f} points [{test.low:+.1f}, {test.high:+.1f}], "
        f"{test.wins} wins, {test.losses} losses, McNemar p = {test.p:.2g}"
    )


def _compute(job: Job, run: Run, todo: list[str]) -> None:
    cfg = job.cfg
    device = device_of(cfg.device)
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 mean float32
    memory = PeakMemory(device)
    backbone = job.backbone.load(device, getattr(torch, cfg.dtype))
    if job.compressor is None:
        _classify(job, run, todo, backbone, None)
    else:
        with compress(
            backbone.denoiser, job.compressor, blocks=job.blocks, sites=cfg.sites, seed=cfg.seed
        ) as attachment:
            _classify(job, run, todo, backbone, attachment)
    _record_cost(job, run, memory.mib())
    _record_session(job, run, device, len(todo))


def _classify(
    job: Job, run: Run, todo: list[str], backbone: Backbone, attachment: Attachment | None
) -> None:
    cfg, task = job.cfg, job.task
    condition = backbone.condition(job.dataset)
    # enough images to fill several batches, few enough to lose little
    chunk = min(max(4 * cfg.batch_size // task.evaluations(len(condition)), 8), 64)
    position = {image_id: i for i, image_id in enumerate(job.dataset.ids())}
    seen = len(job.ids) - len(todo)
    right = 0
    if seen:
        done = run.require([i for i in job.ids if i not in set(todo)])
        right = int((done["prediction"] == done["label"]).sum())
    bar = tqdm(total=len(job.ids), initial=seen, unit="img", desc=cfg.compressor.name)
    with bar:
        for start in range(0, len(todo), chunk):
            ids = todo[start : start + chunk]
            began = time.perf_counter()
            examples = [job.dataset[position[i]] for i in ids]
            latents = backbone.encode(torch.stack([e.image for e in examples]))
            stream = KeyedStream.of(cfg.seed, "noise", ids, latents.device)
            noise = torch.stack(
                [stream.fork(s).normal(*latents.shape[1:]) for s in range(task.trials)], 1
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
            right += sum(p == y for p, y in zip(scores.predictions.tolist(), labels, strict=True))
            seconds = (time.perf_counter() - began) / len(ids)
            run.append(list(rows(scores, ids, labels, seconds)))
            seen += len(ids)
            bar.update(len(ids))
            bar.set_postfix_str(f"top-1 {100 * right / seen:.1f}%")


def _record_cost(job: Job, run: Run, peak: float | None) -> None:
    """FLOPs of one evaluation, and the highest peak of all sessions."""
    before = (run.read_record("cost") or {}).get("peak_memory_mib")
    peaks = [p for p in (before, peak) if p is not None]
    run.record(
        "cost",
        {
            "gflops": job.flops.total / 1e9 if job.flops else None,
            "gflops_matching": job.flops.matching / 1e9 if job.flops else None,
            "peak_memory_mib": max(peaks, default=None),
        },
    )


def _record_session(job: Job, run: Run, device: torch.device, images: int) -> None:
    """How some of the run's images were computed: what cannot change a result, but its time."""
    gpu = device.type == "cuda"
    sessions = (run.read_record("sessions") or {"sessions": []})["sessions"]
    session = {
        "images": images,
        "device": torch.cuda.get_device_name(device) if gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "batch_size": job.cfg.batch_size,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    run.record("sessions", {"sessions": [*sessions, session]})

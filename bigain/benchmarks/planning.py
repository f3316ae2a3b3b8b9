"""What deciding costs in a forward of several classes, for each of them and for all at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.benchmarks.methods import methods
from bigain.benchmarks.models import subject
from bigain.benchmarks.report import Bar, Report, text
from bigain.compression import attached
from bigain.compression.batch_groups import Groups, whole_groups
from bigain.compression.sharing import PLANS, Sharing
from bigain.compressors import Compressor, Plan
from bigain.metrics.ratio import ratio
from bigain.profiling.timing import Side, fused_attention, in_turn, now

WANTED = 0.2
NOTE = (
    "One forward of all ten classes of one noisy image in every block of the embedded U-Net, on "
    "latents of several sizes. Planning is the part of the forward that the compressor takes to "
    "decide, for each class by itself and for all at once. Its share of a forward is the median "
    "over the rounds, which alternate; the ratio of the two shares has its quartiles in brackets."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``planning`` of configs/benchmark.yaml."""
    own, dtype = cfg.planning, getattr(torch, cfg.planning.dtype)
    model = subject(own.model, 1, device, dtype, cfg.seed)
    tables, found, bars = {}, [], []
    for side in own.sides:
        shape = (1, model.latents.shape[1], side, side)
        generator = torch.Generator().manual_seed(cfg.seed)
        latent = torch.randn(shape, generator=generator).to(device)
        lines = [["Method", "Per class", "Shared", "Shared over per class", "Forward, ms"]]
        for method in methods(own.methods):
            compressor = method.compressor(f"model={own.model}", "task=classify")
            spent: dict[str, list[float]] = {plans: [] for plans in PLANS}
            options = (model.backbone, model.condition, latent, compressor)
            sides: dict[str, Side] = {p: partial(_forward, *options, p, spent[p]) for p in PLANS}
            with torch.inference_mode(), fused_attention(device, dtype):
                seconds = in_turn(sides, device, warmup=cfg.warmup, repeats=own.repeats)
            shares = {
                plans: [a / b for a, b in zip(spent[plans][cfg.warmup :], whole, strict=True)]
                for plans, whole in seconds.items()
            }
            compared = ratio(shares["shared"], shares["per_class"])
            lines.append(
                [
                    method.title,
                    f"{100 * median(shares['per_class']):.1f}%",
                    f"{100 * median(shares['shared']):.1f}%",
                    text(compared),
                    f"{1e3 * median(seconds['shared']):.0f}",
                ]
            )
            what = f"planning's share of a forward, shared over per class, {method.title}"
            bars.append(Bar.most(f"{what}, {side**2:,} tokens", compared, WANTED))
            about = {"model": own.model, "tokens": side**2, "method": method.name}
            found.append(about | {"seconds": seconds, "seconds_of_planning": spent})
        heading = f"{side**2:,} tokens, {len(model.condition)} classes, {own.dtype}"
        tables[heading] = lines
    return Report("Planning", NOTE, tables, found, bars)


@contextmanager
def _forward(
    backbone: Any,
    condition: torch.Tensor,
    latent: torch.Tensor,
    compressor: Compressor | None,
    plans: str,
    spent: list[float],
) -> Iterator[Any]:
    """A forward of every class, which adds to ``spent`` the seconds that planning took."""
    device, classes = latent.device, len(condition)
    (cut,) = whole_groups(1, classes, classes, device)
    with (
        attached(backbone.denoiser, compressor, blocks="all") as attachment,
        Sharing(backbone.denoiser, attachment, plans) as sharing,
    ):
        assert attachment is not None
        decide = attachment._decide  # with the copies of a plan that several classes share
        took = 0.0

        def timed(*arguments: Any) -> Plan:
            nonlocal took
            began = now(device)
            made = decide(*arguments)
            took += now(device) - began
            return made

        attachment._decide = timed  # type: ignore[method-assign, assignment]
        sharing.conditions(condition)
        x = latent.expand(classes, -1, -1, -1)
        t = torch.full((classes,), 500, device=device)
        every = torch.arange(classes, device=device)
        keys = torch.zeros_like(every)

        def work() -> None:
            groups = Groups.runs(0, classes, classes, device)
            backbone.predict(x, t, sharing.batch(every, groups, keys, cut.together))

        yield work
        spent.append(took)

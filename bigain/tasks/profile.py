"""Where a denoiser's FLOPs go, what a compressor saves of them, and what it saves of the time."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from bigain.compression import architecture_of, select_blocks
from bigain.errors import BiGainError
from bigain.profiling.flops import KINDS, Flops, UncountableError, count
from bigain.profiling.timing import measure
from bigain.store.identity import fingerprint, plain
from bigain.tasks.base import Setup, Task
from bigain.utils.devices import device_of
from bigain.utils.files import make_folder, write_text
from bigain.utils.tables import DASH, markdown

LEGEND = (
    "GFLOPs of one evaluation at batch 1: matrix products, convolutions and attention, a "
    "multiply-add as two. Shares and savings are in percent of the uncompressed total. Other: "
    "conditioning on time, class and text, projections into and out of blocks, and what no "
    "compressor shortens: in joint attention (SD3, Flux) the text's feed-forward networks, "
    "and the MLPs of Flux's single blocks."
)


@dataclass(frozen=True)
class Profile(Task):
    """What ``task=profile`` measures beside the count of FLOPs.

    Args:
        measure: time forwards with random weights, and note their peak memory.
        warmup: forwards before the timed ones.
        repeats: timed forwards of each side.

    Raises:
        ValueError: if a number is too small.
    """

    name: ClassVar[str] = "profile"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "compressor"})
    schema: ClassVar[dict[str, str]] = {}

    measure: bool = False
    warmup: int = 3
    repeats: int = 20

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.repeats < 1:
            raise ValueError(
                "warmup must be at least 0 and repeats at least 1, "
                f"got {self.warmup} and {self.repeats}"
            )

    def report(self, setup: Setup) -> None:
        """Count, print and keep ``<results>/profiles/<stem>.{md,csv}``; measure too if told to.

        Measurements are added to ``<stem>.json``, each with its device, versions and command.

        Raises:
            BiGainError: if the configuration cannot be used, or the count depends on the data.
        """
        device = device_of(setup.device)
        profiled = _Profiled(setup)
        folder = setup.results / "profiles"
        make_folder(folder)
        path = folder / f"{profiled.stem}.md"
        write_text(path, profiled.markdown())
        write_text(path.with_suffix(".csv"), profiled.frame.to_csv(index=False))
        print(profiled.markdown())
        if self.measure:
            found = measure(
                profiled.skeleton,
                profiled.compressor,
                device=device,
                dtype=setup.dtype,
                batch_size=setup.batch_size,
                warmup=self.warmup,
                repeats=self.repeats,
                seed=setup.seed,
                **profiled.where,
            )
            if profiled.compressor is not None:
                found["flops_saved_percent"] = profiled.saved
            _keep(path.with_suffix(".json"), found)
            print(_measured(found))
        print(path)

    def summary(self, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> list[str]:
        return [f"{frame['flops'].sum() / 1e9:.3f} GFLOPs"]


class _Profiled:
    """A model, a compressor on it or None, and their FLOPs.

    Attributes:
        frame: one row per place and kind where anything is spent; places and their tokens are
            empty outside blocks, ``flops_compressed`` without a compressor.
    """

    def __init__(self, setup: Setup) -> None:
        assert setup.backbone is not None  # the task needs a model
        self.model_name, self.name = setup.names["model"], setup.names["compressor"]
        self.skeleton: Any = setup.backbone.skeleton()
        self.compressor = setup.compressor
        self.architecture = architecture_of(self.skeleton)
        self.parameters = sum(p.numel() for p in self.skeleton.parameters())
        self.where: dict[str, Any] = {}
        self.blocks: list[int] = []
        try:
            before = count(self.skeleton)
        except UncountableError as error:
            raise BiGainError(f"model={self.model_name}: {error}") from error
        assert before is not None  # only a compressor's count depends on data
        after: Flops | None = None
        if self.compressor is not None:
            self.where = {"blocks": setup.blocks, "sites": list(setup.sites)}
            try:
                chosen = select_blocks(self.skeleton, setup.blocks)
                self.blocks = sorted({block.place for block in chosen})
                after = count(self.skeleton, self.compressor, **self.where)
            except ValueError as error:
                raise BiGainError(f"compressor={self.name}: {error}") from error
            if after is None:
                raise BiGainError(
                    f"compressor={self.name}: the FLOPs of {self.compressor!r} depend on the "
                    "image; give compressor.ratio=0.5 compressor.threshold=null instead"
                )
        self.frame = self._frame(before, after)
        self.total = int(self.frame["flops"].sum())
        self.saved = 100 * (1 - after.total / self.total) if after else 0.0  # percent of the FLOPs

    def _frame(self, before: Flops, after: Flops | None) -> pd.DataFrame:
        rows = []
        keys = before.breakdown.keys() | (after.breakdown.keys() if after else ())
        for place, kind in keys:
            flops = before.breakdown.get((place, kind), 0)
            compressed = after.breakdown.get((place, kind), 0) if after else None
            if flops or compressed:
                size = None if place is None else self.architecture.tokens(place)
                rows.append((place, size, place in self.blocks, kind, flops, compressed))
        header = ["place", "tokens", "compressed", "kind", "flops", "flops_compressed"]
        frame = pd.DataFrame(rows, columns=header)
        whole = ["place", "tokens", "flops", "flops_compressed"]
        frame[whole] = frame[whole].astype("Int64")
        frame["kind"] = pd.Categorical(frame["kind"], KINDS)
        return frame.sort_values(["place", "kind"], ignore_index=True)

    @property
    def stem(self) -> str:
        """The name of its files: one for each architecture, setting, choice of blocks and sites."""
        identity = {
            "parameters": self.parameters,
            "flops": self.total,
            "compressor": plain(self.compressor),
            "blocks": self.blocks,
            "sites": sorted(self.where.get("sites", [])),
        }
        return f"{self.model_name}-{self.name}-{fingerprint(identity)}"

    def markdown(self) -> str:
        """Tables by site and by place (`Architecture.groups`)."""
        frame = self.frame
        sites = [("Total", frame["flops"] >= 0)]
        sites += [(_words(kind), frame["kind"] == kind) for kind in KINDS]
        tables = [self._table("Site", sites), self._table("Where", self._places())]
        return "\n\n".join([f"# {self._title()}", self._size(), *tables, LEGEND]) + "\n"

    def _title(self) -> str:
        if self.compressor is None:
            return f"{self.model_name}, uncompressed"
        sites, what = ", ".join(self.where["sites"]), self.architecture.places
        return f"{self.model_name}, {self.compressor!r} on {sites} at {what} {self.blocks}"

    def _size(self) -> str:
        remark = self.architecture.size_remark()
        return f"{self.parameters:,} parameters{', ' if remark else ''}{remark}."

    def _places(self) -> list[tuple[str, pd.Series]]:
        place = self.frame["place"]
        groups = self.architecture.groups(self.blocks)
        parts = [(name, place.isin(places)) for name, places in groups]
        return [*parts, ("Elsewhere", place.isna())]

    def _table(self, first: str, parts: Sequence[tuple[str, pd.Series]]) -> str:
        """A line for each part where anything is spent."""
        columns = ["GFLOPs", "Share (%)", *(["Compressed", "Saved (%)"] if self.compressor else [])]
        decimals = max(2, 4 - math.floor(math.log10(self.total / 1e9)))  # five digits of the total
        lines = [[first, *columns]]
        for name, mask in parts:
            before, after = self.frame.loc[mask, ["flops", "flops_compressed"]].sum()
            if not before and not after:
                continue
            line = [name, DASH, DASH]
            if before:
                line[1:] = f"{before / 1e9:.{decimals}f}", f"{100 * before / self.total:.1f}"
            if self.compressor is not None:
                saved = f"{100 * (before - after) / self.total:.2f}".replace("-", "−")
                line += [f"{after / 1e9:.{decimals}f}", saved]
            lines.append(line)
        return markdown(lines)


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Add a measurement to those in ``path``."""
    try:
        kept = json.loads(path.read_text())["measurements"] if path.exists() else []
    except (ValueError, KeyError, TypeError) as error:
        raise BiGainError(f"{path} is damaged ({error}); remove it and run again") from error
    write_text(path, json.dumps({"measurements": [*kept, found]}, indent=2) + "\n")


def _measured(found: dict[str, Any]) -> str:
    """A measurement in lines for people."""
    lines = [f"{found['device']}, {found['dtype']}, batch {found['batch_size']}:"]
    for name in ("uncompressed", "compressed"):
        if side := found.get(name):
            peak, n = side["peak_memory_mib"], len(side["seconds"])
            line = f"{name}: {side['median_seconds']:.4g} s per forward pass, the median of {n}"
            lines.append(line + (f"; {peak:.0f} MiB at the peak" if peak is not None else ""))
    if "compressed" in found:
        flops, seconds = found["flops_saved_percent"], found["time_saved_percent"]
        lines.append(f"saved: {flops:.2f}% of the FLOPs, {seconds:.2f}% of the time")
    return "\n  ".join(lines)


def _words(kind: str) -> str:
    return {"mlp": "MLP"}.get(kind, kind.replace("_", "-").capitalize())

"""How much of each spatial frequency of the tokens survives each method, block by block."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bigain.errors import BiGainError
from bigain.metrics.accuracy import Z
from bigain.metrics.spectrum import centres, coherence, retention
from bigain.reporting.pictures import save_figure
from bigain.reporting.style import Style, styles
from bigain.tasks.trace_rows import block_title, spectra_at, time_of

DPI = 100
COLUMNS = 5  # panels in one line
DASHES = ("-", "--", ":")  # of a method's strengths in their order
TICKS = {0: "mean", 0.125: "1/8", 0.25: "1/4", 0.375: "3/8", 0.5: "1/2"}
Measure = Callable[[NDArray, NDArray, NDArray], NDArray[np.float64]]
VALUES: dict[str, tuple[str, Measure]] = {
    "coherence": ("Coherence with the uncompressed tokens", coherence),
    "power": ("Power kept", lambda before, after, product: retention(before, after)),
}


def draw_retention(
    traces: Mapping[str, pd.DataFrame],
    stem: Path,
    title: str,
    *,
    value: str = "coherence",
    timestep: int | None = None,
    methods: Mapping[str, str] | None = None,
) -> None:
    """Draw ``<stem>-<value>.png``: one panel per block, one line per method with its 95% band.

    The band is that of the mean over images. A method that shortens both queries and keys and
    values has a line for each. A method looks the same at all its strengths, but for the dashes.

    Args:
        traces: by the methods' titles, rows of ``task=trace``. None, no figure.
        stem: path without a suffix; its folder exists.
        value: "coherence", which noise cannot fake, or "power", after over before.
        timestep: one of those traced; by default the first.
        methods: what the strengths of a method have in common, by title; by default the title.

    Raises:
        ValueError: if ``value`` is neither.
        BiGainError: if the methods were not traced in the same blocks, bands and at that timestep,
            or the file cannot be written.
    """
    if value not in VALUES:
        raise ValueError(f"value must be one of {', '.join(VALUES)}; got {value!r}")
    if not traces:
        return
    lines: dict[str, NDArray[np.float64]] = {}
    members: dict[str, list[str]] = {}  # the lines of a method
    for name, frame in traces.items():
        for label, found in series(name, frame, value, timestep).items():
            lines[label] = found
            method = (methods or {}).get(name, name) + label.removeprefix(name)
            members.setdefault(method, []).append(label)
    looks = {
        label: (style, DASHES[i % len(DASHES)])
        for method, style in styles(members).items()
        for i, label in enumerate(members[method])
    }
    first = next(iter(traces.values())).iloc[0]
    places = list(first["blocks"])
    for name, frame in traces.items():
        if list(frame.iloc[0]["blocks"]) != places:
            raise BiGainError(
                f"{name} was traced in blocks {list(frame.iloc[0]['blocks'])}, others in {places}; "
                "trace all with the same blocks=..."
            )
    if len({found.shape[1:] for found in lines.values()}) > 1:
        raise BiGainError(
            "the methods were traced with different task.bands; trace all with the same"
        )
    columns = min(len(places), COLUMNS)
    rows = -(-len(places) // columns)
    # and room for the title and the legend's lines
    size = (max(6.5, 1 + 3.2 * columns), 0.9 + 2.9 * rows + 0.25 * -(-len(lines) // 4))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for block, axes in enumerate(panels.flat):
        if block >= len(places):
            axes.set_axis_off()
            continue
        _draw(axes, {label: found[:, block] for label, found in lines.items()}, looks, value)
        axes.set_title(block_title(first, block).capitalize(), fontsize=10)
    for axes in panels[:, 0]:
        axes.set_ylabel(VALUES[value][0])
    for column in panels.T:
        lowest = [axes for axes in column if axes.axison][-1]
        lowest.set_xlabel("Spatial frequency (cycles per token)")
        lowest.tick_params(labelbottom=True)
    t = time_of(first, timestep)
    count = sorted({len(frame) for frame in traces.values()})
    images = f"{count[0]} images" if len(count) == 1 else f"{count[0]} to {count[-1]} images"
    figure.suptitle(f"{title}: t = {t}, mean of {images} with its 95% interval", fontsize=11)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False
    )
    save_figure(figure, stem.with_name(f"{stem.name}-{value}.png"), DPI)


def series(
    name: str, frame: pd.DataFrame, value: str, timestep: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """What survives in each image, [images, blocks, bands + 2], by title and shortened field.

    Raises:
        BiGainError: if the timestep was not traced.
    """
    measured = VALUES[value][1](*spectra_at(name, frame, timestep))
    found = {field: measured[:, :, f] for f, field in enumerate(frame.iloc[0]["fields"])}
    if len(found) == 1:
        return {name: next(iter(found.values()))}
    return {f"{name}, {field.replace('_', ' and ')}": values for field, values in found.items()}


def interval(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over images and its 95% interval (normal approximation), from [images, R] to 3 x [R]."""
    mean = values.mean(0)
    if len(values) < 2:
        return mean, mean, mean
    half = Z * values.std(0, ddof=1) / np.sqrt(len(values))
    return mean, mean - half, mean + half


def _draw(
    axes: Axes,
    lines: Mapping[str, NDArray[np.float64]],
    looks: Mapping[str, tuple[Style, str]],
    value: str,
) -> None:
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if value == "power":
        axes.axhline(1, color="#222222", linestyle="--", linewidth=0.8)
    else:
        axes.set_ylim(-0.03, 1.03)
    for label, values in lines.items():
        x = centres(values.shape[1] - 2)
        axes.set_xticks([*TICKS, x[-1]], [*TICKS.values(), ">1/2"])  # the spectrum's corners
        there = ~np.isnan(values).any(0)  # a small grid has no frequency in some bands
        x = x[there]
        mean, low, high = interval(values[:, there])
        style, dashes = looks[label]
        axes.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0)
        axes.plot(
            x,
            mean,
            color=style.colour,
            marker=style.marker,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linewidth=1.3,
            linestyle=dashes,
            label=label,
        )

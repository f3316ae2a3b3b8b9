"""How much of each spatial frequency of the tokens survives each method, block by block."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bigain.errors import BiGainError
from bigain.metrics.accuracy import Z
from bigain.metrics.spectrum import coherence, retention
from bigain.reporting.style import HEADING, LETTERS, SMALLEST, styles, wrapped
from bigain.tasks.trace_rows import block_title, spectra_at, time_of
from bigain.utils.pictures import save_figure

DPI = 110
COLUMNS = (4, 3, 2)  # panels in one line, the first that leaves the fewest empty
LINE, BAND = 0.17, 0.2  # inches that a method and a band take
Measure = Callable[[NDArray, NDArray, NDArray], NDArray[np.float64]]
VALUES: dict[str, tuple[str, Measure]] = {
    "coherence": ("Coherence with the uncompressed tokens", coherence),
    "power": ("Power kept (1: all of it)", lambda before, after, product: retention(before, after)),
}
# of each value: its colours, and the values at which they end
COLOURS: dict[str, tuple[str, float, float]] = {
    "coherence": ("viridis", 0, 1),
    "power": ("RdBu_r", 0, 2),
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
    """Draw ``<stem>-<value>.png``: one panel per block, one line per method, one column per band.

    A colour is the mean over images; the title says how far their 95% intervals go at most. A
    method that shortens both queries and keys and values has a line for each. A band that a small
    grid lacks is grey.

    Args:
        traces: each method's rows of ``task=trace``, by its title. Without any there is no figure.
        stem: path without a suffix; its folder exists.
        value: "coherence", which noise cannot fake, or "power", after over before.
        timestep: one of those traced; by default the first.
        methods: the series of each title, which gives its name a colour; by default the title.

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
    named: dict[str, str] = {}  # the series of each line
    for name, frame in traces.items():
        for label, found in series(name, frame, value, timestep).items():
            lines[label], named[label] = found, (methods or {}).get(name, name)
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
    means, half = {}, 0.0
    for label, found in lines.items():
        for block in range(len(places)):
            means[label, block], low, high = interval(found[:, block])
            half = max(half, np.nanmax(high - low, initial=0) / 2)
    columns = min(COLUMNS, key=lambda count: -len(places) % count)
    columns = min(columns, len(places))
    rows = -(-len(places) // columns)
    bands = next(iter(lines.values())).shape[2]
    names = 0.075 * max(map(len, lines))
    size = (
        names + 0.4 + columns * (BAND * bands + 0.25) + 0.9,
        1.0 + rows * (LINE * len(lines) + 0.35),
    )
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks = styles(named.values())
    for block, axes in enumerate(panels.flat):
        if block >= len(places):
            axes.remove()
            panels.flat[block - columns].tick_params(labelbottom=True)  # now the lowest
            continue
        drawn = _draw(axes, np.stack([means[label, block] for label in lines]), value)
        axes.set_title(block_title(first, block).capitalize(), fontsize=LETTERS + 1)
    for axes in panels[:, 0]:
        axes.set_yticks(np.arange(len(lines)) + 0.5, list(lines), fontsize=SMALLEST + 0.5)
        for text, name in zip(axes.get_yticklabels(), named.values(), strict=True):
            text.set_color(looks[name].ink)
    panels[0, 0].set_ylim(len(lines), 0)
    over = any(np.nanmax(mean, initial=0) > COLOURS[value][2] for mean in means.values())
    ends = "max" if over else "neither"
    bar = figure.colorbar(drawn, ax=figure.axes, aspect=40, pad=0.01, extend=ends)
    bar.set_label(VALUES[value][0], fontsize=LETTERS)
    bar.ax.tick_params(labelsize=SMALLEST)
    beyond = "Spatial frequency (cycles per token); the last band lies beyond 1/2"
    if any(np.isnan(mean).any() for mean in means.values()):
        beyond += "; a band that the grid lacks is grey"
    figure.supxlabel(beyond, fontsize=LETTERS)
    t = time_of(first, timestep)
    count = sorted({len(frame) for frame in traces.values()})
    images = f"{count[0]} images" if len(count) == 1 else f"{count[0]} to {count[-1]} images"
    said = f"{title}: t = {t}, mean of {images}; 95% intervals are at most ±{half:.2f}"
    figure.suptitle(wrapped(said, size[0]), fontsize=HEADING)
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


def _draw(axes: Axes, means: NDArray[np.float64], value: str) -> QuadMesh:
    """The means [lines, bands + 2] as colours."""
    name, low, high = COLOURS[value]
    colours = colormaps[name].with_extremes(bad="#D9D9D9")
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(means), cmap=colours, vmin=low, vmax=high, edgecolors="white", lw=0.4
    )
    bands = means.shape[1] - 2  # between the mean and the spectrum's corners
    ticks = {0.5: "mean", 1 + bands / 2: "1/4", 1 + bands: "1/2"}
    if bands < 4:
        del ticks[1 + bands / 2]
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=SMALLEST)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return mesh

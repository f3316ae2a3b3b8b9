"""How the rows of ``task=trace`` are laid out, and how to read them.

Lists of a row are flattened, the last index fastest. T timesteps, K compressed blocks in forward
order, N_k tokens of block k, F fields of the plan, R = `bands` + 2 (`bigain.metrics.spectrum`):

    timesteps [T]  blocks, heights, widths [K]  fields [F]
    slots, roles    [T, sum of N_k]  the tokens of block 0, then of block 1, ...
    before          [T, K, R]        power of the block's tokens x
    after, product  [T, K, F, R]     power of what is left of them, y, and <x, y>
    image           [image_shape]    [H, W, C] in 0..255

blocks: a U-Net's downsampling factors, or a DiT's block indices. fields: "queries", "keys_values",
or both. pruned: whether a slot holds its `KEPT` token as it is, not the mean of its tokens.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bigain.errors import BiGainError

# Roles: alone in its slot, or of several tokens the slot's own (the destination), or the others.
ALONE, KEPT, GONE = 0, 1, 2

# the columns of a row and their types
SCHEMA = {
    "image_id": "string",
    "labels": "list<int64>",
    "evaluations": "int64",
    "seconds": "double",
    "timesteps": "list<int64>",
    "blocks": "list<int64>",
    "heights": "list<int64>",
    "widths": "list<int64>",
    "fields": "list<string>",
    "pruned": "bool",
    "slots": "list<int64>",
    "roles": "list<int64>",
    "before": "list<double>",
    "after": "list<double>",
    "product": "list<double>",
    "image": "list<int64>",
    "image_shape": "list<int64>",
}


def image(row: pd.Series) -> NDArray[np.uint8]:
    """The image that was traced, [H, W, C]."""
    return np.asarray(row["image"], dtype=np.uint8).reshape(*row["image_shape"])


def assignment(
    name: str, row: pd.Series, timestep: int | None, block: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots and roles of one block's tokens, [height, width] each.

    Args:
        name: of the method, for errors.
        timestep: None is the first.
        block: position among the compressed blocks.

    Raises:
        BiGainError: if it was not traced there.
    """
    step = _step(name, row, timestep)
    if not 0 <= block < len(row["blocks"]):
        raise BiGainError(
            f"{name} was traced in {len(row['blocks'])} blocks, so there is no block {block} "
            "(counted from 0)"
        )
    sizes = np.asarray(row["heights"]) * np.asarray(row["widths"])
    start = step * sizes.sum() + sizes[:block].sum()
    part = slice(start, start + sizes[block])
    sides = (row["heights"][block], row["widths"][block])
    slots, roles = (np.asarray(row[key])[part].reshape(sides) for key in ("slots", "roles"))
    return slots, roles


def at_timesteps(frame: pd.DataFrame, timesteps: Collection[int]) -> pd.DataFrame:
    """The rows as if only those of ``timesteps`` had been traced."""
    times = [int(t) for t in frame.iloc[0]["timesteps"]]
    places = [i for i, t in enumerate(times) if t in timesteps]

    def part(values: NDArray) -> NDArray:
        return np.asarray(values).reshape(len(times), -1)[places].flatten()

    lists = ("slots", "roles", "before", "after", "product")
    found = frame.copy()
    found["timesteps"] = pd.Series([[times[i] for i in places]] * len(frame), frame.index)
    for name in lists:
        found[name] = pd.Series([part(values) for values in frame[name]], frame.index)
    return found


def _alike(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows at the timesteps that all were traced at: bundles keep fewer than were asked for."""
    each = frame["timesteps"].map(lambda times: tuple(map(int, times)))
    if each.nunique() == 1:
        return frame
    common = set.intersection(*map(set, each))
    parts = [at_timesteps(frame[each == times], common) for times in each.unique()]
    return pd.concat(parts).loc[frame.index]


def spectra(frame: pd.DataFrame) -> tuple[NDArray, NDArray, NDArray]:
    """before, after and product of all images, float64 [I, T, K, F, R] each."""
    frame = _alike(frame)
    first = frame.iloc[0]
    outer = (len(frame), len(first["timesteps"]), len(first["blocks"]))
    after, product = (
        np.stack(list(frame[key])).reshape(*outer, len(first["fields"]), -1)
        for key in ("after", "product")
    )
    before = np.stack(list(frame["before"])).reshape(*outer, 1, -1)
    return np.broadcast_to(before, after.shape), after, product


def spectra_at(
    name: str, frame: pd.DataFrame, timestep: int | None
) -> tuple[NDArray, NDArray, NDArray]:
    """`spectra` at one timestep, [I, K, F, R] each; arguments and errors as of `assignment`."""
    frame = _alike(frame)
    step = _step(name, frame.iloc[0], timestep)
    before, after, product = (values[:, step] for values in spectra(frame))
    return before, after, product


def block_title(row: pd.Series, block: int) -> str:
    """What to call a compressed block: a DiT's by its index, a U-Net's by its turn."""
    places = list(row["blocks"])
    if len(set(places)) == len(places):
        return f"block {places[block]}"
    return f"compressed block {block + 1}"


def time_of(row: pd.Series, timestep: int | None) -> int:
    """``timestep``, or the first that was traced."""
    return int(row["timesteps"][0]) if timestep is None else timestep


def _step(name: str, row: pd.Series, timestep: int | None) -> int:
    times = [int(t) for t in row["timesteps"]]
    t = time_of(row, timestep)
    if t not in times:
        raise BiGainError(
            f"{name} was traced at t = {', '.join(map(str, times))}, not at t = {t}; "
            f"trace it with task.timesteps=[{t}]"
        )
    return times.index(t)

"""Every kind of figure from small made-up data, and all of them on one sheet.

From the repository's root, ``python tests/tiny_figures.py sheet.png`` writes the sheet.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from bigain.reporting import figures, overview, samples
from bigain.reporting.maps import draw_maps
from bigain.reporting.retention import VALUES, draw_retention
from bigain.reporting.style import FIXED
from bigain.tasks.classify_columns import PANEL as ACCURACY
from bigain.tasks.generate_columns import PANEL as FID
from bigain.training.curves import Panel, draw_curves

WIDTH, COLUMNS, GAP = 900, 2, 20  # pixels of a figure on the sheet, and around it
BLOCKS, SIDE, BANDS, IMAGES = 6, 8, 10, 3
FEW = ("ToMe", "ToMe, first", "SiTo", "L-GTM", "ToDo", "IE-KVD")


def row(method: str, accuracy: float, fid: float, gflops: float, time: float) -> dict[str, Any]:
    """A row of a table."""
    return {
        "method": method,
        "acc1": accuracy,
        "low": accuracy - 4,
        "high": accuracy + 3.5,
        "fid": fid,
        "fid_low": 0.93 * fid,
        "fid_high": 1.07 * fid,
        "gflops": gflops,
        "time": time,
        "seconds": time / 7,
    }


PLAIN = row("Uncompressed", 82, 0.9, 0.656, 1.0)


def table(names: Mapping[str, object] | tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Three strengths of each method that cost the same under all, and nearly equal values."""
    rows = []
    for i, name in enumerate(names):
        for k, strength in enumerate((0.3, 0.5, 0.7)):
            accuracy, fid = 82.5 - 1.1 * k - 0.15 * i * k, 0.9 + 0.01 * i * (1 + 10 * k)
            cost = row(
                f"{name} {strength}", accuracy, fid, 0.62 - 0.02 * k, 1.2 - 0.04 * k - i / 90
            )
            rows.append((name, cost))
    return rows


def trace(
    method: int, pruned: bool = False, fields: tuple[str, ...] = ("queries",)
) -> pd.DataFrame:
    """Rows of ``task=trace``: a quarter of the tokens is kept, a half gone, the rest alone."""
    rng = np.random.default_rng(method)
    tokens = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    slots, roles = tokens.copy(), np.zeros_like(tokens)
    for y in range(0, SIDE, 2):
        for x in range(0, SIDE, 2):
            slots[y : y + 2, x] = tokens[y, x]
            slots[y, x + 1] = tokens[y, x]
            roles[y : y + 2, x] = roles[y, x + 1] = 2
            roles[y, x] = 1
    falling = np.linspace(1, 0.2 + 0.1 * method % 0.8, BANDS)
    rows = []
    for i in range(IMAGES):
        y, x = np.mgrid[:32, :32]
        image = np.clip(255 - 14 * np.hypot(y - 16, x - 12 - 3 * i), 0, 255)
        spread = rng.uniform(0.95, 1.05, (BLOCKS * len(fields), BANDS))
        rows.append(
            {
                "image_id": str(i),
                "labels": [i],
                "timesteps": [525],
                "blocks": list(range(BLOCKS)),
                "heights": [SIDE] * BLOCKS,
                "widths": [SIDE] * BLOCKS,
                "fields": list(fields),
                "pruned": pruned,
                "slots": np.tile(slots.flatten(), BLOCKS),
                "roles": np.tile(roles.flatten(), BLOCKS),
                "before": np.ones(BLOCKS * BANDS),
                "after": (falling * spread).flatten(),
                "product": (falling**1.1 * np.sqrt(spread)).flatten(),
                "image": image.astype(int).flatten(),
                "image_shape": [32, 32, 1],
            }
        )
    return pd.DataFrame(rows)


def draw_all(folder: Path) -> list[Path]:
    """Draw every kind into ``folder``; returns the files."""
    timed = figures.panels_of([ACCURACY, FID], timed=True)
    every = table(FIXED)
    for name, lines, panels in (
        ("many-rows", every, timed),
        ("few-rows", table(("ToMe",))[:1], figures.panels_of([ACCURACY])),
        (
            "one-cost",
            [
                (f"Score {i}", {**r, "method": f"Score {i}", "gflops": 0.6})
                for i, (_, r) in enumerate(every[:5])
            ],
            timed,
        ),
    ):
        names, rows = zip(("Uncompressed", PLAIN), *lines, strict=True)
        figures.tradeoff(rows, names, panels, folder / name, "A table: U-Net, data", "Uncompressed")
    swept = [("IE-KVD", {**r, "setting": 0.5 * i}) for i, (_, r) in enumerate(every[:5])]
    swept += [("ToDo", {**r, "setting": 0.5 * i}) for i, (_, r) in enumerate(every[5:10])]
    names, rows = zip(("Uncompressed", {**PLAIN, "setting": None}), *swept, strict=True)
    setting = figures.panels_of([ACCURACY, FID], axis="alpha (0: mean; 1: nearest)")
    figures.tradeoff(
        rows, names, setting, folder / "setting", "A setting: U-Net, data", "Uncompressed"
    )
    series = {name: [r for of, r in table(FEW) if of == name] for name in FEW}
    models = [overview.Model(title, PLAIN, series) for title in ("DiT, data", "U-Net, data")]
    overview.draw(models, [ACCURACY, FID], folder / "overview.png", "Curves against cost")
    traces = {
        f"{name} 0.5": trace(i, name == "SiTo", ("keys_values", "queries")[: 1 + (i == 5)])
        for i, name in enumerate(FEW)
    }
    draw_maps(traces, folder / "trace", "DiT, data")
    for value in VALUES:
        titles = {title: title.removesuffix(" 0.5") for title in traces}
        draw_retention(traces, folder / "trace", "DiT, data", value=value, methods=titles)
    rng = np.random.default_rng(0)
    prompts = ["a photo of a t-shirt.", "a photo of an ankle boot.", "a photo of a pullover."]
    made = pd.DataFrame({"image_id": ["0", "1", "2"], "label": [0, 1, 2], "prompt": prompts})
    sheets = {name: (made, rng.integers(0, 256, (3, 32, 32, 3), np.uint8)) for name in FEW}
    samples.draw(sheets, folder / "images", "DiT, data")
    log = [
        {"images": 1e3 * i, "train_loss": 1 / i, "val_loss": 1.2 / i, "rise": i} for i in (1, 2, 4)
    ]
    draw_curves(log, "loss", Panel("rise", "rise with a wrong class", 1), folder / "loss.png")
    return sorted(folder.glob("*.png"))


def sheet(files: list[Path]) -> Image.Image:
    """The figures under their names, in `COLUMNS` columns."""
    columns: list[list[Image.Image]] = [[] for _ in range(COLUMNS)]
    for path in files:
        picture = Image.open(path).convert("RGB")
        if picture.width > WIDTH:
            picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)))
        tile = Image.new("RGB", (WIDTH, picture.height + 40), "white")
        ImageDraw.Draw(tile).text((4, 6), path.stem, "black", font_size=18)
        tile.paste(picture, (0, 36))
        min(columns, key=lambda tiles: sum(t.height + GAP for t in tiles)).append(tile)
    height = max(sum(t.height + GAP for t in tiles) for tiles in columns)
    whole = Image.new("RGB", (COLUMNS * (WIDTH + GAP), height), "#BBBBBB")
    for i, tiles in enumerate(columns):
        top = 0
        for tile in tiles:
            whole.paste(tile, (i * (WIDTH + GAP), top))
            top += tile.height + GAP
    return whole


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        sheet(draw_all(Path(name))).save(sys.argv[1])
    print(f"wrote {sys.argv[1]}")

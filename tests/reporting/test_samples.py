"""The figure of generated images."""

import numpy as np
import pandas as pd
from PIL import Image

from bigain.reporting.samples import GAP, GREYS, LARGEST, draw
from bigain.utils.images import read_sheet, write_sheet


def method(folder, images):
    folder.mkdir()
    write_sheet(folder / "sheet.png", images)
    count = range(len(images))
    rows = [{"image_id": str(i), "label": i, "prompt": f"a photo of a {i}."} for i in count]
    return pd.DataFrame(rows), read_sheet(folder / "sheet.png")


def noise(channels, side=32, count=3):
    return list(
        np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    )


def find(picture, part):
    """Where a part stands, by its first pixels."""
    window = np.lib.stride_tricks.sliding_window_view(picture, part[:1].shape)
    places = np.argwhere((window == part[:1]).all((3, 4, 5)))
    return [(y, x) for y, x, _ in places if (picture[y : y + len(part), x : x + 64] == part).all()]


def test_pixels_of_images_are_pixels_of_the_figure(tmp_path):
    methods = {name: method(tmp_path / name, noise(3)) for name in ("ToMe 0.5", "SiTo")}
    draw(methods, tmp_path / "a", "Toy")
    picture = np.asarray(Image.open(tmp_path / "a-samples.png").convert("RGB"))
    tile = read_sheet(tmp_path / "SiTo" / "sheet.png")[1]
    first, second = find(picture, tile)
    assert second[0] - first[0] == 64 + GAP and second[1] == first[1]


def test_grey_images_have_fewer_levels(tmp_path):
    found = method(tmp_path / "run", noise(1))
    draw({"ToMe": found}, tmp_path / "a", "Toy")
    picture = Image.open(tmp_path / "a-samples.png")
    assert picture.mode == "P"
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    tile = read_sheet(tmp_path / "run" / "sheet.png")[0].astype(int)
    y, x = next(
        (y, x)
        for y in range(pixels.shape[0] - 64)
        for x in range(pixels.shape[1] - 64)
        if np.abs(pixels[y, x : x + 64] - tile[0]).max() < 5
    )
    shown = pixels[y : y + 64, x : x + 64]
    assert np.abs(shown - tile).max() <= 255 / (GREYS - 1) / 2 + 1
    assert len(np.unique(shown)) <= GREYS


def test_large_images_are_made_smaller(tmp_path):
    draw({"ToMe": method(tmp_path / "run", noise(3, 512, 2))}, tmp_path / "a", "Toy")
    with Image.open(tmp_path / "a-samples.png") as picture:
        assert LARGEST < picture.height < 2 * LARGEST
        assert picture.mode == "RGB", "a palette would not show them"

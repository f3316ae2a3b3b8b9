"""Contact sheets: every image is shown, and comes back."""

import numpy as np
import pytest

from bigain.errors import BiGainError
from bigain.utils.contact_sheets import contact_sheet, read_sheet, write_sheet
from bigain.utils.images import write_png
from tests.utils.test_images import random_image


def test_sheet_shows_every_image_enlarged() -> None:
    images = [random_image(i, 24, 32, 1) for i in range(11)]
    sheet = contact_sheet(images)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (72 + 4) + 4, 8 * (96 + 4) + 4, 3)
    second = sheet[4 : 4 + 72 : 3, 104 : 104 + 96 : 3]
    assert np.array_equal(second, images[1].repeat(3, 2))
    assert (sheet[80:152, 304:] == 255).all()  # the last five places are empty


def test_large_images_stay_as_they_are() -> None:
    assert contact_sheet([random_image(0, 64, 64, 3)] * 2).shape == (72, 140, 3)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
@pytest.mark.parametrize(("height", "width", "channels"), [(32, 40, 1), (70, 64, 3)])
def test_a_sheet_comes_apart_again(tmp_path, count, height, width, channels):
    images = [random_image(i, height, width, channels) for i in range(count)]
    write_sheet(tmp_path / "sheet.png", images)
    found = read_sheet(tmp_path / "sheet.png")
    factor = 2 if height == 32 else 1
    assert len(found) == count
    for image, tile in zip(images, found, strict=True):
        wanted = np.broadcast_to(image, (height, width, 3)).repeat(factor, 0).repeat(factor, 1)
        assert np.array_equal(tile, wanted)


def test_another_image_is_no_sheet(tmp_path):
    write_png(tmp_path / "a.png", random_image(0, 72, 72, 3), {})
    with pytest.raises(BiGainError, match="no contact sheet"):
        read_sheet(tmp_path / "a.png")

"""Contact sheets: many images of one shape in one file, which can be taken apart again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bigain.errors import BiGainError
from bigain.utils.images import read_image, write_png

COLUMNS = 8
GAP = 4  # pixels between images and around them
SHOWN = 64  # pixels of an image's shorter side, at least
_TILES = "bigain.tiles"  # number of images on a sheet


def write_sheet(path: Path, images: Sequence[np.ndarray]) -> None:
    """Write a `contact_sheet` that `read_sheet` can take apart again."""
    write_png(path, contact_sheet(images), {_TILES: str(len(images))})


def read_sheet(path: Path) -> list[np.ndarray]:
    """The images on a contact sheet, uint8 [H, W, 3] each; small images stay enlarged.

    Raises:
        BiGainError: if the file cannot be decoded, or is not a contact sheet of this project.
    """
    sheet = read_image(path)
    with Image.open(path) as image:
        count = int(image.info.get(_TILES, 0))
    if not count:
        raise BiGainError(f"{path} is no contact sheet; repeat the command of its run to redraw it")
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    height, width = ((sheet.shape[i] - GAP) // n - GAP for i, n in ((0, rows), (1, columns)))
    tops, lefts = (
        [GAP + i * (side + GAP) for i in range(n)] for side, n in ((height, rows), (width, columns))
    )
    every = [sheet[y : y + height, x : x + width] for y in tops for x in lefts]
    return every[:count]


def contact_sheet(images: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange images in rows with white gaps, and enlarge small ones by a whole factor.

    Args:
        images: uint8 [H, W, C] each, all of the same shape.

    Returns:
        uint8 [H', W', 3].
    """
    import torch  # only here, as the store reads sheets without it
    import torch.nn.functional as F
    from torchvision.utils import make_grid

    large = torch.from_numpy(np.stack([enlarged(image) for image in images])).permute(0, 3, 1, 2)
    grid = make_grid(large, nrow=COLUMNS, padding=GAP, pad_value=255)
    if len(images) == 1:  # make_grid puts no frame around a single image
        grid = F.pad(grid, (GAP, GAP, GAP, GAP), value=255)
        grid = grid.expand(3, -1, -1)
    return grid.permute(1, 2, 0).numpy()


def enlarged(image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] as a contact sheet shows it."""
    factor = max(1, -(-SHOWN // min(image.shape[:2])))
    return image.repeat(factor, 0).repeat(factor, 1)


def reduced(image: np.ndarray) -> np.ndarray:
    """The smallest image that `enlarged` turns into ``image``."""
    for factor in range(min(image.shape[:2]), 1, -1):
        small = image[::factor, ::factor]
        again = enlarged(small)
        if again.shape == image.shape and (again == image).all():
            return small
    return image

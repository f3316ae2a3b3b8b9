"""What all Fashion-MNIST recipes draw from: training images, held-out ones, keyed generators."""

import torch
from torch import Tensor

from bigain.datasets.fashion_mnist import FashionMNIST
from bigain.errors import BiGainError

EPOCHS = 1 << 31  # keys of epochs start here, above those of steps


class Garments:
    """Fashion-MNIST's train split, of which the last images are held out.

    Attributes:
        images: float32 [N, 1, 32, 32] in [-1, 1].
        labels: int64 [N].
        held_images, held_labels: the same for the held-out images.

    Raises:
        BiGainError: if a file is missing or damaged, or nothing would be left to train on.
    """

    def __init__(self, root: str, held_out: int) -> None:
        self.data = FashionMNIST(root, split="train")
        if not 0 < held_out < len(self.data):
            raise BiGainError(
                f"held_out must lie in 1..{len(self.data) - 1}, got {held_out}; "
                "the other images are trained on"
            )
        images, labels = self.data.tensors()
        self.images, self.held_images = images[:-held_out], images[-held_out:]
        self.labels, self.held_labels = labels[:-held_out], labels[-held_out:]


def generator(seed: int, key: int) -> torch.Generator:
    """A generator that depends only on (seed, key); the key is a step, or `EPOCHS` + an epoch."""
    return torch.Generator().manual_seed((seed << 32) + key)


def flip_half(x: Tensor, g: torch.Generator) -> Tensor:
    """Mirror each image of x [B, C, H, W] left to right with probability 1/2."""
    return torch.where((torch.rand(len(x), generator=g) < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)


def shift(x: Tensor, most: int, g: torch.Generator) -> Tensor:
    """Roll each image of x [B, 1, H, W] by up to ``most`` pixels along either axis."""
    by = torch.randint(-most, most + 1, (2, len(x), 1), generator=g)
    rows, columns = ((torch.arange(n) - by[axis]) % n for axis, n in enumerate(x.shape[-2:]))
    image = torch.arange(len(x)).view(-1, 1, 1)
    return x[image, 0, rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)

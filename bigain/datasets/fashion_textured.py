"""Fashion-MNIST's test garments before textures, made by scripts/prepare_fashion_textured.py."""

from bigain.datasets.fashion_mnist import FashionMNIST


class FashionTextured(FashionMNIST):
    """One-channel garments, [1, 32, 32], with textures up to the edge of the frame.

    Images, labels, classes and prompts are in the order of Fashion-MNIST's test split.

    Args:
        root: folder that the script wrote.

    Raises:
        BiGainError: if a file is missing or damaged.
    """

    name = "fashion_textured"
    side = 32
    mend = "run python scripts/prepare_fashion_textured.py"

    def __init__(self, root: str) -> None:
        super().__init__(root, "test")

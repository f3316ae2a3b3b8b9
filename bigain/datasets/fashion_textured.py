"""Fashion-MNIST's test garments on textured backgrounds.

scripts/prepare_fashion_textured.py makes the images.
"""

from bigain.datasets.fashion_mnist import FashionMNIST


class FashionTextured(FashionMNIST):
    """One-channel garments, [1, 32, 32], on textures that reach the edges of the image.

    Images, labels, classes and prompts are in the order of Fashion-MNIST's test split.

    Args:
        root: the folder that the script wrote.

    Raises:
        BiGainError: if a file is missing or damaged.
    """

    name = "fashion_textured"
    side = 32
    mend = "run python scripts/prepare_fashion_textured.py"

    def __init__(self, root: str) -> None:
        super().__init__(root, "test")

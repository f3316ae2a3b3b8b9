"""Data sets: labelled images with stable ids."""

from bigain.datasets.base import Dataset, Example
from bigain.datasets.fashion_mnist import FashionMNIST

__all__ = ["Dataset", "Example", "FashionMNIST"]

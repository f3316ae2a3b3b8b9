"""Data sets: labelled images with stable ids."""

import bigain.utils.experiments_extra  # noqa: F401 (first, as it says what to install)

# isort: split
from bigain.datasets.base import Dataset, Example
from bigain.datasets.coco import COCO2017
from bigain.datasets.fashion_mnist import FashionMNIST
from bigain.datasets.fashion_textured import FashionTextured
from bigain.datasets.folder import Folder
from bigain.datasets.image_files import ImageFiles
from bigain.datasets.imagenet import ImageNet
from bigain.datasets.pets import Pets
from bigain.datasets.torchvision_sets import (
    CIFAR10,
    CIFAR100,
    STL10,
    Aircraft,
    Caltech101,
    Flowers102,
    Food101,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "COCO2017",
    "STL10",
    "Aircraft",
    "Caltech101",
    "Dataset",
    "Example",
    "FashionMNIST",
    "FashionTextured",
    "Flowers102",
    "Folder",
    "Food101",
    "ImageFiles",
    "ImageNet",
    "Pets",
]

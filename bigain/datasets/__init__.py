"""Data sets: labelled images with stable ids."""

from bigain.datasets.base import Dataset, Example
from bigain.datasets.coco import COCO2017
from bigain.datasets.fashion_mnist import FashionMNIST
from bigain.datasets.fashion_textured import FashionTextured
from bigain.datasets.folder import Folder
from bigain.datasets.image_files import ImageFiles
from bigain.datasets.imagenet import ImageNet
from bigain.datasets.pets import Pets

__all__ = [
    "COCO2017",
    "Dataset",
    "Example",
    "FashionMNIST",
    "FashionTextured",
    "Folder",
    "ImageFiles",
    "ImageNet",
    "Pets",
]

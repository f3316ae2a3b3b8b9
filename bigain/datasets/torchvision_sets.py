"""Data sets on which zero-shot and diffusion classifiers are compared, read by torchvision.

Its loaders know each one's layout, splits and order of classes, and check the files that have
published checksums. They download nothing here; scripts/prepare_torchvision.py does. Class names
and prompts are those of CLIP (Radford et al. 2021, arXiv 2103.00020) and of the diffusion
classifier (Li et al. 2023, arXiv 2303.16203), with their articles ("a apple") unchanged.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torchvision.datasets as loaders
from PIL import Image

from bigain.datasets.image_files import ImageFile, ImageFiles, check_there
from bigain.datasets.prompts import PUBLISHED, TEMPLATE, name_of_class, prompts_for
from bigain.errors import BiGainError
from bigain.utils.csv_files import read_rows

# uint8 [N, H, W, 3], the N labels, and the names of the classes
Arrays = tuple[np.ndarray, Sequence[int], Sequence[str]]


@dataclass(frozen=True)
class Found:
    """What a loader found.

    Attributes:
        classes: the names, in the order of the labels.
        files: the images; of one in an array, ``path`` is its index.
        array: uint8 [N, H, W, 3], or None if the images are files.
    """

    classes: list[str]
    files: list[ImageFile]
    array: np.ndarray | None = None


class TorchvisionSet(ImageFiles, ABC):
    """Images that one of torchvision's loaders finds; see the subclasses.

    Args:
        root: the folder that torchvision's loaders call root, above the data set's own.
        split: one of ``splits``.
        size: side of the images in pixels.
        template: a prompt with {} for the class's name.
        prompts: a CSV file with the columns class_name and prompt, used instead of the template,
            as in `bigain.datasets.Folder`.

    Raises:
        BiGainError: if a file is missing or damaged, or the prompts do not match the classes.
    """

    key: ClassVar[str]  # its name in configs/dataset
    folder_name: ClassVar[str]  # its folder in ``root``
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    count: ClassVar[int]  # of classes

    def __init__(
        self,
        root: str,
        split: str,
        *,
        size: int,
        template: str = TEMPLATE,
        prompts: str | None = None,
    ) -> None:
        if split not in self.splits:
            raise BiGainError(
                f"dataset.split must be one of {', '.join(self.splits)}; got {split!r}"
            )
        folder = Path(root) / self.folder_name
        mend = (
            f"run python scripts/prepare_torchvision.py {self.key} and set dataset.root to the "
            "folder it prints"
        )
        if not folder.is_dir():  # asked first, as some loaders make the folder
            raise BiGainError(f"{folder} is not there; {mend}")
        try:
            found = self._find(root, split)
        except BiGainError:
            raise
        except Exception as error:  # loaders raise all kinds of errors on damaged files
            reason = " ".join(str(error).partition(" You can use download")[0].split())
            raise BiGainError(
                f"torchvision cannot read {folder} ({type(error).__name__}: {reason}); {mend}"
            ) from error
        if len(found.classes) != self._count:
            raise BiGainError(
                f"{folder} has {len(found.classes)} classes instead of {self._count}; {mend}"
            )
        self._array = found.array
        if found.array is None:
            check_there(folder, found.files, mend)
        said = prompts_for(found.classes, template, prompts)
        super().__init__(self.key, split, size, folder, found.files, found.classes, said)

    @property
    def _count(self) -> int:
        return self.count

    @abstractmethod
    def _find(self, root: str, split: str) -> Found:
        """Ask torchvision's loader; any error is put into words by the caller."""

    def _listed(self, root: str, split: str, inside: str, found: Any) -> list[ImageFile]:
        """The files that a loader found, with their path below ``inside`` as their id."""
        folder = Path(root) / self.folder_name
        files = []
        for path, label in zip(found._image_files, found._labels, strict=True):
            name = Path(path).relative_to(folder / inside).with_suffix("").as_posix()
            below = Path(path).relative_to(folder).as_posix()
            files.append(ImageFile(f"{split}-{name}", below, (int(label),)))
        return files

    def picture(self, file: ImageFile) -> Image.Image:
        if self._array is None:
            return super().picture(file)
        return Image.fromarray(self._array[int(file.path)])

    def content(self, file: ImageFile) -> str:
        if self._array is None:
            return super().content(file)
        return hashlib.sha256(self._array[int(file.path)].tobytes()).hexdigest()


class Flowers102(TorchvisionSet):
    """Oxford 102 Flower (Nilsback and Zisserman 2008): 6,149 test, 1,020 train, 1,020 val images.

    Its files number the classes and do not name them.
    """

    key, folder_name, count = "flowers102", "flowers-102", 102
    splits = ("test", "train", "val")

    def _find(self, root: str, split: str) -> Found:
        found: Any = loaders.Flowers102(root, split)
        rows = read_rows(PUBLISHED / "flowers102.csv", ("class_index", "class_name")).values()
        files = self._listed(root, split, "jpg", found)
        return Found([row["class_name"] for row in rows], files)


class Aircraft(TorchvisionSet):
    """FGVC-Aircraft (Maji et al. 2013, arXiv 1306.5151): 3,333 test, 3,334 train, 3,333 val images.

    Args:
        level: what the classes are: "variant" (100, as "737-700"), "family" (70, as "Boeing 737")
            or "manufacturer" (30, as "Boeing").
    """

    key, folder_name = "aircraft", "fgvc-aircraft-2013b"
    splits = ("test", "train", "val", "trainval")
    levels: ClassVar[dict[str, int]] = {"variant": 100, "family": 70, "manufacturer": 30}

    def __init__(
        self,
        root: str,
        split: str,
        *,
        size: int,
        level: str = "variant",
        template: str = TEMPLATE,
        prompts: str | None = None,
    ) -> None:
        if level not in self.levels:
            raise BiGainError(
                f"dataset.level must be one of {', '.join(self.levels)}; got {level!r}"
            )
        self.level = level
        super().__init__(root, split, size=size, template=template, prompts=prompts)

    @property
    def _count(self) -> int:
        return self.levels[self.level]

    def _find(self, root: str, split: str) -> Found:
        found: Any = loaders.FGVCAircraft(root, split, self.level)
        files = self._listed(root, split, "data/images", found)
        return Found(found.classes, files)


class Food101(TorchvisionSet):
    """Food-101 (Bossard, Guillaumin and Van Gool 2014): 25,250 test and 75,750 train images."""

    key, folder_name, count = "food101", "food-101", 101

    def _find(self, root: str, split: str) -> Found:
        found: Any = loaders.Food101(root, split)
        classes = [name_of_class(name) for name in found.classes]
        return Found(classes, self._listed(root, split, "images", found))


class Caltech101(TorchvisionSet):
    """Caltech-101 (Fei-Fei, Fergus and Perona 2004): 8,677 images without published splits.

    The classes are the 101 objects, in the order of their folders and with CLIP's names where it
    has others than the folder. BACKGROUND_Google, the 102nd folder, is no object and is left out.
    """

    key, folder_name, count = "caltech101", "caltech101", 101
    splits = ("all",)
    names: ClassVar[dict[str, str]] = {
        "Faces": "off-center face",
        "Faces_easy": "centered face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "airplanes": "airplane",
        "car_side": "side of a car",
        "cougar_body": "body of a cougar cat",
        "cougar_face": "face of a cougar cat",
        "crocodile_head": "head of a crocodile",
        "flamingo_head": "head of a flamingo",
        "snoopy": "snoopy (cartoon beagle)",
        "yin_yang": "yin and yang symbol",
    }

    def _find(self, root: str, split: str) -> Found:
        background = Path(root) / self.folder_name / "101_ObjectCategories" / "BACKGROUND_Google"
        if background.parent.is_dir() and not background.is_dir():
            raise BiGainError(
                f"{background} is not there; torchvision expects the folder, though its images "
                "belong to no class: put it back, or make an empty one"
            )
        found: Any = loaders.Caltech101(root)
        folders = found.categories
        files = [
            ImageFile(
                f"{folders[label]}/{number:04d}",
                f"101_ObjectCategories/{folders[label]}/image_{number:04d}.jpg",
                (label,),
            )
            for label, number in zip(found.y, found.index, strict=True)
        ]
        return Found([self.names.get(name, name_of_class(name)) for name in folders], files)


class ArraySet(TorchvisionSet):
    """Small images that a few files hold together; torchvision checks their MD5."""

    @staticmethod
    @abstractmethod
    def arrays(root: str, split: str) -> Arrays:
        """Ask torchvision's loader."""

    def _find(self, root: str, split: str) -> Found:
        folder = Path(root) / self.folder_name
        stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
        stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
        array, labels, classes = _read_once(type(self), root, split, stamp)
        files = [
            ImageFile(f"{split}-{i:05d}", str(i), (int(label),)) for i, label in enumerate(labels)
        ]
        return Found([name_of_class(name) for name in classes], files, array)


@lru_cache(maxsize=2)  # as the jobs of a sweep share them, and checking STL-10 takes seconds
def _read_once(kind: type[ArraySet], root: str, split: str, stamp: Any) -> Arrays:
    """What ``kind`` reads, again only when a file changes."""
    return kind.arrays(root, split)


class CIFAR10(ArraySet):
    """CIFAR-10 (Krizhevsky 2009), 32x32 pixels: 10,000 test and 50,000 train images."""

    key, folder_name, count = "cifar10", "cifar-10-batches-py", 10

    @staticmethod
    def arrays(root: str, split: str) -> Arrays:
        found: Any = loaders.CIFAR10(root, split == "train")
        return found.data, found.targets, found.classes


class CIFAR100(ArraySet):
    """CIFAR-100 (Krizhevsky 2009), 32x32 pixels and 100 fine classes, as many images."""

    key, folder_name, count = "cifar100", "cifar-100-python", 100

    @staticmethod
    def arrays(root: str, split: str) -> Arrays:
        found: Any = loaders.CIFAR100(root, split == "train")
        return found.data, found.targets, found.classes


class STL10(ArraySet):
    """STL-10 (Coates, Lee and Ng 2011), 96x96 pixels: 8,000 test and 5,000 train images."""

    key, folder_name, count = "stl10", "stl10_binary", 10

    @staticmethod
    def arrays(root: str, split: str) -> Arrays:
        found: Any = loaders.STL10(root, split)
        return np.ascontiguousarray(found.data.transpose(0, 2, 3, 1)), found.labels, found.classes

"""ImageNet (ILSVRC 2012; Russakovsky et al. 2015, arXiv 1409.0575), all of it or 100 classes."""

from pathlib import Path
from typing import Any

from bigain.datasets.image_files import ImageFile, ImageFiles, image_names, rank
from bigain.datasets.prompts import published
from bigain.errors import BiGainError, some

CLASSES = ("imagenet1k", "imagenet100")
SPLITS = ("val", "train")
MEND = "run python scripts/prepare_imagenet.py and set dataset.root to the folder it prints"


class ImageNet(ImageFiles):
    """Photographs in one folder per class, named by WordNet id.

    Among the thousand published prompts, two pairs are identical, so no text-conditional model can
    tell these classes apart: missile (657, 744) and sunglasses (836, 837). They are left unchanged.

    Args:
        root: a folder with val/n01440764/*.JPEG and so on. If it has no folder named like the
            split, it must contain the class folders themselves, taken to belong to that split.
        classes: "imagenet1k", or "imagenet100" for the paper's 100 classes.
        split: "val" (50 images per class) or "train".
        size: side of the images in pixels.
        subset: number of images in all, with equally many per class; None takes the whole split.
            From each class it takes the images with the lowest SHA-256 of "subset_seed/name", where
            the name has no suffix.
        subset_seed: a different seed gives a different subset.

    Raises:
        BiGainError: if a class's folder is missing or has too few images, or ``subset`` is not a
            multiple of the number of classes.
    """

    def __init__(
        self,
        root: str,
        classes: str = "imagenet1k",
        split: str = "val",
        *,
        size: int,
        subset: int | None = None,
        subset_seed: int = 0,
    ) -> None:
        if classes not in CLASSES:
            raise BiGainError(f"dataset.classes must be one of {', '.join(CLASSES)}; got {classes}")
        if split not in SPLITS:
            raise BiGainError(f"dataset.split must be one of {', '.join(SPLITS)}; got {split!r}")
        known = published(classes)
        count = len(known.names)
        if subset is not None and (subset < 1 or subset % count):
            raise BiGainError(
                f"dataset.subset must be a multiple of {count}, the number of classes, or null "
                f"for the whole split; got {subset}"
            )
        folder = _find(Path(root), split, known.wnids)
        files: list[ImageFile] = []
        for label, wnid in enumerate(known.wnids):
            found = _read(folder / wnid, split, label)
            if subset is not None:
                found = _choose(found, subset // count, folder / wnid, subset_seed)
            files += found
        self.subset, self.subset_seed = subset, subset_seed
        # a subset's statistics must not be taken for those of the split
        part = split if subset is None else f"{split}-{subset}"
        super().__init__(
            classes, part, size, folder, files, known.names, known.prompts, known.indices
        )

    def listing(self) -> list[str] | None:
        return None if self.subset is None else [file.path for file in self.files]

    def identity(self) -> dict[str, Any]:
        drawn = self.subset is not None and self.subset_seed != 0  # 0 is the default
        return super().identity() | ({"subset_seed": self.subset_seed} if drawn else {})


def _find(root: Path, split: str, wnids: list[str]) -> Path:
    folder = root / split if (root / split).is_dir() else root
    missing = [wnid for wnid in wnids if not (folder / wnid).is_dir()]
    if len(missing) == len(wnids):
        raise BiGainError(
            f"no class folder such as {wnids[0]} is in {root / split} or in {root}; {MEND}"
        )
    if missing:
        raise BiGainError(
            f"{folder} lacks {len(missing)} of {len(wnids)} class folders: {some(missing, 5)}; "
            f"{MEND}"
        )
    return folder


def _read(folder: Path, split: str, label: int) -> list[ImageFile]:
    """A class's images, without the WordNet id that some mirrors append to their names."""
    names = image_names(folder)
    if not names:
        raise BiGainError(f"{folder} holds no images; {MEND}")
    ids = (f"{split}-{Path(name).stem.removesuffix(f'_{folder.name}')}" for name in names)
    return [
        ImageFile(image_id, f"{folder.name}/{name}", (label,))
        for image_id, name in zip(ids, names, strict=True)
    ]


def _choose(files: list[ImageFile], count: int, folder: Path, seed: int) -> list[ImageFile]:
    if len(files) < count:
        raise BiGainError(
            f"{folder} holds {len(files)} images, but dataset.subset needs {count} per class; "
            f"ask for fewer, or {MEND}"
        )
    return sorted(files, key=lambda file: rank(f"{seed}/{file.id.partition('-')[2]}"))[:count]

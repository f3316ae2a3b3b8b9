"""Oxford-IIIT Pet (Parkhi, Vedaldi, Zisserman and Jawahar 2012)."""

from pathlib import Path

from bigain.datasets.image_files import ImageFile, ImageFiles, check_there
from bigain.datasets.prompts import published
from bigain.errors import BiGainError

SPLITS = ("test", "trainval")
MEND = "run python scripts/prepare_pets.py and set dataset.root to the folder it prints"


class Pets(ImageFiles):
    """Cats and dogs of 37 breeds.

    Args:
        root: a folder with images/ and annotations/, or torchvision's folder above it.
        split: "test" (3,669 images) or "trainval" (3,680).
        size: side of the images in pixels.

    Raises:
        BiGainError: if a file is missing or differs from the published one.
    """

    def __init__(self, root: str, split: str = "test", *, size: int) -> None:
        if split not in SPLITS:
            raise BiGainError(f"dataset.split must be one of {', '.join(SPLITS)}; got {split!r}")
        folder, annotations = _find(Path(root), split)
        classes = published("pets")
        files = _read(annotations, split, classes.names)
        check_there(folder, files, MEND)
        super().__init__("pets", split, size, folder, files, classes.names, classes.prompts)


def _find(root: Path, split: str) -> tuple[Path, Path]:
    for folder in (root / "oxford-iiit-pet", root):
        annotations = folder / "annotations" / f"{split}.txt"
        if annotations.is_file():
            return folder, annotations
    raise BiGainError(
        f"annotations/{split}.txt is neither in {root / 'oxford-iiit-pet'} nor in {root}; {MEND}"
    )


def _read(annotations: Path, split: str, classes: list[str]) -> list[ImageFile]:
    """Read lines such as "Abyssinian_201 1 1 1": image, class (from 1), species, breed."""
    files = []
    for number, line in enumerate(annotations.read_text(errors="replace").splitlines(), 1):
        fields = line.split()
        name, label = fields[:2] if len(fields) == 4 else ("", "")
        breed = name.rpartition("_")[0].replace("_", " ").lower()
        if breed not in classes or label != str(classes.index(breed) + 1):
            raise BiGainError(
                f"{annotations}, line {number}: {line!r} is not an image of one of the 37 breeds "
                f"with its number, species and breed; {MEND}"
            )
        files.append(ImageFile(f"{split}-{name}", f"images/{name}.jpg", (int(label) - 1,)))
    return files

"""COCO 2017 (Lin et al. 2014, arXiv 1405.0312): images of several objects, with captions."""

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bigain.datasets.image_files import ImageFile, ImageFiles, check_there
from bigain.datasets.prompts import published
from bigain.errors import BiGainError

SPLITS = ("val", "train")
MEND = "run python scripts/prepare_coco2017.py and set dataset.root to the folder it prints"


class COCO2017(ImageFiles):
    """Photographs with a caption and the classes of all objects in them, from 80 classes.

    A label is the position of its category in the order of category ids, which lie in 1..90, with
    ten of them unused. Crowds of objects count. Images without objects are kept and have no labels.
    An image's prompt is its caption with the lowest annotation id, with runs of whitespace replaced
    by single spaces.

    Args:
        root: a folder with val2017/ and annotations/{instances,captions}_val2017.json.
        split: "val" (5,000 images) or "train".
        size: side of the images in pixels.

    Raises:
        BiGainError: if a file is missing, damaged or differs from the published one.
    """

    def __init__(self, root: str, split: str = "val", *, size: int) -> None:
        if split not in SPLITS:
            raise BiGainError(f"dataset.split must be one of {', '.join(SPLITS)}; got {split!r}")
        annotations = Path(root) / "annotations"
        instances_json, captions_json = (
            annotations / f"{kind}_{split}2017.json" for kind in ("instances", "captions")
        )
        classes = published("coco2017")
        instances, captions = _load(instances_json), _load(captions_json)
        folder = Path(root) / f"{split}2017"
        try:
            labels = _labels(instances, classes.names, instances_json)
            drawn = _captions(captions)
            files = [
                ImageFile(
                    f"{split}-{image['id']:012d}",
                    image["file_name"],
                    tuple(sorted(labels.get(image["id"], ()))),
                    drawn[image["id"]],
                )
                for image in instances["images"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BiGainError(
                f"{instances_json} and {captions_json.name} are not COCO's, or not of the same "
                f"images ({type(error).__name__}: {error}); {MEND}"
            ) from error
        check_there(folder, files, MEND)
        super().__init__("coco2017", split, size, folder, files, classes.names, classes.prompts)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise BiGainError(f"{path} is not there; {MEND}")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise BiGainError(f"{path} is damaged ({error}); {MEND}") from error


def _labels(instances: Any, names: list[str], path: Path) -> dict[int, set[int]]:
    """The labels of each image that has any."""
    categories = sorted(instances["categories"], key=lambda category: category["id"])
    found = [category["name"] for category in categories]
    if found != names:
        pairs = zip_longest(found, names, fillvalue="missing")
        place, name = next((i, a) for i, (a, b) in enumerate(pairs, 1) if a != b)
        raise BiGainError(
            f"the categories of {path} are not COCO's {len(names)}: number {place} is {name}; "
            f"{MEND}"
        )
    label = {category["id"]: i for i, category in enumerate(categories)}
    labels: dict[int, set[int]] = {}
    for annotation in instances["annotations"]:
        labels.setdefault(annotation["image_id"], set()).add(label[annotation["category_id"]])
    return labels


def _captions(captions: Any) -> dict[int, str]:
    """The caption with the lowest annotation id of each image."""
    first: dict[int, str] = {}
    for annotation in sorted(captions["annotations"], key=lambda annotation: annotation["id"]):
        first.setdefault(annotation["image_id"], " ".join(annotation["caption"].split()))
    return first

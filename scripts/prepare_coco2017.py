"""Download COCO 2017's validation images and annotations, check them, and print what to run.

    python scripts/prepare_coco2017.py [--root data/coco2017]

The script resumes where it was stopped, and removes each archive once it is unpacked.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from bigain.errors import BiGainError
from bigain.preparation.downloads import command, downloading

ARCHIVES = {  # by the folder that an archive holds: its address and MD5
    "val2017": (
        "http://images.cocodataset.org/zips/val2017.zip",
        "442b8da7639aecaf257c1dceb8ba8c80",
    ),
    "annotations": (
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        "f4bbac642086de4f52a3fdda2de5fa2c",
    ),
}
IMAGES = 5000
LABELLED = 4952  # images with at least one object


def prepare(root: Path) -> str:
    """Download val2017/ and annotations/ into ``root``, check them and say what they hold.

    Raises:
        BiGainError: if an archive cannot be downloaded, or images or annotations are missing or
            damaged.
    """
    from torchvision.datasets import utils  # only now: torch takes seconds

    from bigain.datasets import COCO2017
    from bigain.preparation.checks import check

    for folder, (url, md5) in ARCHIVES.items():
        archive = root / url.rpartition("/")[2]
        if (root / folder).is_dir() and not archive.exists():
            continue
        with downloading(f"get {url} by hand (MD5 {md5}), put it into {root}"):
            utils.download_and_extract_archive(url, root, md5=md5, remove_finished=True)
    mend = f"remove {' and '.join(str(root / folder) for folder in ARCHIVES)}, run this again"
    dataset = check(partial(COCO2017, str(root), "val", size=1), IMAGES, mend)
    found = sum(bool(dataset.labels(i)) for i in range(IMAGES))
    if found != LABELLED:
        raise BiGainError(
            f"{root / 'annotations'} has objects in {found} images instead of {LABELLED}; {mend}"
        )
    return f"{IMAGES} validation images, {LABELLED} of them with labels,"


def main() -> None:
    command(prepare, "coco2017", "Download COCO 2017's val split and check it.")


if __name__ == "__main__":
    main()

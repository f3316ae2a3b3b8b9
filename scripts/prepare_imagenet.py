"""Unpack ImageNet's validation images, check them, and print what to run.

    python scripts/prepare_imagenet.py [--root data/imagenet] [--archives DIR]
    python scripts/prepare_imagenet.py --adm VIRTUAL_imagenet256_labeled.npz

The first serves dataset=imagenet1k and dataset=imagenet100. Images that are already in
root/val/<WordNet id>/ are only checked. The second makes the reference of protocol=adm.
"""

import argparse
import os
import shutil
import sys
import tarfile
import zlib
from functools import partial
from pathlib import Path

from torchvision.datasets import imagenet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python puts scripts/ there alone

from bigain.datasets import ImageNet
from bigain.errors import BiGainError
from bigain.features.inception import Inception
from bigain.preparation import adm
from bigain.preparation.checks import check
from bigain.utils.devices import device_of
from bigain.utils.files import explained
from bigain.utils.paths import REPOSITORY

SOURCE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
PER_CLASS = 50


def prepare(root: Path, archives: Path) -> int:
    """Leave one folder a class in ``root``/val.

    Args:
        root: of the data set.
        archives: folder with the tar of the images and the devkit, which says their classes.

    Returns:
        The number of images.

    Raises:
        BiGainError: if an archive is missing or not the published one, or if images are missing
            or damaged.
    """
    if not (root / "val").is_dir():
        _unpack(root, archives)
    mend = f"move {root / 'val'} away, run this again with --archives DIR"
    count = 1000 * PER_CLASS
    dataset = check(partial(ImageNet, str(root), "imagenet1k", "val", size=1), count, mend)
    found = [0] * len(dataset.classes)
    for i in range(count):
        found[dataset.labels(i)[0]] += 1
    if set(found) != {PER_CLASS}:
        raise BiGainError(
            f"{root / 'val'} holds {min(found)} to {max(found)} images a class instead of "
            f"{PER_CLASS}; {mend}"
        )
    return count


def _unpack(root: Path, archives: Path) -> None:
    """All or nothing; torchvision checks the archives' MD5."""
    tar, devkit = (archives.resolve() / imagenet.ARCHIVE_META[k][0] for k in ("val", "devkit"))
    if absent := [path.name for path in (tar, devkit) if not path.is_file()]:
        raise BiGainError(
            f"neither {root / 'val'} nor {' and '.join(absent)} in {archives} is there; get "
            f"{tar.name} and {devkit.name} from {SOURCE} (free account, non-commercial research) "
            "and name their folder with --archives"
        )
    part = root / ".val.part"
    shutil.rmtree(part, ignore_errors=True)
    with explained(root):
        root.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {tar.name}, some minutes")
    try:
        imagenet.parse_devkit_archive(str(root), str(devkit))
        imagenet.parse_val_archive(str(root), str(tar), folder=part.name)
        os.replace(part, root / "val")
    except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise BiGainError(
            f"{tar} and {devkit.name} cannot be unpacked ({reason}); get them again from {SOURCE}"
        ) from error


def reference(path: Path, network: Inception, output: Path, device: str, batch_size: int) -> Path:
    """Make reference statistics of ADM's batch; returns their file.

    Raises:
        BiGainError: if the batch or the network's weights are not the published ones.
    """
    statistics = adm.convert(path, network.load(device_of(device)), batch_size)
    with explained(output):
        output.mkdir(parents=True, exist_ok=True)
    file = output / f"{statistics.name}.npz"
    statistics.save(file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack ImageNet's validation images.")
    parser.add_argument("--root", type=Path, default=Path("data/imagenet"))
    parser.add_argument("--archives", type=Path, help="folder of the two archives; default: root")
    group = parser.add_argument_group("the reference of protocol=adm, instead of images")
    group.add_argument("--adm", type=Path, metavar="NPZ", help="ADM's reference batch")
    group.add_argument("--weights", help="Inception's file or its folder; default: downloaded")
    group.add_argument("--output", type=Path, default=REPOSITORY / "assets" / "statistics")
    group.add_argument("--device", default="auto")
    group.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    try:
        if args.adm is not None:
            network = Inception("legacy_pytorch", args.weights)
            file = reference(args.adm, network, args.output, args.device, args.batch_size)
        else:
            count = prepare(args.root, args.archives or args.root)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    if args.adm is not None:
        size = file.name.removeprefix("adm-imagenet").partition("-")[0]
        print(f"{file} is the reference of protocol=adm at {size} pixels; generate for it:")
        print(f"python run.py model=dit_xl2_{size} dataset=imagenet1k task=generate protocol=adm")
        return
    print(f"{count} validation images are in {args.root}")
    for name, more in (("imagenet1k", " dataset.subset=2000"), ("imagenet100", "")):
        chosen = f"model=sd2 dataset={name} dataset.root={args.root}"
        print(f"classify {name}: python run.py task=classify {chosen}{more}")
        print(
            "  FID's reference, once: "
            f"python scripts/make_reference_statistics.py features=inception {chosen}"
        )


if __name__ == "__main__":
    main()

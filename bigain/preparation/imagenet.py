"""ImageNet's validation images from the published archives, and ADM's reference statistics."""

import os
import shutil
import tarfile
import zlib
from functools import partial
from pathlib import Path

from torchvision.datasets import imagenet

from bigain.datasets import ImageNet
from bigain.errors import BiGainError, one_line
from bigain.features.inception import Inception
from bigain.preparation import adm
from bigain.preparation.checks import check
from bigain.utils.devices import device_of
from bigain.utils.files import explained, make_folder

SOURCE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
PER_CLASS = 50


def prepare(root: Path, archives: Path) -> int:
    """Leave one folder per class in ``root``/val, unpacked if it is not there, and check them.

    Args:
        root: folder of the data set.
        archives: folder with the tar of the images and the devkit, which holds their classes.

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
            f"{root / 'val'} holds {min(found)} to {max(found)} images per class instead of "
            f"{PER_CLASS}; {mend}"
        )
    return count


def _unpack(root: Path, archives: Path) -> None:
    """Unpack all images or none; torchvision checks the MD5 of the archives."""
    tar, devkit = (archives.resolve() / imagenet.ARCHIVE_META[k][0] for k in ("val", "devkit"))
    if absent := [path.name for path in (tar, devkit) if not path.is_file()]:
        raise BiGainError(
            f"there is neither {root / 'val'} nor {' and '.join(absent)} in {archives}; get "
            f"{tar.name} and {devkit.name} from {SOURCE} (free account, non-commercial research) "
            "and name their folder with --archives"
        )
    part = root / ".val.part"
    shutil.rmtree(part, ignore_errors=True)
    with explained(root):
        root.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {tar.name}, which takes some minutes")
    try:
        imagenet.parse_devkit_archive(str(root), str(devkit))
        imagenet.parse_val_archive(str(root), str(tar), folder=part.name)
        os.replace(part, root / "val")
    except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = one_line(error)
        raise BiGainError(
            f"{tar} and {devkit.name} cannot be unpacked ({reason}); get them again from {SOURCE}"
        ) from error


def reference(path: Path, network: Inception, output: Path, device: str, batch_size: int) -> Path:
    """Turn ADM's reference batch into reference statistics, and return their file.

    Raises:
        BiGainError: if the batch or the network's weights are not the published ones.
    """
    statistics = adm.convert(path, network.load(device_of(device)), batch_size)
    make_folder(output)
    file = output / f"{statistics.name}.npz"
    statistics.save(file)
    return file

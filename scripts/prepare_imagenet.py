"""Unpack ImageNet's validation images, check them, and print what to run.

    python scripts/prepare_imagenet.py [--root data/imagenet] [--archives DIR]
    python scripts/prepare_imagenet.py --adm VIRTUAL_imagenet256_labeled.npz

The first command serves dataset=imagenet1k and dataset=imagenet100. Images that are already in
root/val/<WordNet id>/ are only checked. The second makes the reference statistics of protocol=adm.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from bigain.errors import BiGainError
from bigain.utils.paths import REPOSITORY, given_path


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack ImageNet's validation images.")
    parser.add_argument(
        "--root",
        type=given_path,
        default=Path("data/imagenet"),
        help="folder in which val/ is made",
    )
    parser.add_argument(
        "--archives", type=given_path, help="folder of the two archives; default: --root"
    )
    group = parser.add_argument_group("making the reference of protocol=adm instead")
    group.add_argument("--adm", type=given_path, metavar="NPZ", help="ADM's reference batch")
    group.add_argument("--weights", help="Inception's weights or their folder; default: download")
    group.add_argument(
        "--output",
        type=given_path,
        default=REPOSITORY / "assets" / "statistics",
        help="folder to write the reference into",
    )
    group.add_argument("--device", default="auto", help="auto, cpu or cuda")
    group.add_argument("--batch-size", type=int, default=64, help="images at a time")
    args = parser.parse_args()
    from bigain.preparation import imagenet  # only now: torch takes seconds

    try:
        if args.adm is not None:
            network = imagenet.Inception("legacy_pytorch", args.weights)
            file = imagenet.reference(args.adm, network, args.output, args.device, args.batch_size)
        else:
            count = imagenet.prepare(args.root, args.archives or args.root)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    if args.adm is not None:
        size = file.name.removeprefix("adm-imagenet").partition("-")[0]
        print(f"{file} is the reference of protocol=adm at {size} pixels; to generate for it, run:")
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

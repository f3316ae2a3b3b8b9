"""What scripts/prepare_*.py share: the download of a data set, then what to run next."""

import argparse
import contextlib
import io
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bigain.errors import BiGainError, one_line
from bigain.utils.paths import given_path


def command(prepare: Callable[[Path], str], dataset: str, about: str) -> None:
    """The ``main`` of a script that downloads a data set for sd2.

    Args:
        prepare: prepares the data set in the given folder, and returns in words what is there.
        dataset: name of the data set in configs/dataset.
        about: description of the script in one line.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "--root", type=given_path, default=Path("data") / dataset, help="folder to download into"
    )
    root = parser.parse_args().root
    try:
        found = prepare(root)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    say_next(found, root, dataset)


def say_next(found: str, root: Path, dataset: str) -> None:
    """Print what is there, and the commands to run next with sd2."""
    chosen = f"model=sd2 dataset={dataset} dataset.root={root}"
    print(f"{found} are in {root}")
    print(f"classify them:             python run.py task=classify {chosen}")
    print(
        "make FID's reference once: "
        f"python scripts/make_reference_statistics.py features=inception {chosen}"
    )


@contextlib.contextmanager
def downloading(by_hand: str) -> Iterator[None]:
    """Silence torchvision, and explain in one line why a download fails.

    Args:
        by_hand: what to download by hand, and where to put it.

    Raises:
        BiGainError: if an archive cannot be downloaded or unpacked.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error,
            tarfile.TarError, zipfile.BadZipFile) as error:  # fmt: skip
        reason = one_line(error)
        raise BiGainError(f"download failed ({reason}); {by_hand} and run this again") from error

"""What scripts that download a data set of sd2's share: download, then say what to run."""

import argparse
import contextlib
import io
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bigain.errors import BiGainError


def command(prepare: Callable[[Path], str], dataset: str, about: str) -> None:
    """A script's ``main``.

    Args:
        prepare: leaves the data set in the folder given, and returns what is there.
        dataset: its name in configs/dataset.
        about: the script, in a line.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--root", type=Path, default=Path("data") / dataset)
    root = parser.parse_args().root
    try:
        found = prepare(root)
    except BiGainError as error:
        sys.exit(f"error: {error}")
    chosen = f"model=sd2 dataset={dataset} dataset.root={root}"
    print(f"{found} are in {root}")
    print(f"classify them:             python run.py task=classify {chosen}")
    print(
        "make FID's reference once: "
        f"python scripts/make_reference_statistics.py features=inception {chosen}"
    )


@contextlib.contextmanager
def downloading(by_hand: str) -> Iterator[None]:
    """Quiet what torchvision prints, and explain in one line what stops it.

    Args:
        by_hand: what to get and where to put it instead.

    Raises:
        BiGainError: if an archive cannot be had or unpacked.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error,
            tarfile.TarError, zipfile.BadZipFile) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise BiGainError(f"download failed ({reason}); {by_hand} and run this again") from error

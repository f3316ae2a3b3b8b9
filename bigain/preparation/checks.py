"""How scripts/prepare_*.py check the images that they have prepared."""

from collections.abc import Callable
from multiprocessing.pool import ThreadPool

from tqdm import tqdm

from bigain.datasets.image_files import ImageFile, ImageFiles
from bigain.errors import BiGainError, some

SHOWN = 5  # number of files that an error names


def check(build: Callable[[], ImageFiles], count: int, mend: str) -> ImageFiles:
    """Build a data set, count its images and decode them all.

    Args:
        build: returns the data set.
        count: number of images that it must have.
        mend: what to do if the data set is not as published.

    Returns:
        The data set.

    Raises:
        BiGainError: if images are missing or damaged; it names them and ends with ``mend``.
    """
    try:
        dataset = build()
    except BiGainError as error:
        # a data set's own errors end by naming the script to run, which is already running
        raise BiGainError(f"{str(error).rpartition('; ')[0] or error}; {mend}") from error
    found = len(dataset)
    if found != count:
        raise BiGainError(
            f"{dataset.folder} holds {found} {dataset.split} images instead of {count}; {mend}"
        )
    if damaged := _damaged(dataset):
        raise BiGainError(
            f"{len(damaged)} of {count} images in {dataset.folder} cannot be decoded: "
            f"{some(damaged, SHOWN)}; {mend}"
        )
    return dataset


def _damaged(dataset: ImageFiles) -> list[str]:
    """The files that cannot be decoded, in the data set's order."""

    def unreadable(file: ImageFile) -> str | None:
        try:
            dataset.picture(file)
        except BiGainError:
            return file.path
        return None

    files = dataset.files
    with ThreadPool() as pool:  # PIL releases the interpreter lock while it decodes
        found = pool.imap(unreadable, files, chunksize=16)
        bar = tqdm(found, total=len(files), unit="img", desc=f"check {dataset.split}", disable=None)
        return [path for path in bar if path is not None]

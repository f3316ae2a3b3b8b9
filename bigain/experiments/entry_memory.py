"""What a status asks of entries, kept on disk until something changes that it was made from.

Building an entry's job imports torch and takes some milliseconds. A status asks for hundreds of
entries, and needs only the run's folder, the images and the records of scores of each.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Protocol

from bigain.errors import BiGainError
from bigain.experiments.experiment_files import Entry
from bigain.store.runs import Run
from bigain.store.wanted_scores import WantedScores
from bigain.utils import files, user_cache
from bigain.utils.paths import REPOSITORY
from bigain.utils.reads import Stamp, recorded, unchanged

FILE = REPOSITORY / "outputs" / "entries.json"
SOURCES = ("bigain", "configs")
# variables that differ from command to command and that nothing here reads
SHELL = {"_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES", "TERM", "PYTEST_CURRENT_TEST"}
# files changed later than this before they are read could change again within the same time stamp
SETTLED = 2.0  # seconds


class EntryLike(Protocol):
    """What a status asks of an entry."""

    @property
    def run_path(self) -> Path: ...
    def image_ids(self) -> list[str]: ...
    def scored(self, run: Run) -> bool: ...


@dataclass(frozen=True)
class Remembered:
    """An entry as it was found earlier.

    Attributes:
        path: the folder of its run.
        images: the ids that the run must hold.
        scores: those that the images are to have; None if they are not scored.
        error: why it cannot run; the other attributes are then empty.
    """

    path: str = ""
    images: tuple[str, ...] = ()
    scores: WantedScores | None = None
    error: str | None = None

    @property
    def run_path(self) -> Path:
        if self.error is not None:
            raise BiGainError(self.error)
        return Path(self.path)

    def image_ids(self) -> list[str]:
        return list(self.images)

    def scored(self, run: Run) -> bool:
        return self.scores is None or self.scores.complete(run)


class EntryMemory:
    """The entries found so far, and all that they were made from.

    Sources, configuration, versions, environment and working folder are compared by their content,
    data and models by size and time. Entries on folders of photographs are not kept, because each
    status would have to look at every photograph.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or FILE
        self._key = _surroundings()
        self._entries: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, Stamp] = {}
        self._new = False
        if user_cache.folder() is None:  # the user wants nothing to be kept
            return
        try:
            found = json.loads(self._file.read_text())
            if found["key"] == self._key and unchanged(found["seen"]):
                self._entries, self._seen = found["entries"], found["seen"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or incomplete: everything is built again

    def of(self, entry: Entry) -> EntryLike:
        """The entry, from memory if it is there."""
        name = json.dumps(entry.overrides)
        if (found := self._entries.get(name)) is not None:
            scores = found["scores"] and WantedScores(**found["scores"])
            return Remembered(found["path"], tuple(found["images"]), scores, found["error"])
        with recorded(self._seen):
            from bigain.datasets import ImageFiles  # only now: torch takes seconds

            try:
                job = entry.job
                wanted = job.scoring.wanted(len(job.ids)) if job.scoring else None
                made = Remembered(str(job.run_path), tuple(job.ids), wanted)
                lasting = not isinstance(job.dataset, ImageFiles)
            except BiGainError as error:
                made, lasting = Remembered(error=str(error)), True
        if lasting and not any("oc.env" in override for override in entry.overrides):
            self._entries[name] = asdict(made)
            self._new = True
        return made

    @contextmanager
    def kept(self) -> Iterator["EntryMemory"]:
        """Write new entries when the block ends; if that is not possible, they are not kept."""
        yield self
        seen = {name: found for name, found in self._seen.items() if not _known(name)}
        latest = max((found[1] for found in seen.values() if found), default=0)
        if not self._new or user_cache.folder() is None:
            return
        if not unchanged(seen) or time.time() - latest / 1e9 < SETTLED:
            return
        about = {"key": self._key, "seen": seen, "entries": self._entries}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self._file, json.dumps(about))
        except (OSError, BiGainError):  # a read-only checkout: the next status takes as long
            return


def _known(name: str) -> bool:
    """Whether `_surroundings` covers a path, or it holds only what was made from other files."""
    own = [str(REPOSITORY / folder) for folder in SOURCES]
    made = [str(folder) for folder in [user_cache.folder()] if folder is not None]
    return name.startswith((*own, *made, sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/dev/"))


def _surroundings() -> str:
    """A fingerprint of sources, configuration, versions, environment and working folder."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".csv", ".json", ".txt") and path.is_file():
                digest.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    installed = sorted(
        Path(str(one._path)).name  # type: ignore[attr-defined]  # whose name holds the version
        for one in distributions()
    )
    environment = sorted(item for item in os.environ.items() if item[0] not in SHELL)
    about = [sys.version, os.getcwd(), installed, environment]
    digest.update(json.dumps(about).encode())
    return digest.hexdigest()

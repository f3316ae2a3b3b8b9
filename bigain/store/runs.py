"""One folder per run, one row per image; a finished image is never lost nor computed twice."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bigain.errors import BiGainError, shell, some
from bigain.store.bundles import Bundled, Bundles
from bigain.store.identity import canonical, fingerprint
from bigain.store.locks import Locks
from bigain.store.parts import Parts
from bigain.store.shards import WHOLE, Shard
from bigain.utils import files
from bigain.utils.images import enlarged, read_sheet, reduced, write_sheet
from bigain.utils.paths import NAME

_RUN = "run.json"
_SHEET = "sheet.png"
_CHECKSUM = "checksum"  # the key of a record's own fingerprint


class MissingImagesError(BiGainError):
    """A run lacks images that were asked for.

    Attributes:
        missing: their ids.
    """

    def __init__(self, message: str, missing: list[str]) -> None:
        super().__init__(message)
        self.missing = missing


class Run:
    """The results of one run, in ``<root>/<prefix>-<fingerprint>``; see `create` and `find`.

    ``run.json`` tells what ran, each ``part-*.parquet`` holds some of its images, one row each, and
    other ``*.json`` are its records. A run without a folder may be in the bundles beside ``root``
    (`bigain.store.bundles`): it is read there, and gets its folder back when it is locked or
    changed.

    Attributes:
        path: the folder.
        fingerprint: the fingerprint of its identity.
        identity: all that can change a result.
        config: the whole configuration of the command that made the folder, for people to read.
    """

    def __init__(self, path: Path, identity: dict[str, Any], config: dict[str, Any]) -> None:
        self.path = path
        self.fingerprint = fingerprint(identity)
        self.identity = identity
        self.config = config
        self._locks = Locks(path)
        self._parts = Parts(path, self.fingerprint)
        self._bundles = Bundles.beside(path.parent)

    @classmethod
    def create(
        cls, root: Path | str, name_prefix: str, identity: dict[str, Any], config: dict[str, Any]
    ) -> "Run":
        """Open the run of ``identity`` under ``root``, made first if it is new.

        Raises:
            BiGainError: if the folder belongs to another identity, or cannot be written.
        """
        _check_name("run prefix", name_prefix)
        path = Path(root) / f"{name_prefix}-{fingerprint(identity)}"
        if (run := cls.find(path)) is not None:
            if canonical(run.identity) != canonical(identity):
                keys = sorted(
                    key
                    for key in {*run.identity, *identity}
                    if run.identity.get(key) != identity.get(key)
                )
                raise BiGainError(
                    f"{path} holds a run of another identity (they differ in {', '.join(keys)}); "
                    f"move it away ({shell('mv', path, f'{path}.old')}) and run the same command"
                )
            return run
        run = cls(path, identity, config)
        about = {"fingerprint": run.fingerprint, "identity": identity, "config": config}
        with files.explained(path):
            path.mkdir(parents=True, exist_ok=True)
        files.write_text(path / _RUN, _readable(about))
        return run

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open the run in the folder ``path``, or that of this name in the bundles.

        Raises:
            BiGainError: if there is none, or its ``run.json`` is damaged.
        """
        if (run := cls.find(path)) is None:
            raise BiGainError(
                f"no run at {path}: a run's folder holds {_RUN}; see "
                f"{shell('ls', Path(path).parent)} for those there are, or start one with "
                "`python run.py`"
            )
        return run

    @classmethod
    def find(cls, path: Path | str) -> "Run | None":
        """As `open`, but None if there is none."""
        path = Path(path)
        about = path / _RUN
        if not about.is_file():
            bundles = Bundles.beside(path.parent)
            if path.name not in bundles:
                return None
            found = bundles.about(path.name)
            return cls(path, found["identity"], found["config"])
        try:
            found = json.loads(about.read_text())
            run = cls(path, found["identity"], found["config"])
            sound = run.fingerprint == found["fingerprint"]
        except (ValueError, KeyError, TypeError, AttributeError, BiGainError):
            sound = False
        if not sound:
            raise BiGainError(
                f"{about} is damaged: it must hold an identity, its fingerprint and a config; "
                f"remove it ({shell('rm', about)}) and run the run's command, which writes it anew"
            )
        return run

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add finished images as one part, which is on disk whole when this returns.

        Args:
            rows: one dict per image, with its ``image_id``. All rows of a run have the same columns
                of the same types: str, bool, int64, float64, or lists of these. No rows, no part.

        Raises:
            ValueError: if the rows are of another form.
            BiGainError: if the part cannot be written; nothing is left of it.
        """
        if not rows:
            return
        self.unpack()
        self._parts.append(rows)

    def rows(self) -> pd.DataFrame:
        """All finished images, one row each, sorted by ``image_id``.

        Raises:
            BiGainError: if a part is unreadable or of another run, or an image is there twice.
        """
        return self._read(None)

    def finished(self) -> set[str]:
        """The ids of the finished images; raises as `rows` does."""
        return set(self._read(["image_id"])["image_id"])

    def require(self, ids: Sequence[str]) -> pd.DataFrame:
        """The rows of ``ids``, in that order.

        Raises:
            ValueError: if ``ids`` repeats one.
            MissingImagesError: if some are not finished.
            BiGainError: as `rows` does.
        """
        if len(set(ids)) < len(ids):
            raise ValueError("an id is asked for twice; give each image once")
        rows = self.rows().set_index("image_id", drop=False)
        missing = [i for i in ids if i not in rows.index]
        if missing:
            raise MissingImagesError(
                f"{self.path} lacks {len(missing)} of {len(ids)} images: {some(missing)}; run its "
                "command again to complete it",
                missing,
            )
        return rows.loc[list(ids)].reset_index(drop=True)

    def compact(self) -> None:
        """Bring all parts into one, small on disk, for keeping.

        The caller holds the run's lock or `lock_finish`. Whenever it is killed, no row is lost.

        Raises:
            BiGainError: if a part is damaged, or the disk refuses.
        """
        self.unpack()
        self._parts.compact()

    @contextmanager
    def lock(self, shard: Shard = WHOLE, sweep: str = "") -> Iterator[None]:
        """Hold a shard of the run, or all of it, against other processes.

        Shards of one count can be held at once, those of different counts cannot: they overlap.
        The system frees the lock when the process ends, however it ends. What killed writers left
        is removed.

        Args:
            sweep: the name of what started this process. A process of the same is waited for: two
                entries of a table can be parts of one run.

        Raises:
            LockedError: at once, if another process holds the shard or one that overlaps.
        """
        self.unpack()
        with self._locks.shard(shard, sweep):
            with files.explained(self.path):
                for folder in (self.path, *filter(Path.is_dir, self.path.iterdir())):
                    files.remove_stray(folder)
            yield

    def lock_finish(self) -> AbstractContextManager[None]:
        """Hold what is done once all images are there.

        Raises:
            LockedError: at once, if another process holds it.
        """
        self.unpack()
        return self._locks.finish()

    def running(self) -> list[Shard]:
        """The shards that processes hold at this moment, the whole run being one."""
        return self._locks.held()

    def record(self, name: str, data: dict[str, Any]) -> None:
        """Write ``data``, plain JSON values, as the run's record ``name``, over any older one.

        Raises:
            BiGainError: if it is not plain JSON or cannot be written.
        """
        self.unpack()
        self._write(name, data)

    def update(self, name: str, change: Callable[[dict[str, Any] | None], dict[str, Any]]) -> None:
        """Write ``change`` of the record ``name``, or of None; processes take turns at it."""
        self.unpack()
        with self._locks.records():
            self.record(name, change(self.read_record(name)))

    def forget(self, name: str) -> None:
        """Remove the record ``name`` if there is one."""
        self.unpack()
        with files.explained(self.path):
            self._record(name).unlink(missing_ok=True)

    def read_record(self, name: str) -> dict[str, Any] | None:
        """The run's record ``name``, or None if it has none.

        Raises:
            BiGainError: if it is damaged.
        """
        path = self._record(name)
        if self.bundled:
            kept = self._bundles.records(self.path.name).get(name)
            return None if kept is None else dict(kept)
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text())
            if not isinstance(data, dict):
                raise ValueError("it is not a JSON object")
            checksum = data.pop(_CHECKSUM, None)
            if checksum is not None and checksum != fingerprint(data):
                raise ValueError("it was changed after it had been written")
        except (ValueError, RecursionError, BiGainError) as error:
            raise BiGainError(
                f"{path} is damaged ({error}); delete it ({shell('rm', path)}) and run the "
                "run's command again"
            ) from error
        return data

    def sessions(self) -> list[dict[str, Any]]:
        """What computed its images, as the record "sessions" holds it; empty without one."""
        found: list[dict[str, Any]] = (self.read_record("sessions") or {"sessions": []})["sessions"]
        return found

    def ended(self) -> float | None:
        """When its last session ended, in seconds since the epoch; None if no end is recorded.

        The times of its files do not tell, because compacting rewrites them.
        """
        ends = (datetime.fromisoformat(s["finished"]) for s in self.sessions() if "finished" in s)
        return max((end.timestamp() for end in ends), default=None)

    def records(self, prefix: str) -> list[str]:
        """The names of the records that begin with ``prefix``."""
        if self.bundled:
            every = self._bundles.records(self.path.name)
            return sorted(name for name in every if name.startswith(prefix))
        found = (path.stem for path in self.path.glob(f"{prefix}*.json"))
        return sorted(name for name in found if f"{name}.json" != _RUN)

    def sheet(self) -> list[np.ndarray]:
        """The images of its contact sheet, uint8 [H, W, 3] each, small ones enlarged.

        Returns:
            Nothing if it has none; of a bundled run the first alone.

        Raises:
            BiGainError: if it cannot be decoded.
        """
        if self.bundled:
            return [enlarged(image) for image in self._bundles.sheet(self.path.name)]
        path = self.path / _SHEET
        return read_sheet(path) if path.exists() else []

    @property
    def bundled(self) -> bool:
        """Whether it has no folder of its own, but is in the bundles."""
        return not (self.path / _RUN).exists() and self.path.name in self._bundles

    def unpack(self) -> None:
        """Give a bundled run its folder back; a run that has one stays as it is.

        Killed at any moment and called again, it ends as if it had not been killed.

        Raises:
            BiGainError: if the bundle is damaged, or the disk refuses.
        """
        if not self.bundled:
            return
        with files.explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self._locks.records():
            if not self.bundled:  # another process has done it
                return
            self._clear()
            found = self._bundles.read(self.path.name)
            if len(found.rows):
                self._parts.add(found.rows)
            for name, record in found.records.items():
                self._write(name, dict(record))
            if found.sheet:
                write_sheet(self.path / _SHEET, found.sheet)
            files.write_text(self.path / _RUN, _readable(dict(found.about)))

    def pack(self, rows: pd.DataFrame, sheet: int) -> Bundled:
        """The run as bundles keep it.

        Args:
            rows: its finished images, less what is not worth keeping, which is an empty list.
            sheet: how many images of its contact sheet to keep.
        """
        names = self.records("")
        return Bundled(
            self.path.name,
            {"fingerprint": self.fingerprint, "identity": self.identity, "config": self.config},
            {name: record for name in names if (record := self.read_record(name)) is not None},
            pa.Table.from_pandas(rows, self._stored(), preserve_index=False),
            [reduced(image) for image in self.sheet()[:sheet]],
        )

    def remove(self) -> None:
        """Delete the folder of a run that is in the bundles; the caller holds its lock."""
        if self.path.name not in self._bundles:
            raise ValueError(f"{self.path} is in no bundle, so its folder is all there is")
        with files.explained(self.path):
            (self.path / _RUN).unlink(missing_ok=True)  # from here on it is read in the bundle
            shutil.rmtree(self.path)

    def tidy(self) -> None:
        """Remove what a killed `remove` left of a bundled run's folder."""
        if self.path.is_dir():
            with self._locks.records():
                if self.bundled:
                    self._clear()

    def _clear(self) -> None:
        """Remove what is left of a folder that was being removed or unpacked; locks stay."""
        for path in self.path.iterdir():
            if path.name.startswith((".lock-", ".sweep-")):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _stored(self) -> pa.Schema | None:
        """The columns of its rows; None if it has none."""
        bundled = self.bundled
        return self._bundles.rows(self.path.name).schema if bundled else self._parts.schema()

    def _write(self, name: str, data: dict[str, Any]) -> None:
        marked = {**data, _CHECKSUM: fingerprint(data)}
        files.write_text(self._record(name), _readable(marked))

    def _record(self, name: str) -> Path:
        _check_name("record", name)
        path = self.path / f"{name}.json"
        if path.name == _RUN:
            raise ValueError(f"{_RUN} tells what ran; give the record another name")
        return path

    def _read(self, columns: list[str] | None) -> pd.DataFrame:
        if self.bundled:
            table = self._bundles.rows(self.path.name, columns)
            return table.to_pandas().sort_values("image_id", ignore_index=True)
        return self._parts.read(columns)


def _readable(data: dict[str, Any]) -> str:
    return canonical(data, indent=2) + "\n"


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"a {what} takes letters, digits and _ . + = -, and no dot in front; got {name!r}"
        )

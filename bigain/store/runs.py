"""One folder per run, one row per image; a finished image is never lost nor computed twice."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bigain.errors import BiGainError, some
from bigain.store.bundles import Bundled, Bundles
from bigain.store.identity import canonical
from bigain.store.identity import fingerprint as fingerprint
from bigain.store.locks import LockedError as LockedError  # raised here, so caught from here
from bigain.store.locks import Locks
from bigain.store.shards import WHOLE, Shard
from bigain.utils import files
from bigain.utils.images import enlarged, read_sheet, reduced, write_sheet

_RUN = "run.json"
_SHEET = "sheet.png"
_FINGERPRINT = b"bigain.fingerprint"
_COMPACTING = "compacting"  # the record of a compaction under way
_SCALARS = (pa.string(), pa.bool_(), pa.int64(), pa.float64())
_TYPES = (*_SCALARS, *map(pa.list_, _SCALARS))


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
        fingerprint: of the identity.
        identity: all that can change a result.
        config: the whole configuration of the command that made the folder, for people to read.
    """

    def __init__(self, path: Path, identity: dict[str, Any], config: dict[str, Any]) -> None:
        self.path = path
        self.fingerprint = fingerprint(identity)
        self.identity = identity
        self.config = config
        self._schema: pa.Schema | None = None
        self._locks = Locks(path)
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
                    f"move it away (`mv {path} {path}.old`) and run the same command"
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
                f"no run at {path}: a run's folder holds {_RUN}; see `ls {Path(path).parent}` for "
                "those there are, or start one with `python run.py`"
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
                f"remove it (`rm {about}`) and run the run's command, which writes it anew"
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
        table = self._table(rows)
        with files.atomic(self.path / f"part-{uuid4().hex}.parquet") as file:
            pq.write_table(table, file, write_page_checksum=True)

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

        The caller holds the run's lock. Killed at any moment and called again, it ends as if it had
        not been killed.

        Raises:
            BiGainError: if a part is damaged, or the disk refuses.
        """
        self.unpack()
        with files.explained(self.path):
            journal = self.read_record(_COMPACTING)
            if journal and (self.path / journal["whole"]).exists():
                self._drop(journal["parts"])
            self.forget(_COMPACTING)
            parts = self._parts()
            if len(parts) < 2:
                return
            rows = self.rows().to_dict("records")
            table = self._table([{str(k): _plain(v) for k, v in row.items()} for row in rows])
            whole = self.path / f"part-{uuid4().hex}.parquet"
            self.record(_COMPACTING, {"whole": whole.name, "parts": [p.name for p in parts]})
            self._write(table, whole)
            self._drop([p.name for p in parts])
            self.forget(_COMPACTING)

    def _write(self, table: pa.Table, path: Path | None = None) -> None:
        """Write one part for all rows."""
        # 32 bits of noise in 64-bit numbers: split by byte, they compress well
        with files.atomic(path or self.path / f"part-{uuid4().hex}.parquet") as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                use_dictionary=False,
                use_byte_stream_split=_floats(table.schema),
                write_page_checksum=True,
            )

    def _drop(self, parts: Sequence[str]) -> None:
        for name in parts:
            (self.path / name).unlink(missing_ok=True)

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
                files.remove_stray(self.path)
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
        files.write_text(self._record(name), _readable(data))

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
            data: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise BiGainError(
                f"{path} is not JSON ({error}); delete it and run the run's command again"
            ) from error
        return data

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
                table = found.rows.replace_schema_metadata({_FINGERPRINT: self.fingerprint})
                self._write(table)
            for name, record in found.records.items():
                files.write_text(self._record(name), _readable(dict(record)))
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

    def _stored(self) -> pa.Schema:
        """The columns of its rows."""
        if self.bundled:
            return self._bundles.rows(self.path.name).schema
        return self._read_part(self._parts()[0], ["image_id"])[1]

    def _record(self, name: str) -> Path:
        _check_name("record", name)
        path = self.path / f"{name}.json"
        if path.name == _RUN:
            raise ValueError(f"{_RUN} tells what ran; give the record another name")
        return path

    def _table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        for row in rows:
            if row.keys() != rows[0].keys() or not isinstance(row.get("image_id"), str):
                raise ValueError(
                    "each row needs a str image_id and the columns of the others: got "
                    f"{sorted(row)} beside {sorted(rows[0])}"
                )
        if len({row["image_id"] for row in rows}) < len(rows):
            raise ValueError(f"image_id repeats in {some([row['image_id'] for row in rows])}")
        table = pa.Table.from_pylist(list(rows))
        for field, column in zip(table.schema, table.columns, strict=True):
            values = pc.list_flatten(column) if pa.types.is_list(field.type) else column
            if field.type not in _TYPES or column.null_count or values.null_count:
                raise ValueError(
                    f"column {field.name} is {field.type} with {values.null_count} nulls; the "
                    "store takes str, bool, int64, float64 and lists of these, without nulls"
                )
        parts = self._parts()
        if self._schema is None and parts:
            self._schema = self._read_part(parts[0], ["image_id"])[1]
        self._schema = self._schema or table.schema
        if table.schema != self._schema:
            raise ValueError(
                f"the rows' columns ({_columns(table.schema)}) are not those of the run's other "
                f"rows ({_columns(self._schema)})"
            )
        return table.replace_schema_metadata({_FINGERPRINT: self.fingerprint})

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def _read(self, columns: list[str] | None) -> pd.DataFrame:
        if self.bundled:
            table = self._bundles.rows(self.path.name, columns)
            return table.to_pandas().sort_values("image_id", ignore_index=True)
        tables: list[pa.Table] = []
        parts = self._parts()
        schema: pa.Schema | None = None
        for part in parts:
            table, found = self._read_part(part, columns)
            if schema is not None and found != schema:
                raise BiGainError(
                    f"{part} has the columns {_columns(found)}, {parts[0]} has {_columns(schema)}; "
                    "delete the wrong one and run the run's command again"
                )
            schema = found
            tables.append(table)
        if not tables:
            return pd.DataFrame({"image_id": pd.Series(dtype="str")})
        frame = pa.concat_tables(tables).to_pandas()
        twice = frame.loc[frame["image_id"].duplicated(), "image_id"]
        if len(twice):
            repeated = set(twice)
            holders = [
                part.name
                for part, table in zip(parts, tables, strict=True)
                if repeated & set(table["image_id"].to_pylist())
            ]
            raise BiGainError(
                f"{self.path} holds {len(repeated)} images more than once: "
                f"{some(sorted(repeated))}; they are in {some(holders)}: delete the surplus "
                "parts and run the run's command, which computes what is then missing"
            )
        return frame.sort_values("image_id", ignore_index=True)

    def _read_part(self, part: Path, columns: list[str] | None) -> tuple[pa.Table, pa.Schema]:
        """The columns asked for, and the whole part's schema without metadata."""
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                schema = file.schema_arrow
                table = file.read(columns).replace_schema_metadata()
        except (OSError, pa.ArrowException) as error:
            raise BiGainError(
                f"{part} cannot be read ({error}); delete it (`rm {part}`) and run the run's "
                "command, which computes its images again"
            ) from error
        owner = (schema.metadata or {}).get(_FINGERPRINT, b"none").decode()
        if owner != self.fingerprint:
            raise BiGainError(
                f"{part} belongs to another run: its fingerprint is {owner}, this run's is "
                f"{self.fingerprint}; move it out of {self.path}"
            )
        return table, schema.remove_metadata()


def runs(root: Path | str) -> Iterator[Run]:
    """The runs under ``root`` in the order of their names; none if it does not exist.

    Raises:
        BiGainError: if one is damaged.
    """
    root = Path(root)
    names = {about.parent.name for about in root.glob(f"*/{_RUN}")}
    for name in sorted(names.union(Bundles.beside(root).names())):
        yield Run.open(root / name)


def _readable(data: dict[str, Any]) -> str:
    return canonical(data, indent=2) + "\n"


def _check_name(what: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*", name):
        raise ValueError(
            f"a {what} takes letters, digits and _ . + = -, and no dot in front; got {name!r}"
        )


def _plain(value: Any) -> Any:
    """What a row was given as, from what pandas made of it."""
    return value.tolist() if hasattr(value, "tolist") else value


def _floats(schema: pa.Schema) -> list[str]:
    """The parquet columns of float64 fields and of lists of them."""
    names = {f.name for f in schema if f.type == pa.float64()}
    lists = {f.name for f in schema if f.type == pa.list_(pa.float64())}
    return [*names, *(f"{name}.list.element" for name in lists)]


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)

"""Many runs in a few files, as small as they can be without losing a digit.

``index.json.xz`` holds what is known of each run but its rows: ``run.json`` and the records.
``<task>-<model>.parquet`` holds the rows of such runs, and ``sheets.parquet`` their contact sheets.
The index is written last, or first where runs are dropped: whatever ends a writer, a run that the
index names is in all of them.
"""

import io
import json
import lzma
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from bigain.errors import BiGainError, shell
from bigain.store.identity import canonical
from bigain.utils import files

_INDEX, _SHEETS, _RUN = "index.json.xz", "sheets.parquet", "run"
_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())


@dataclass(frozen=True)
class Bundled:
    """A run as bundles keep it.

    Attributes:
        name: its folder's name.
        about: what its ``run.json`` holds.
        records: its other ``*.json`` by name.
        rows: its finished images, of the types that `Run` stores.
        sheet: the first images of its contact sheet, uint8 [H, W, C] each and not enlarged; empty
            if it has none.
    """

    name: str
    about: Mapping[str, Any]
    records: Mapping[str, Mapping[str, Any]]
    rows: pa.Table
    sheet: Sequence[np.ndarray] = ()


class Bundles:
    """The bundles in ``folder``, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def beside(cls, root: Path) -> "Bundles":
        """The bundles of the runs whose folders lie in ``root``."""
        return cls(root.parent / "bundles")

    def names(self) -> list[str]:
        """The runs there are, by the names of their folders."""
        return sorted(self._index())

    def __contains__(self, name: str) -> bool:
        return name in self._index()

    def read(self, name: str) -> Bundled:
        """A run; its rows and sheet come from the disk.

        Raises:
            BiGainError: if a file is missing or damaged.
        """
        return Bundled(
            name, self.about(name), self.records(name), self.rows(name), self.sheet(name)
        )

    def about(self, name: str) -> Mapping[str, Any]:
        """What a run's ``run.json`` would hold."""
        found: Mapping[str, Any] = self._index()[name]["run"]
        return found

    def records(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        """A run's records by name."""
        found: Mapping[str, Mapping[str, Any]] = self._index()[name]["records"]
        return found

    def rows(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A run's rows, of the types that `Run` stores.

        Raises:
            BiGainError: if their file is missing or damaged.
        """
        entry = self._index()[name]
        if not entry["images"]:
            return pa.table({"image_id": pa.array([], pa.string())})
        table, places = _rows(*_stamp(self.folder / entry["file"]))
        start, count = places.get(name, (0, 0))
        if count != entry["images"]:
            raise BiGainError(
                f"{self.folder / entry['file']} holds {count} rows of {name}, and {_INDEX} says "
                f"{entry['images']}; get both from the same commit "
                f"({shell('git', 'checkout', self.folder)})"
            )
        kept = [c for c in entry["columns"] if columns is None or c in columns]
        table = table.slice(start, count).select(kept)
        return table.cast(pa.schema([(f.name, _wide(f.type)) for f in table.schema]))

    def sheet(self, name: str) -> list[np.ndarray]:
        """The images of a run's contact sheet, not enlarged; none if it has none."""
        count = self._index()[name]["sheet"]
        if not count:
            return []
        strip = _sheets(*_stamp(self.folder / _SHEETS))[name]
        with Image.open(io.BytesIO(strip)) as image:
            return list(np.split(np.asarray(image.convert("RGB")), count))

    def add(self, runs: Sequence[Bundled]) -> None:
        """Keep ``runs``, each in the place of an older one of its name.

        Raises:
            BiGainError: if a bundle is damaged, or the disk refuses.
        """
        index = dict(self._index())
        new = {run.name: run for run in runs}
        files.make_folder(self.folder)
        for file in sorted({_file(run.name) for run in runs}):
            self._write_rows(file, new)
        self._write_sheets(new)
        for name, run in new.items():
            index[name] = {
                "run": run.about,
                "records": run.records,
                "file": _file(name),
                "images": len(run.rows),
                "columns": run.rows.column_names,
                "sheet": len(run.sheet),
            }
        self._write_index(index)

    def drop(self, names: Collection[str]) -> None:
        """Forget these runs; names of which there are none do not matter.

        Raises:
            BiGainError: if a bundle is damaged, or the disk refuses.
        """
        before = self._index()
        gone = [before[name] for name in names if name in before]
        if not gone:
            return
        # first, so that the index never names rows that are missing
        self._write_index({n: entry for n, entry in before.items() if n not in names})
        for file in sorted({entry["file"] for entry in gone if entry["images"]}):
            self._write_rows(file, {})
        if any(entry["sheet"] for entry in gone):
            self._write_sheets({})

    def _write_rows(self, file: str, new: Mapping[str, Bundled]) -> None:
        """Write a file of rows anew, with those of ``new`` in the place of older ones."""
        index = self._index()
        old = [n for n, entry in index.items() if entry["file"] == file and n not in new]
        tables = {name: self.rows(name) for name in old if index[name]["images"]}
        tables |= {n: r.rows for n, r in new.items() if _file(n) == file and len(r.rows)}
        if tables:
            _write(self.folder / file, _joined(tables))
        else:
            (self.folder / file).unlink(missing_ok=True)

    def _write_sheets(self, new: Mapping[str, Bundled]) -> None:
        """Write the contact sheets anew, with those of ``new`` in the place of older ones."""
        index = self._index()
        sheets = {n: self.sheet(n) for n, entry in index.items() if entry["sheet"] and n not in new}
        sheets |= {n: list(r.sheet) for n, r in new.items() if r.sheet}
        if sheets:
            names = sorted(sheets)
            packed = {_RUN: names, "sheet": [_strip(sheets[name]) for name in names]}
            _write(self.folder / _SHEETS, pa.table(packed))
        else:
            (self.folder / _SHEETS).unlink(missing_ok=True)

    def _write_index(self, index: Mapping[str, Any]) -> None:
        with files.atomic(self.folder / _INDEX) as out:
            out.write(lzma.compress(canonical(index).encode(), preset=9))

    def _index(self) -> Mapping[str, Any]:
        path = self.folder / _INDEX
        return _read_index(*_stamp(path)) if path.is_file() else {}


def _file(name: str) -> str:
    """Where the rows of a run are kept: with those of its task and model, as its name begins."""
    prefix = name.rpartition("-")[0]
    return f"{'-'.join(prefix.split('-')[:2])}.parquet"


def _stamp(path: Path) -> tuple[Path, int, int]:
    """A file with what changes when it is written; what is read of it is kept by these."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise BiGainError(
            f"{path} is missing, which {_INDEX} beside it names; get both from the same commit "
            f"({shell('git', 'checkout', path.parent)})"
        ) from None
    return path, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=8)
def _read_index(path: Path, modified: int, size: int) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(lzma.decompress(path.read_bytes()))
    except (lzma.LZMAError, ValueError) as error:
        raise BiGainError(f"{path} is damaged ({error}); {_again(path)}") from error
    return found


@lru_cache(maxsize=16)
def _rows(path: Path, modified: int, size: int) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
    """All rows of a file, and where those of each run begin and how many they are."""
    table = _read_table(path)
    names = table[_RUN].to_pylist()
    places: dict[str, tuple[int, int]] = {}
    for i, name in enumerate(names):
        start, count = places.get(name, (i, 0))
        places[name] = (start, count + 1)
    return table.drop_columns([_RUN]), places


@lru_cache(maxsize=4)
def _sheets(path: Path, modified: int, size: int) -> dict[str, bytes]:
    table = _read_table(path)
    return dict(zip(table[_RUN].to_pylist(), table["sheet"].to_pylist(), strict=True))


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise BiGainError(f"{path} cannot be read ({error}); {_again(path)}") from error


def _again(path: Path) -> str:
    return f"get it from the repository again ({shell('git', 'checkout', path)})"


def _joined(tables: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of all runs, each run's together, in types as narrow as their values allow."""
    whole = pa.concat_tables(
        [
            table.append_column(_RUN, pa.array([name] * len(table), pa.string()))
            for name, table in sorted(tables.items())
        ],
        promote_options="default",
    )
    names = sorted(whole.column_names)
    return pa.table({name: _narrow(whole[name].combine_chunks()) for name in names})


def _narrow(column: pa.Array) -> pa.Array:
    """The same values in the narrowest type that holds them exactly."""
    if pa.types.is_list(column.type):
        values = _narrow(column.values)
        return pa.ListArray.from_arrays(
            column.offsets, values, mask=column.is_null() if column.null_count else None
        )
    if column.type == pa.float64():
        single = column.cast(pa.float32())
        same = pc.fill_null(pc.equal(single.cast(pa.float64()), column), True)
        lost = pc.and_(pc.invert(same), pc.invert(pc.fill_null(pc.is_nan(column), True)))
        return column if pc.any(lost).as_py() else single
    if column.type == pa.int64() and len(column) > column.null_count:
        limits = pc.min_max(column).as_py()
        for kind in _INTEGERS:
            bound = 2 ** (kind.bit_width - 1)
            if -bound <= limits["min"] and limits["max"] < bound:
                return column.cast(kind)
    return column


def _wide(kind: pa.DataType) -> pa.DataType:
    """The type of `Run` that holds values of a narrow one."""
    if pa.types.is_list(kind):
        return pa.list_(_wide(kind.value_type))
    if pa.types.is_floating(kind):
        return pa.float64()
    return pa.int64() if pa.types.is_integer(kind) else kind


def _write(path: Path, table: pa.Table) -> None:
    """Floats split by byte, as their last bits are noise; everything else by dictionary."""
    split: list[str] = []
    named: list[str] = []
    for field in table.schema:
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        place = f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        (split if pa.types.is_floating(inner) else named).append(place)
    with files.atomic(path) as file:
        pq.write_table(
            table,
            file,
            row_group_size=max(len(table), 1),
            data_page_size=1 << 26,  # whole columns, so that what runs share is found
            compression="zstd",
            compression_level=19,
            use_dictionary=named,
            use_byte_stream_split=split,
            write_page_checksum=True,
            write_statistics=False,
        )


def _strip(images: Sequence[np.ndarray]) -> bytes:
    """Images of one shape below each other, in a lossless file."""
    stack = np.concatenate([i if i.shape[2] == 3 else i.repeat(3, 2) for i in images])
    out = io.BytesIO()
    if len(stack) < 1 << 14:  # the highest that WebP takes
        Image.fromarray(stack).save(out, "WEBP", lossless=True, quality=100, method=6)
    else:
        Image.fromarray(stack).save(out, "PNG", optimize=True)
    return out.getvalue()

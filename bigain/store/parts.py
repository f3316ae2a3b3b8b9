"""The finished images of one run: parquet files that hold some of its rows each.

A part is on disk whole or not at all. Compaction writes one part that names those it replaces, and
only then removes them: whoever reads in between, or after a kill, skips the replaced ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bigain.errors import BiGainError, one_line, shell, some
from bigain.utils import files

_FINGERPRINT, _COLUMNS, _REPLACES = b"bigain.fingerprint", b"bigain.columns", b"bigain.replaces"
_SCALARS = (pa.string(), pa.bool_(), pa.int64(), pa.float64())
_TYPES = (*_SCALARS, *map(pa.list_, _SCALARS))


@dataclass(frozen=True)
class _Part:
    """What one file holds.

    Attributes:
        rows: the columns that were asked for.
        schema: the schema of the whole file, without metadata.
        replaces: the names of the parts that this one was compacted from.
    """

    rows: pa.Table
    schema: pa.Schema
    replaces: frozenset[str]


class Parts:
    """The parts in a run's folder.

    Args:
        folder: the run's.
        fingerprint: the run's, which every part carries.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self._schema: pa.Schema | None = None

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows, sorted by ``image_id``.

        Raises:
            BiGainError: if a part is unreadable or of another run, or an image is there twice.
        """
        return self._joined(self._read(columns))

    def schema(self) -> pa.Schema | None:
        """The columns of the rows; None as long as there are none."""
        if self._schema is None:
            for part in self._read(["image_id"]).values():
                self._schema = part.schema
        return self._schema

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add finished images as one part, as `Run.append` says."""
        table = self._table(rows)
        with files.atomic(self._new()) as file:
            pq.write_table(self._marked(table), file, write_page_checksum=True)

    def add(self, table: pa.Table, replaces: Sequence[str] = ()) -> None:
        """Write one part that is small on disk, for keeping.

        Args:
            replaces: the names of the parts that its rows come from.
        """
        # 32 bits of noise in 64-bit numbers: split by byte, they compress well
        with files.atomic(self._new()) as file:
            pq.write_table(
                self._marked(table, replaces),
                file,
                compression="zstd",
                use_dictionary=False,
                use_byte_stream_split=_floats(table.schema),
                write_page_checksum=True,
            )

    def compact(self) -> None:
        """Bring all parts into one. The caller ensures that no other process does so as well.

        Parts that others append meanwhile stay beside it.

        Raises:
            BiGainError: if a part is damaged, or the disk refuses.
        """
        self._drop_replaced()  # first, as the next part does not name those that are replaced now
        found = self._read(None)
        if len(found) > 1:
            self._joined(found)  # refuses images that are there twice
            self.add(pa.concat_tables([part.rows for part in found.values()]), [*found])
            self._drop_replaced()

    def _drop_replaced(self) -> None:
        with files.explained(self.folder):
            for name in _replaced(self._every(["image_id"])):
                (self.folder / name).unlink(missing_ok=True)

    def _new(self) -> Path:
        return self.folder / f"part-{uuid4().hex}.parquet"

    def _marked(self, table: pa.Table, replaces: Sequence[str] = ()) -> pa.Table:
        """The table with the marks that `_read_part` checks, as a footer has no checksum."""
        marks = {_FINGERPRINT: self.fingerprint, _COLUMNS: describe(table.schema)}
        if replaces:
            marks[_REPLACES] = json.dumps(sorted(replaces))
        return table.replace_schema_metadata(marks)

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
        self._schema = self.schema() or table.schema
        if table.schema != self._schema:
            raise ValueError(
                f"the rows' columns ({describe(table.schema)}) are not those of the run's other "
                f"rows ({describe(self._schema)})"
            )
        return table

    def _read(self, columns: Sequence[str] | None) -> dict[str, _Part]:
        """The parts that count, by their names, all of the same columns."""
        every = self._every(columns)
        replaced = _replaced(every)
        found = {name: part for name, part in every.items() if name not in replaced}
        first = next(iter(found.items()), None)
        for name, part in found.items():
            if first is not None and part.schema != first[1].schema:
                raise BiGainError(
                    f"{self.folder / name} has the columns {describe(part.schema)}, {first[0]} has "
                    f"{describe(first[1].schema)}; delete the wrong one and run the run's command "
                    "again"
                )
        return found

    def _joined(self, found: Mapping[str, _Part]) -> pd.DataFrame:
        if not found:
            return pd.DataFrame({"image_id": pd.Series(dtype="str")})
        frame = pa.concat_tables([part.rows for part in found.values()]).to_pandas()
        twice = set(frame.loc[frame["image_id"].duplicated(), "image_id"])
        if twice:
            holders = [
                name
                for name, part in found.items()
                if twice & set(part.rows["image_id"].to_pylist())
            ]
            raise BiGainError(
                f"{self.folder} holds {len(twice)} images more than once: {some(sorted(twice))}; "
                f"they are in {some(holders)}: delete the surplus parts and run the run's "
                "command, which computes what is then missing"
            )
        return frame.sort_values("image_id", ignore_index=True)

    def _every(self, columns: Sequence[str] | None) -> dict[str, _Part]:
        """All parts by their names, those that are replaced, too."""
        while True:
            paths = sorted(self.folder.glob("part-*.parquet"))
            every = {path.name: self._read_part(path, columns) for path in paths}
            found = {name: part for name, part in every.items() if part is not None}
            if len(found) == len(every):
                return found
            # another process has compacted them: list them again

    def _read_part(self, part: Path, columns: Sequence[str] | None) -> _Part | None:
        """None if the file has gone."""
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                schema = file.schema_arrow
                rows = file.read(columns).replace_schema_metadata()
            marks = {key: value.decode() for key, value in (schema.metadata or {}).items()}
            replaces = json.loads(marks.get(_REPLACES, "[]"))
            schema = schema.remove_metadata()
            if marks.get(_COLUMNS, describe(schema)) != describe(schema):
                raise ValueError("its columns are not those it was written with")
            if columns is not None and set(columns) - set(rows.column_names):
                raise ValueError(f"it lacks the columns {', '.join(columns)}")
        # damaged footers raise many kinds of errors
        except (OSError, ValueError, TypeError, LookupError, pa.ArrowException) as error:
            if not part.exists():
                return None
            raise BiGainError(
                f"{part} cannot be read ({one_line(error)}); delete it "
                f"({shell('rm', part)}) and run the run's command, which computes its images again"
            ) from error
        owner = marks.get(_FINGERPRINT, "none")
        if owner != self.fingerprint:
            raise BiGainError(
                f"{part} belongs to another run: its fingerprint is {owner}, this run's is "
                f"{self.fingerprint}; move it out of {self.folder}"
            )
        return _Part(rows, schema, frozenset(map(str, replaces)))


def _replaced(every: Mapping[str, _Part]) -> set[str]:
    """The names of those parts that another one replaces; nothing but listed parts."""
    named = set().union(*(part.replaces - {name} for name, part in every.items()))
    return named.intersection(every)


def describe(schema: pa.Schema) -> str:
    """The columns with their types, in words."""
    return ", ".join(f"{field.name}: {_kind(field.type)}" for field in schema)


def _kind(kind: pa.DataType) -> str:
    # parquet renames what lists hold, so their own names differ before and after
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def _floats(schema: pa.Schema) -> list[str]:
    """The parquet columns of float64 fields and of lists of them."""
    names = {f.name for f in schema if f.type == pa.float64()}
    lists = {f.name for f in schema if f.type == pa.list_(pa.float64())}
    return [*names, *(f"{name}.list.element" for name in lists)]

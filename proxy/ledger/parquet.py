"""Exports as Parquet. The only module that imports pyarrow, which is an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from proxy.ledger.export import COLUMNS, NULLABLE, Page, Write

_TYPES = {
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str: pa.string(),
    list: pa.list_(pa.string()),
}
_SCHEMA = pa.schema(
    [pa.field(name, _TYPES[kind], nullable=name in NULLABLE) for name, kind in COLUMNS.items()]
)


@contextmanager
def parquet_file(output: IO[bytes]) -> Iterator[Write]:
    """A row group for each page."""
    with pq.ParquetWriter(output, _SCHEMA) as writer:

        def write(page: Page) -> None:
            columns = zip(*page, strict=True)
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))

        yield write

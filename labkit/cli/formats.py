"""A result as bytes, in each format. The command line imports this to name the formats: pyarrow loads when used."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from labkit._streams import visible, visible_json
from labkit.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from labkit.result import ReadResult

__all__ = ["BINARY", "FORMATS", "METADATA", "SUFFIXES", "format_of", "render", "rendered_for_terminal"]

METADATA = b"labkit"
"""Key in the schema metadata of a Parquet or Arrow file: `ReadResult.to_dict()` without the rows, as JSON."""
BINARY = frozenset({"parquet", "arrow"})
SUFFIXES = {
    ".arrow": "arrow",
    ".csv": "csv",
    ".feather": "arrow",
    ".json": "json",
    ".jsonl": "ndjson",
    ".ndjson": "ndjson",
    ".parquet": "parquet",
    ".txt": "table",
}
WIDTH = 100
"""Columns of a table that is not printed on a terminal."""


def format_of(path: str) -> str:
    """The format that the file's suffix stands for; `UsageError`, with the known ones, if it stands for none."""
    suffix = PurePath(path).suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise UsageError(f"the suffix of {path!r} does not name a format: use one of {known}, or pass --format")
    return SUFFIXES[suffix]


def render(result: ReadResult, name: str) -> bytes:
    """The result in the named format; text is UTF-8."""
    return FORMATS[name](result)


def rendered_for_terminal(result: ReadResult, name: str) -> bytes:
    """The same for a text format, with control characters in names escaped, so that no terminal obeys them."""
    text = render(result, name).decode()
    return (visible(text, keep="\n") if name in ("csv", "table") else visible_json(text)).encode()


def _table(result: ReadResult) -> bytes:
    """As on a terminal, without colours."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(result)
    return text.getvalue().encode()


def _csv(result: ReadResult) -> bytes:
    """Quotes every text: NULL is an empty field, an empty text is "". Times, intervals, binary values and lists are
    text as in JSON.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    kinds = pa.types
    tests = (kinds.is_temporal, kinds.is_interval, kinds.is_binary, kinds.is_large_binary, kinds.is_nested)
    table = _with_texts(result.table, lambda kind: any(test(kind) for test in tests))
    sink = pa.BufferOutputStream()
    pc.write_csv(table, sink, pc.WriteOptions(quoting_style="needed"))
    return bytes(sink.getvalue())


def _json(result: ReadResult) -> bytes:
    return json.dumps(result.to_dict(), ensure_ascii=False).encode() + b"\n"


def _ndjson(result: ReadResult) -> bytes:
    from labkit.tables import PIECE, to_json

    batches = result.table.to_batches(max_chunksize=PIECE)
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for some in batches for row in to_json(some))


def _parquet(result: ReadResult) -> bytes:
    """With the types of the table. Parquet has no intervals: they, and lists of them, are text as in JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def has_intervals(kind: pa.DataType) -> bool:
        return bool(pa.types.is_interval(kind.value_type if pa.types.is_list(kind) else kind))

    sink = pa.BufferOutputStream()
    pq.write_table(_with_texts(_described(result), has_intervals), sink)
    return bytes(sink.getvalue())


def _arrow(result: ReadResult) -> bytes:
    """An Arrow IPC file (Feather), with the types of the table."""
    import pyarrow as pa

    sink, table = pa.BufferOutputStream(), _described(result)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _described(result: ReadResult) -> pa.Table:
    """The table with `METADATA`."""
    about = replace(result, table=result.table.slice(0, 0)).to_dict()
    del about["rows"]
    return result.table.replace_schema_metadata({METADATA: json.dumps(about)})


def _with_texts(table: pa.Table, wanted: Callable[[pa.DataType], bool]) -> pa.Table:
    """The table with columns of some types as text: their values in JSON, lists as JSON arrays."""
    import pyarrow as pa

    from labkit.tables import to_json

    for place, field in enumerate(table.schema):
        if wanted(field.type):
            values = (value for row in to_json(table.select([place])) for value in row.values())
            texts = [json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in values]
            table = table.set_column(place, field.name, pa.array(texts, pa.large_string()))
    return table


FORMATS: Mapping[str, Callable[[ReadResult], bytes]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "ndjson": _ndjson,
    "parquet": _parquet,
    "arrow": _arrow,
}

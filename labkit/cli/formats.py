"""A result as bytes, in each format. The command line imports this to name the formats: pyarrow loads when used."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from labkit._streams import visible, visible_json
from labkit.errors import UsageError

if TYPE_CHECKING:
    from labkit.result import ReadResult

__all__ = ["BINARY", "FORMATS", "METADATA", "SUFFIXES", "format_of", "render", "rendered_for_terminal"]

METADATA = b"labkit"
"""Key in a Parquet file's schema metadata: `ReadResult.to_dict()` without the rows, as JSON."""
BINARY = frozenset({"parquet"})
SUFFIXES = {
    ".csv": "csv",
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
    """Quotes every name: NULL is an empty field, an empty string is ""."""
    import pyarrow as pa
    import pyarrow.csv as pc

    sink = pa.BufferOutputStream()
    pc.write_csv(result.table, sink, pc.WriteOptions(quoting_style="needed"))
    return bytes(sink.getvalue())


def _json(result: ReadResult) -> bytes:
    return json.dumps(result.to_dict(), ensure_ascii=False).encode() + b"\n"


def _ndjson(result: ReadResult) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in result.table.to_pylist())


def _parquet(result: ReadResult) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {key: value for key, value in result.to_dict().items() if key != "rows"}
    sink = pa.BufferOutputStream()
    pq.write_table(result.table.replace_schema_metadata({METADATA: json.dumps(about)}), sink)
    return bytes(sink.getvalue())


FORMATS: Mapping[str, Callable[[ReadResult], bytes]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "ndjson": _ndjson,
    "parquet": _parquet,
}

"""A result in bytes, in each of the formats."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import PurePath

import pyarrow as pa

from labkit._streams import visible, visible_json
from labkit.errors import UsageError
from labkit.result import ReadResult

__all__ = ["BINARY", "FORMATS", "METADATA", "SUFFIXES", "format_of", "render", "rendered_for_terminal"]

METADATA = b"labkit"
"""The key of a Parquet file's schema metadata that has `ReadResult.to_dict()` without the rows, as JSON."""
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
"""Columns of a table that is not for a terminal."""


def format_of(path: str) -> str:
    """The format that the suffix of a file means; `UsageError` names those there are."""
    suffix = PurePath(path).suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise UsageError(f"{path!r} does not say in which format: end it in one of {known}, or pass --format")
    return SUFFIXES[suffix]


def render(result: ReadResult, name: str) -> bytes:
    """The result in the format of that name; text is UTF-8."""
    return FORMATS[name](result)


def rendered_for_terminal(result: ReadResult, name: str) -> bytes:
    """The same, of a format that is text, where names have nothing in them that a terminal would obey."""
    text = render(result, name).decode()
    return (visible(text, keep="\n") if name in ("csv", "table") else visible_json(text)).encode()


def _table(result: ReadResult) -> bytes:
    """As in a terminal, without colours."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(result)
    return text.getvalue().encode()


def _csv(result: ReadResult) -> bytes:
    """Every name in quotes, so that NULL, which is nothing at all, is not an empty text."""
    import pyarrow.csv as pc

    sink = pa.BufferOutputStream()
    pc.write_csv(result.table, sink, pc.WriteOptions(quoting_style="needed"))
    return bytes(sink.getvalue())


def _json(result: ReadResult) -> bytes:
    return json.dumps(result.to_dict(), ensure_ascii=False).encode() + b"\n"


def _ndjson(result: ReadResult) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in result.table.to_pylist())


def _parquet(result: ReadResult) -> bytes:
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

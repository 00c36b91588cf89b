"""Random tables through every surface: files, the access point and its document, Dask, terminal and notebook."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from html.parser import HTMLParser

import httpx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rich.cells import cell_len
from rich.console import Console

import labkit.dask
from labkit import RangeRouter, ReadResult, ShardReader, ShardReport, Status
from labkit._types import INT64_MAX, INT64_MIN
from labkit.api import create_app
from labkit.cli.formats import render
from labkit.shards import MemoryShard
from labkit.tables import are_same, to_frame, to_json
from labkit.topology.types import schema_of, written_schema
from tests.support.columns import tables
from tests.support.scenes import quick
from tests.unit.dask.test_dask import topology

ALL = ((INT64_MIN, INT64_MAX),)
ROUTER = RangeRouter({1: list(ALL)})


def result_of(table: pa.Table) -> ReadResult:
    """A complete result with these rows."""
    return ReadResult(table, {1: ShardReport(1, Status.OK, table.num_rows, 0.0, 0.1, None, ALL)}, (), 0.1, 2.0)


def has_intervals(kind: pa.DataType) -> bool:
    """Whether Parquet cannot hold values of this type."""
    return bool(pa.types.is_interval(kind.value_type if pa.types.is_list(kind) else kind))


@quick
@given(tables())
def test_files_give_back_what_went_in(table: pa.Table) -> None:
    """Arrow everything, Parquet all but intervals, JSON and NDJSON every value, CSV the shape and the keys."""
    result, rows = result_of(table), to_json(table)
    arrow = pa.ipc.open_file(render(result, "arrow")).read_all()
    assert are_same(arrow.replace_schema_metadata(None), table)
    parquet = pyarrow.parquet.read_table(io.BytesIO(render(result, "parquet"))).replace_schema_metadata(None)
    held = [field.name for field in table.schema if not has_intervals(field.type)]
    assert are_same(parquet.select(held), table.select(held))
    assert json.loads(render(result, "json"))["rows"] == rows
    assert [json.loads(line) for line in render(result, "ndjson").split(b"\n")[:-1]] == rows
    head, *lines = csv.reader(io.StringIO(render(result, "csv").decode(), newline=""))
    assert head == table.schema.names
    assert [int(line[0]) for line in lines] == table.column(0).to_pylist()
    for line, row in zip(lines, rows, strict=True):
        for cell, (name, value) in zip(line, row.items(), strict=True):
            if value is None or isinstance(value, list):
                assert cell == ("" if value is None else json.dumps(value, ensure_ascii=False))
            elif pa.types.is_temporal(table.schema.field(name).type) or value == "":
                assert cell == value


@settings(quick, max_examples=40)
@given(tables())
def test_the_access_point_and_its_document_agree(table: pa.Table) -> None:
    """The answer has every value, and each row is valid under the document's schema of a row."""

    async def answers() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        async with ShardReader(ROUTER, {1: MemoryShard(table)}) as reader:
            transport = httpx.ASGITransport(create_app(reader))
            async with httpx.AsyncClient(transport=transport, base_url="http://labkit") as client:
                query = {"columns": table.schema.names[1:2]}
                return (
                    await client.get("/data"),
                    await client.get("/openapi.json"),
                    await client.get("/data", params=query),
                )

    answer, document, narrow = asyncio.run(answers())
    rows = to_json(table)
    assert answer.json()["rows"] == rows
    validator = Draft202012Validator(document.json()["components"]["schemas"]["Row"])
    for row in rows:
        validator.validate(row)
    if table.num_columns > 1 and "," not in table.schema.names[1] and '"' not in table.schema.names[1]:
        key, name = table.schema.names[:2]
        assert narrow.json()["rows"] == [{key: row[key], name: row[name]} for row in rows]


@settings(quick, max_examples=40)
@given(tables())
def test_dask_has_the_frame_of_a_reader(table: pa.Table) -> None:
    """With the same types, known before."""
    frame = labkit.dask.read(topology(ROUTER, {1: MemoryShard(table)}))
    expected = to_frame(table).set_index(table.schema.names[0])
    pd.testing.assert_frame_equal(frame.compute(scheduler="synchronous"), expected)
    pd.testing.assert_series_equal(frame.dtypes, expected.dtypes)


class Balanced(HTMLParser):
    """Counts the cells of a table."""

    cells = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.cells += tag in ("td", "th")


@quick
@given(tables(max_columns=30), st.integers(1, 200))
def test_people_see_any_table(table: pa.Table, width: int) -> None:
    """In a terminal no line is wider than it is, or has a control character; HTML has a cell for each that is shown."""
    result, out = result_of(table), io.StringIO()
    Console(file=out, width=width, color_system=None).print(result)
    assert all(cell_len(line) <= max(width, 2) for line in out.getvalue().split("\n"))
    assert out.getvalue().replace("\n", "").isprintable()
    html = result._repr_html_()
    found = Balanced()
    found.feed(html[html.index('<table class="rows"') :] if table.num_rows else "")
    assert found.cells == min(table.num_columns, 21) * (table.num_rows + 1 if table.num_rows else 0)


@quick
@given(tables())
def test_a_topology_file_can_declare_any_columns(table: pa.Table) -> None:
    """The text of each type leads to the type."""
    assert schema_of(written_schema(table.schema)).equals(table.schema)

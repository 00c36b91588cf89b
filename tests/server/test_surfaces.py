"""One table of many types on real servers, through every way to get at it: all give the same rows and the same gaps."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask
import httpx
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import pytest_asyncio

import labkit.dask
from labkit import CLASSIC, Lab, faults
from labkit.api import Server
from labkit.tables import are_same, to_json
from labkit.topology import Topology
from tests.support.events import watching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

Command = Callable[..., Awaitable[tuple[int, bytes, str]]]
NOON = dt.datetime(2026, 11, 28, 12, 0, 0, 250_000, dt.UTC)
NDJSON = {"Accept": "application/x-ndjson"}
IDS = range(1, 61)


def _some(kind: pa.DataType, value: Callable[[int], Any]) -> pa.Array:
    """A column in which every seventh value is NULL."""
    return pa.array([None if i % 7 == 0 else value(i) for i in IDS], kind)


ORDERS = pa.table(
    {
        "order id": pa.array(IDS, pa.int64()),
        "amount": _some(pa.decimal128(12, 2), lambda i: Decimal(i * 1234567 + 5) / 100),
        "big": _some(pa.int64(), lambda i: 2**62 + i),
        "ratio": _some(pa.float64(), lambda i: i / 7),
        "at": _some(pa.timestamp("us", "UTC"), lambda i: NOON + dt.timedelta(hours=i)),
        "day": _some(pa.date32(), lambda i: dt.date(1, 1, i % 28 + 1)),
        "the note": _some(pa.large_string(), lambda i: ["", "NULL", 'a "b", <c>', "two\nlines 🐎"][i % 4]),
        "raw": _some(pa.large_binary(), lambda i: bytes([0, i, 255])),
        "tags": _some(pa.list_(pa.large_string()), lambda i: ["a,b", None, ""][: i % 4]),
        "paid": _some(pa.bool_(), lambda i: i % 2 == 0),
    }
)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["postgres", "redis"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A lab that holds `ORDERS`."""
    async with Lab(request.param, rows=ORDERS, key="order id", table="orders", launcher="embedded") as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def orders(running: Lab) -> AsyncIterator[Lab]:
    """The same, healed after each test."""
    yield running
    await running.heal()


@pytest.fixture
def command(orders: Lab, tmp_path: Path) -> Command:
    """A command with the lab's topology file, in a process of its own: exit code, stdout, stderr."""
    file = tmp_path / "orders.toml"
    file.write_text(Topology.of(orders).to_toml())

    async def run(name: str, *options: str) -> tuple[int, bytes, str]:
        words = [sys.executable, "-m", "labkit", name, "--topology", str(file), *options]
        process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out, err.decode()

    return run


async def test_a_reader_and_the_topology_file_agree(orders: Lab) -> None:
    """The file that a lab writes leads to the same rows, with the same types."""
    async with Topology.of(orders).reader() as reader:
        assert are_same((await reader.read()).table, ORDERS)
    assert are_same((await orders.read()).table, ORDERS)


async def test_files_hold_what_is_there(orders: Lab, command: Command) -> None:
    """Arrow and Parquet with all types, NDJSON and JSON exactly, CSV with NULL unlike an empty text."""

    async def read(form: str) -> bytes:
        code, out, err = await command("read", "--strict", "--format", form)
        assert (code, err) == (0, "")
        return out

    assert are_same(pa.ipc.open_file(await read("arrow")).read_all().replace_schema_metadata(None), ORDERS)
    parquet = pyarrow.parquet.read_table(io.BytesIO(await read("parquet")))
    assert are_same(parquet.replace_schema_metadata(None), ORDERS)
    assert [json.loads(line) for line in (await read("ndjson")).splitlines()] == to_json(ORDERS)
    assert json.loads(await read("json"))["rows"] == to_json(ORDERS)
    plain = ["order id", "amount", "big", "ratio", "the note", "paid"]
    told = pyarrow.csv.ConvertOptions(
        include_columns=plain, column_types=ORDERS.select(plain).schema, null_values=[""],
        strings_can_be_null=True, quoted_strings_can_be_null=False,
    )  # fmt: skip
    lines = pyarrow.csv.ParseOptions(newlines_in_values=True)
    back = pyarrow.csv.read_csv(io.BytesIO(await read("csv")), parse_options=lines, convert_options=told)
    assert are_same(back, ORDERS.select(plain))


async def test_the_access_point_has_what_is_there(orders: Lab) -> None:
    """In one answer, as lines, on pages, one by one and in a watch."""
    rows = to_json(ORDERS)
    async with httpx.AsyncClient() as client, Server(orders.reader) as server:
        client.base_url = server.url
        assert (await client.get("/data")).json()["rows"] == rows
        lines = (await client.get("/data", headers=NDJSON)).text.splitlines()
        assert [json.loads(line) for line in lines[:-1]] == rows
        assert (await client.get("/data?limit=20&after=20")).json()["rows"] == rows[20:40]
        assert (await client.get("/data/21")).json() == rows[20]
        async with watching(client) as events:
            assert (await events.until(lambda body: "rows" in body))["rows"] == rows


async def test_dask_has_what_is_there(orders: Lab) -> None:
    """With the types of a reader's frame; the columns are asked of the servers, or declared."""
    expected = (await orders.read()).frame.set_index("order id")
    for schema in (None, ORDERS.schema):
        frame = labkit.dask.read(orders, schema=schema)
        pd.testing.assert_frame_equal(frame.compute(scheduler="synchronous"), expected)


FILTERS = {
    "amount>=250000.5": lambda row: row["amount"] is not None and row["amount"] >= Decimal("250000.5"),
    "'the note' in '',NULL": lambda row: row["the note"] in ("", "NULL"),
    "at < 2026-11-29T12:00:00Z": lambda row: row["at"] is not None and row["at"] < NOON.replace(day=29, microsecond=0),
    "raw is null": lambda row: row["raw"] is None,
    "paid != true": lambda row: row["paid"] is False,
}


@pytest.mark.parametrize("text", FILTERS)
async def test_a_filter_is_the_same_everywhere(orders: Lab, command: Command, text: str) -> None:
    """On the command line and over HTTP, for rows and for counts."""
    wanted = [row["order id"] for row in ORDERS.to_pylist() if FILTERS[text](row)]
    assert 0 < len(wanted) < len(IDS)
    assert await command("count", "--filter", text) == (0, b"%d\n" % len(wanted), "")
    async with httpx.AsyncClient() as client, Server(orders.reader) as server:
        query = {"filter": text, "columns": "order id"}
        body = (await client.get(f"{server.url}/data", params=query)).json()
        assert body["rows"] == [{"order id": i} for i in wanted]
        assert (await client.get(f"{server.url}/data/count", params={"filter": text})).json()["value"] == len(wanted)


async def test_a_hole_is_the_same_everywhere(orders: Lab, command: Command) -> None:
    """A dead shard leaves the same gaps in rows and bounds in counts."""
    gap = [list(pair) for pair in CLASSIC.prune()[2]]
    async with orders.fault(2, faults.Kill()):
        code, out, err = await command("read", "--format", "json")
        assert (code, json.loads(out)["missing"]) == (0, gap)
        assert "missing 11–20, 41–50 (20 IDs)" in err
        code, out, err = await command("count")
        assert (code, out) == (0, b"40 to 60\n")
        assert "missing 11–20, 41–50 (20 IDs); shard 2" in err
        async with httpx.AsyncClient() as client, Server(orders.reader) as server:
            body = (await client.get(f"{server.url}/data/count", params={"filter": "paid=true"})).json()
        paid = sum(row["paid"] is True for row in ORDERS.to_pylist() if CLASSIC.locate(row["order id"]) != 2)
        assert (body["value"], body["at_least"], body["at_most"], body["missing"]) == (paid, paid, paid + 20, gap)
        rows, gaps = labkit.dask.read(orders, schema=ORDERS.schema, missing="report")
        found, lost = dask.compute(rows, gaps, scheduler="synchronous")
        assert (len(found), [list(pair) for pair in lost["high"].items()]) == (40, gap)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--columns", "amont"], "unknown column 'amont'; did you mean amount?"),
        (["--filter", "amont>1"], "unknown column 'amont'; did you mean amount?"),
        (["--filter", "amount>much"], "the filter on amount (decimal128(12, 2)): 'much' is not one"),
    ],
)
async def test_a_mistake_is_one_line(command: Command, options: list[str], words: str) -> None:
    """It names the column and the fix, whatever the server would have said."""
    code, out, err = await command("read", *options)
    assert (code, out, err.count("\n")) == (2, b"", 1)
    assert words in err

"""The access point of a table with any columns: values, columns, filters, counts and the document."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from labkit import RangeRouter, ShardReader
from labkit.api import Server, create_app
from labkit.shards import MemoryShard
from labkit.tables import to_json
from tests.support.events import watching
from tests.support.mocks import TIMEOUT

pytestmark = pytest.mark.usefixtures("no_task_left")

NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
ROUTER = RangeRouter({1: [(1, 10)], 2: [(11, 20)]})
BROKEN = ConnectionRefusedError("nobody there")
NDJSON = {"Accept": "application/x-ndjson"}


def orders(low: int, high: int) -> pa.Table:
    """Orders of many types; of those that 3 divides all values are NULL."""
    ids = range(low, high + 1)

    def some(kind: pa.DataType, value: Any) -> pa.Array:
        return pa.array([None if i % 3 == 0 else value(i) for i in ids], kind)

    return pa.table(
        {
            "order id": pa.array(ids, pa.int64()),
            "amount": some(pa.decimal128(12, 2), lambda i: Decimal(i * 100 + 5) / 100),
            "big": some(pa.int64(), lambda i: 2**62 + i),
            "ratio": some(pa.float64(), lambda i: float("nan") if i == 1 else i / 7),
            "at": some(pa.timestamp("us", "UTC"), lambda i: NOON + dt.timedelta(hours=i)),
            "day": some(pa.date32(), lambda i: dt.date(2026, 11, i)),
            "clock": some(pa.time64("us"), lambda i: dt.time(12, i)),
            "note": some(pa.large_string(), lambda i: "" if i % 2 else '<b>"é"</b>'),
            "raw": some(pa.large_binary(), lambda i: bytes([0, i])),
            "tags": some(pa.list_(pa.large_string()), lambda i: ["a", None]),
            "span": some(pa.month_day_nano_interval(), lambda i: (i, 0, 5 * 10**8)),
            "paid": some(pa.bool_(), lambda i: i % 2 == 0),
        }
    )


ALL = to_json(orders(1, 20))


@pytest.fixture
def shards() -> dict[int, MemoryShard]:
    return {1: MemoryShard(orders(1, 10)), 2: MemoryShard(orders(11, 20))}


@pytest.fixture
def reader(shards: dict[int, MemoryShard]) -> ShardReader:
    return ShardReader(ROUTER, shards, TIMEOUT)


@pytest.fixture
async def client(reader: ShardReader) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a server."""
    transport = httpx.ASGITransport(create_app(reader), raise_app_exceptions=False)
    async with reader, httpx.AsyncClient(transport=transport, base_url="http://labkit") as client:
        yield client


def lines(answer: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_rows_have_all_columns_and_their_exact_values(client: httpx.AsyncClient) -> None:
    """The same in JSON, in NDJSON, on pages and one by one; the body says names and types, the key first."""
    body = (await client.get("/data")).json()
    assert body["rows"] == ALL
    assert body["rows"][0]["big"] == 2**62 + 1
    assert body["rows"][0]["ratio"] == "NaN"
    assert body["columns"][:2] == [
        {"name": "order id", "type": "int64"}, {"name": "amount", "type": "decimal128(12, 2)"},
    ]  # fmt: skip
    assert [column["name"] for column in body["columns"]] == list(ALL[0])
    *rows, end = lines(await client.get("/data", headers=NDJSON))
    assert rows == ALL
    assert end["complete"]
    pages, url = [], "/data?limit=7"
    while url:
        answer = await client.get(url)
        pages += answer.json()["rows"]
        url = answer.links.get("next", {}).get("url", "")
    assert pages == ALL
    assert (await client.get("/data/2")).json() == ALL[1]


@pytest.mark.parametrize(
    "query", ["columns=note&columns=amount", "columns=note,amount", 'columns="note", amount&filter=amount<99']
)
async def test_columns_narrow_every_answer(client: httpx.AsyncClient, query: str) -> None:
    """Repeated or with commas, in the order given, behind the key; the link to the next page keeps them."""
    wanted = [{name: row[name] for name in ("order id", "note", "amount")} for row in ALL]
    if "filter" in query:
        wanted = [row for row in wanted if row["amount"] is not None]
    answer = await client.get(f"/data?limit=5&{query}")
    assert answer.json()["rows"] == wanted[:5]
    assert list(answer.json()["rows"][0]) == ["order id", "note", "amount"]
    assert (await client.get(answer.links["next"]["url"])).json()["rows"] == wanted[5:10]
    assert lines(await client.get(f"/data?{query}", headers=NDJSON))[:-1] == wanted


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (["amount>=10.05", "amount<12"], [10, 11]),
        (["note is null", '"order id" in 3,4,6'], [3, 6]),
        (["at>2026-11-29T07:00:00Z"], [20]),
        (["paid=true", "note!=''", '"order id"<5'], [2, 4]),
    ],
)
async def test_filters_in_their_text_form(client: httpx.AsyncClient, filters: list[str], wanted: list[int]) -> None:
    """All of them hold; the same for rows, streams and counts."""
    body = (await client.get("/data", params={"filter": filters})).json()
    assert [row["order id"] for row in body["rows"]] == wanted
    rows = lines(await client.get("/data", params={"filter": filters}, headers=NDJSON))[:-1]
    assert [row["order id"] for row in rows] == wanted
    assert (await client.get("/data/count", params={"filter": filters})).json()["value"] == len(wanted)


@pytest.mark.parametrize("path", ["/data", "/data/watch", "/data/count"])
@pytest.mark.parametrize("headers", [{}, NDJSON])
@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("columns", "amont", "unknown column 'amont'; did you mean amount?"),
        ("columns", "note,note", "columns must be a list of different names, not ['note', 'note']"),
        ("filter", "amont>1", "unknown column 'amont'; did you mean amount?"),
        ("filter", "amount>much", "the filter on amount (decimal128(12, 2)): 'much' is not one"),
        ("filter", "amount", "'amount' is not a filter such as amount>100"),
        ("filter", "tags>1", "tags"),
    ],
)
async def test_what_does_not_fit_is_a_problem(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], parameter: str, value: str, words: str
) -> None:
    """422 before any row is sent; it names the parameter, its value and the fix."""
    if path == "/data/count" and parameter == "columns":
        words = "unknown parameter; expected one of low, high, filter, require"
    answer = await client.get(path, params={parameter: value}, headers=headers)
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert words in body["detail"]
    [error] = body["errors"]
    assert (error["in"], error["parameter"], error["value"]) == ("query", parameter, value)


async def test_a_filter_that_no_shard_can_judge_is_no_mistake(
    client: httpx.AsyncClient, shards: dict[int, MemoryShard]
) -> None:
    """A shard without the column is a gap, as for any read, if others have it."""
    shards[2].rows = orders(11, 20).drop_columns(["note"])
    body = (await client.get("/data?filter=note is not null")).json()
    assert body["missing"] == [[11, 20]]
    assert body["shards"]["2"]["status"] == "invalid"


async def test_counts(client: httpx.AsyncClient, shards: dict[int, MemoryShard]) -> None:
    """With bounds and the exact gaps; 503 instead of bounds if it has to be complete."""
    answer = await client.get("/data/count?low=5&high=14")
    body = answer.json()
    assert {report["status"] for report in body.pop("shards").values()} == {"ok"}
    assert body == {
        "aggregate": "count()", "value": 10, "at_least": 10, "at_most": 10, "complete": True, "missing": [],
    }  # fmt: skip
    assert answer.headers["cache-control"] == "no-cache"
    shards[2].error = BROKEN
    answer = await client.get("/data/count", params={"filter": "note is null"})
    body = answer.json()
    assert (body["value"], body["at_least"], body["at_most"], body["missing"]) == (3, 3, 13, [[11, 20]])
    assert answer.headers["labkit-missing"] == "11-20"
    assert answer.headers["cache-control"] == "no-store"
    refused = await client.get("/data/count?require=complete")
    assert (refused.status_code, refused.json()["missing"]) == (503, [[11, 20]])


async def test_a_watch_of_columns_and_filters(reader: ShardReader, shards: dict[int, MemoryShard]) -> None:
    """Results and deltas have these columns of these rows."""
    query = "?deltas=true&columns=amount&filter=amount is not null&high=4"
    async with reader, httpx.AsyncClient() as client, Server(reader) as server:
        client.base_url = server.url
        async with watching(client, query) as events:
            body = await events.until(lambda data: "rows" in data)
            assert body["rows"] == [{"order id": i, "amount": f"{i}.05"} for i in (1, 2, 4)]
            shards[1].rows = orders(2, 10)
            body = await events.until(lambda data: "removed" in data)
            assert (body["removed"], body["added"], body["changed"]) == ([1], [], [])


async def test_a_mistake_that_shows_late_ends_the_watch(reader: ShardReader, shards: dict[int, MemoryShard]) -> None:
    """While all shards are down nobody knows their columns. Once one is up the stream ends; a new one is refused."""

    async def unknown(deadline: float) -> pa.Schema:
        raise BROKEN

    for shard in shards.values():
        shard.error, shard.describe = BROKEN, unknown  # type: ignore[method-assign]
    async with reader, httpx.AsyncClient() as client, Server(reader) as server:
        client.base_url = server.url
        async with watching(client, "?columns=amont") as events:
            assert not (await events.until(lambda data: "rows" in data))["complete"]
            for shard in shards.values():
                shard.error = None
            while await events.next() is not None:
                pass
        refused = await client.get("/data/watch?columns=amont")
        assert (refused.status_code, refused.json()["errors"][0]["value"]) == (422, "amont")


async def test_the_document_describes_the_table(client: httpx.AsyncClient) -> None:
    """As soon as a shard has answered: every real row, and every example, is valid under the schema of a row."""
    before = (await client.get("/openapi.json")).json()
    assert before["components"]["schemas"]["Row"]["additionalProperties"] is True
    body = (await client.get("/data")).json()
    document = (await client.get("/openapi.json")).json()
    row = document["components"]["schemas"]["Row"]
    assert list(row["properties"]) == list(ALL[0])
    assert row["required"] == ["order id"]
    assert row["properties"]["amount"]["description"] == "decimal128(12, 2); null for NULL."
    validator = Draft202012Validator(row)
    examples = document["paths"]["/data"]["get"]["responses"]["200"]["content"]["application/json"]["examples"]
    for one in [*body["rows"], *examples["complete"]["value"]["rows"]]:
        validator.validate(one)
    for wrong in ({"order id": None}, {"amount": "1.00"}, {"order id": 1, "amount": 1.5}, {"order id": 1, "x": 1}):
        assert not validator.is_valid(wrong)


async def test_the_document_follows_the_table(client: httpx.AsyncClient, shards: dict[int, MemoryShard]) -> None:
    """After a migration it has the new columns."""
    await client.get("/data")
    await client.get("/openapi.json")
    for shard in shards.values():
        shard.rows = shard.rows.select(["order id", "note"])
    await client.get("/data")
    row = (await client.get("/openapi.json")).json()["components"]["schemas"]["Row"]
    assert list(row["properties"]) == ["order id", "note"]

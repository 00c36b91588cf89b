"""The access point on shards in memory: the answer to each request, and a server that stops without a trace."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter

import labkit.api.server
from labkit import __version__
from labkit._types import INT64_MAX, INT64_MIN
from labkit.api import Server, create_app, responses, watch
from labkit.api.accept import choose
from labkit.api.ndjson import MEDIA_TYPE as NDJSON
from labkit.api.ndjson import PAGE
from labkit.api.openapi import models
from labkit.api.openapi.operations import QUERIES
from labkit.api.queries import MAX_PAGE
from labkit.api.responses import MAX_GAPS_LENGTH
from labkit.api.server import serve
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.router import CLASSIC, RangeRouter
from labkit.shards.base import Ask
from labkit.shards.memory import MemoryShard
from tests.support.events import PATIENCE, watching
from tests.support.mocks import TIMEOUT, classic_reader, eventually, in_time, rows_of

pytestmark = pytest.mark.usefixtures("no_task_left")

DOWN = MemoryShard(error=ConnectionRefusedError("nobody there"))
GAPS = [[11, 20], [41, 50]]
PROBLEM = "application/problem+json"


class Frozen(MemoryShard):
    """Does not answer until `thawed`; `asked` is set when it is queried, `left` when its caller has left."""

    def __init__(self, shard: int = 2) -> None:
        super().__init__(rows_of(shard))
        self.asked, self.thawed, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def read(self, ask: Ask) -> Any:
        self.asked.set()
        try:
            await self.thawed.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return await super().read(ask)


class Notifying(MemoryShard):
    """Notifies of changes at once. `listeners` are the current listeners, `returned` the rows it returned last."""

    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.returned: Any = None
        self.listeners: set[Callable[[], None]] = set()

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        self.listeners.add(notify)
        notify()
        try:
            await asyncio.Event().wait()
        finally:
            self.listeners.discard(notify)

    async def read(self, ask: Ask) -> Any:
        self.returned = self.rows
        return await super().read(ask)

    def become(self, rows: Any, error: BaseException | None = None) -> None:
        """From now on holds these rows, or fails with this error."""
        self.rows, self.error = list(rows), error
        for notify in self.listeners:
            notify()


def client_of(reader: ShardReader) -> httpx.AsyncClient:
    """A client of the application without a server; an exception in the application gives a 500, as on a server."""
    transport = httpx.ASGITransport(create_app(reader), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://labkit")


@asynccontextmanager
async def served(reader: ShardReader) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on a random port; the server is stopped first, then the reader is closed."""
    async with reader, httpx.AsyncClient(timeout=PATIENCE) as client, Server(reader) as server:
        client.base_url = server.url
        yield client


async def get(reader: ShardReader, path: str, **headers: str) -> httpx.Response:
    """The answer to one request."""
    async with client_of(reader) as client:
        return await client.get(path, headers=headers)


def lines(answer: httpx.Response) -> list[Any]:
    """The lines of an NDJSON body."""
    return [json.loads(line) for line in answer.text.splitlines()]


def ids(body: Any) -> list[int]:
    return [row["id"] for row in body["rows"]]


def has_problem(answer: httpx.Response, status: int, name: str | None = None) -> dict[str, Any]:
    """The body of an answer that must be an uncached problem document of this status and kind."""
    body = answer.json()
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["cache-control"] == "no-store"
    assert answer.status_code == body["status"] == status
    assert body["type"] == ("about:blank" if name is None else f"urn:labkit:problem:{name}")
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == answer.url.raw_path.decode().partition("?")[0]
    return body


def without_times(body: Any) -> Any:
    """A body without its times, which differ between reads."""
    if isinstance(body, dict):
        return {key: without_times(value) for key, value in body.items() if key not in ("elapsed", "started")}
    return body


# GET /data


@pytest.mark.parametrize("down", [(), (2,), (1, 2, 3)])
async def test_the_body_is_the_result(down):
    """The body of /data is `to_dict()` of the same read, whichever shards fail, and matches the document's model."""
    reader = classic_reader(**{f"s{shard}": DOWN for shard in down})
    body = (await get(reader, "/data")).json()
    assert without_times(body) == without_times((await reader.read()).to_dict())
    models.ReadResult.model_validate(body)


async def test_a_complete_answer_may_be_kept_but_is_asked_for_again():
    """A complete answer has all rows in order, `no-cache`, and no gap headers."""
    answer = await get(classic_reader(), "/data")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert ids(answer.json()) == list(range(1, 61))
    assert answer.headers["cache-control"] == "no-cache"
    assert not {"labkit-missing", "link"} & set(answer.headers)


@pytest.mark.parametrize("broken", [DOWN, MemoryShard(delay=30)])
async def test_a_shard_that_fails_or_hangs_makes_a_gap(broken):
    """40 rows in time, exact gaps in body and header, no `Warning` (obsolete: RFC 9111, 5.5), and `no-store`."""
    answer = await in_time(get(classic_reader(s2=broken), "/data"), within=TIMEOUT + 0.1)
    assert answer.status_code == 200
    assert ids(answer.json()) == [i for i in range(1, 61) if CLASSIC.locate(i) != 2]
    assert answer.json()["complete"] is False
    assert answer.json()["missing"] == GAPS
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["labkit-missing"] == "11-20, 41-50"
    assert "warning" not in answer.headers


async def test_all_shards_down_is_an_empty_answer():
    """With all shards down the answer is 200, without rows, incomplete."""
    answer = await get(classic_reader(s1=DOWN, s2=DOWN, s3=DOWN), "/data")
    assert (answer.status_code, answer.json()["rows"], answer.json()["complete"]) == (200, [], False)
    assert answer.json()["missing"] == [[1, 60]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("low=9&high=12", range(9, 13)),
        ("low=59", range(59, 61)),
        ("high=2", range(1, 3)),
        ("low=-5&high=0", range(0)),
        ("after=58", range(59, 61)),
        ("after=3&low=2&high=6", range(4, 7)),
        ("after=2&low=5&high=6", range(5, 7)),
        ("after=6&high=6", range(0)),
        (f"after={INT64_MAX}", range(0)),
        (f"after={INT64_MAX}&limit=5", range(0)),
        (f"after={INT64_MIN}&limit=2", range(1, 3)),
        (f"low={INT64_MIN}&high={INT64_MAX}", range(1, 61)),
    ],
)
async def test_a_window_is_what_is_asked_for(query, expected):
    """`low` and `high` are inclusive, `after` is not; past the last row the answer is empty and complete."""
    body = (await get(classic_reader(), f"/data?{query}")).json()
    assert ids(body) == list(expected)
    assert body["complete"] is True


async def test_links_lead_through_all_pages():
    """Each page's Link keeps the other parameters and leads to the next; together the pages are exactly the window."""
    async with client_of(classic_reader()) as client:
        path: str | None = "/data?require=complete&limit=7&high=40"
        seen: list[int] = []
        pages = 0
        while path is not None:
            answer = await client.get(path)
            body = answer.json()
            seen += ids(body)
            pages += 1
            link = answer.links.get("next", {}).get("url")
            assert link == (f"/data?require=complete&limit=7&high=40&after={body['next']}" if body["next"] else None)
            path = link
        assert (seen, pages) == (list(range(1, 41)), 6)


async def test_a_page_that_meets_a_failed_shard_is_shorter_and_says_where_to_go_on():
    """Pages continue after the gap: nothing is skipped except what is reported missing."""
    async with client_of(classic_reader(s2=DOWN)) as client:
        first = await client.get("/data?limit=15")
        assert (ids(first.json()), first.json()["missing"]) == (list(range(1, 11)), [[11, 20]])
        assert first.headers["labkit-missing"] == "11-20"
        second = await client.get(first.links["next"]["url"])
        assert ids(second.json()) == list(range(21, 36))


WRONG = {
    "low=x": [("low", "x")],
    "low=": [("low", "")],
    "low": [("low", "")],
    "high=1.0": [("high", "1.0")],
    "high=%2B1": [("high", "+1")],
    "after=1_0": [("after", "1_0")],
    "low=٣": [("low", "٣")],
    f"after={INT64_MAX + 1}": [("after", str(INT64_MAX + 1))],
    f"low={INT64_MIN - 1}": [("low", str(INT64_MIN - 1))],
    f"low={'9' * 5000}": [("low", "9" * 97 + "...")],
    "limit=0": [("limit", "0")],
    f"limit={MAX_PAGE + 1}": [("limit", str(MAX_PAGE + 1))],
    "require=all": [("require", "all")],
    "lmit=5": [("lmit", "5")],
    "low=1&low=2": [("low", "1, 2")],
    "low=x&limit=-1&require=": [("low", "x"), ("limit", "-1"), ("require", "")],
    "low=3&high=2": [("low", "3"), ("high", "2")],
}


@pytest.mark.parametrize("query", WRONG, ids=lambda query: query[:30])
async def test_each_wrong_parameter_is_named_with_its_value(query):
    """Invalid, unknown and repeated parameters give a 422 with one entry each; no shard is queried."""
    shard = MemoryShard()
    body = has_problem(await get(classic_reader(s1=shard), f"/data?{query}"), 422, "invalid-parameters")
    models.InvalidParameters.model_validate(body)
    assert [(error["parameter"], error["value"]) for error in body["errors"]] == WRONG[query]
    assert all(error["in"] == "query" and error["detail"] in body["detail"] for error in body["errors"])
    assert shard.asks == []


async def test_a_window_the_wrong_way_round_is_told_with_the_fix():
    """low above high: the error has both values and the fix."""
    body = has_problem(await get(classic_reader(), "/data?low=20&high=3"), 422, "invalid-parameters")
    assert body["detail"] == "low must not be above high: got low=20, high=3; swap them"


async def test_a_typo_is_told_what_there_is():
    """An unknown parameter is answered with the known ones."""
    body = has_problem(await get(classic_reader(), "/data?lmit=5"), 422, "invalid-parameters")
    assert "low, high, filter, columns, after, limit, require" in body["detail"]


@pytest.mark.parametrize("query", ["", "&limit=15"])
@pytest.mark.parametrize("accept", ["application/json", NDJSON])
async def test_who_requires_a_complete_answer_gets_no_other(query, accept):
    """require=complete: 503 with gaps, reports and Retry-After, as JSON and NDJSON, for a page and for everything."""
    answer = await get(classic_reader(s2=DOWN), f"/data?require=complete{query}", accept=accept)
    body = has_problem(answer, 503, "incomplete-read")
    models.IncompleteRead.model_validate(body)
    assert body["missing"] == ([[11, 20]] if query else GAPS)
    assert body["shards"]["2"]["error"] == "nobody there"
    assert answer.headers["retry-after"] == "1"


async def test_who_requires_a_complete_answer_gets_it():
    """require=complete without a gap gives the same answer as without the parameter."""
    answer = await get(classic_reader(), "/data?require=complete")
    assert (answer.status_code, ids(answer.json())) == (200, list(range(1, 61)))
    streamed = await get(classic_reader(), "/data?require=complete", accept=NDJSON)
    assert [line.get("id") for line in lines(streamed)] == [*range(1, 61), None]


async def test_many_gaps_do_not_make_an_endless_header():
    """Gaps in the header are cut between gaps and end with three dots; the body has them all."""
    spans = [(i * 10**9, i * 10**9) for i in range(200)]
    reader = ShardReader(RangeRouter({1: spans}), {1: DOWN}, timeout=TIMEOUT)
    answer = await get(reader, "/data")
    assert len(answer.json()["missing"]) == 200
    *gaps, last = answer.headers["labkit-missing"].split(", ")
    assert (gaps, last) == ([f"{low}-{high}" for low, high in spans[: len(gaps)]], "...")
    assert MAX_GAPS_LENGTH - 50 < len(answer.headers["labkit-missing"]) <= MAX_GAPS_LENGTH + len(", ...")


async def test_a_large_body_is_the_same_and_lets_others_have_their_turn():
    """Rows encoded in pieces give the same body, while the event loop keeps turning."""
    rows = [(i, None if i % 3 else f"näme {i}") for i in range(3 * responses.BATCH + 1)]
    result = await ShardReader(RangeRouter({1: [(0, 10**6)]}), {1: MemoryShard(rows)}).read()
    turns = 0
    encoding = asyncio.create_task(responses.result_json(result))
    while not encoding.done():
        await asyncio.sleep(0)
        turns += 1
    assert await encoding == responses.to_json(result.to_dict())
    assert turns >= 3


async def test_an_error_that_is_no_unicode_is_told_as_far_as_it_is():
    """Bytes of an error that are not valid Unicode are escaped and do not break the answer."""
    answer = await get(classic_reader(s2=MemoryShard(error=ConnectionError("caf\udce9 é"))), "/data")
    assert answer.json()["shards"]["2"]["error"] == "caf\\udce9 é"


# Representations


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        (NDJSON, NDJSON),
        (f"{NDJSON}, */*", NDJSON),
        (f"{NDJSON}, application/json", "application/json"),
        (f"application/json;q=0.5, {NDJSON};q=0.6", NDJSON),
        (f"application/json;q=0, {NDJSON};q=0.001", NDJSON),
        ("application/json;q=0, */*", NDJSON),
        (f"*/*;q=0.1, {NDJSON};q=0", "application/json"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ('application/json;x="a,b;q=0"', "application/json"),
        ('text/html;x="application/json, */*"', None),
        ("text/html", None),
        ("*/*;q=0", None),
        ("*/*;q=0.0", None),
        ("application/json;q=2", None),
        ("application/json;q=", None),
        ("application/json;", None),
        ("nonsense", None),
        (f"nonsense, {NDJSON}", NDJSON),
    ],
)
def test_a_client_gets_what_it_likes_best(accept, chosen):
    """Accept is weighed as in RFC 9110: by quality, then specificity; q=0 and malformed ranges rule a type out."""
    assert choose(accept, ("application/json", NDJSON)) == chosen


async def test_what_there_is_not_cannot_be_had():
    """406 lists the available types; several Accept headers count as one list."""
    body = has_problem(await get(classic_reader(), "/data", accept="text/html"), 406)
    models.NotAcceptable.model_validate(body)
    assert body["available"] == ["application/json", NDJSON]
    async with client_of(classic_reader()) as client:
        answer = await client.get("/data", headers=[("accept", "text/html"), ("accept", NDJSON)])
    assert answer.headers["content-type"] == NDJSON
    assert answer.headers["vary"] == "Accept"


# NDJSON


@pytest.mark.parametrize("down", [(), (2,), (1, 2, 3)])
async def test_a_stream_is_rows_and_a_last_line(down):
    """Each line is a row; the last has no id and reports gaps and shards as the body of /data does."""
    reader = classic_reader(**{f"s{shard}": DOWN for shard in down})
    answer = await get(reader, "/data", accept=NDJSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON)
    assert answer.headers["cache-control"] == "no-store"
    *rows, end = lines(answer)
    whole = (await reader.read()).to_dict()
    assert rows == whole["rows"]
    assert end["complete"] is (not down)
    assert end["missing"] == whole["missing"]
    assert end["next"] is None
    assert {key: report["status"] for key, report in end["shards"].items()} == {
        key: report["status"] for key, report in whole["shards"].items()
    }
    models.StreamEnd.model_validate(end)
    TypeAdapter(list[models.Row]).validate_python(rows)


async def test_a_stream_is_read_page_by_page():
    """Each query is limited to one page of rows; the reports cover all pages, with joined ranges."""
    shard = MemoryShard([(i, "x") for i in range(2 * PAGE + 5)])
    reader = ShardReader(RangeRouter({1: [(0, 10**9)]}), {1: shard}, timeout=TIMEOUT * 10)
    *rows, end = lines(await get(reader, "/data", accept=NDJSON))
    assert [row["id"] for row in rows] == list(range(2 * PAGE + 5))
    assert [ask.limit for ask in shard.asks] == [PAGE] * 3
    assert (end["shards"]["1"]["rows"], end["shards"]["1"]["ranges"]) == (2 * PAGE + 5, [[0, 10**9]])


@pytest.mark.parametrize(("limit", "after"), [(7, 0), (PAGE, 0), (PAGE + 7, 3)])
async def test_a_limit_bounds_a_stream(limit, after):
    """`limit` is the number of rows of the whole stream, and `next` says where to continue."""
    reader = ShardReader(
        RangeRouter({1: [(0, 10**9)]}), {1: MemoryShard([(i, None) for i in range(3 * PAGE)])}, timeout=TIMEOUT * 10
    )
    *rows, end = lines(await get(reader, f"/data?limit={limit}&after={after}", accept=NDJSON))
    assert [row["id"] for row in rows] == list(range(after + 1, after + 1 + limit))
    assert end["next"] == rows[-1]["id"]


async def test_a_shard_that_fails_in_the_middle_of_a_stream_stays_failed_in_its_last_line():
    """The last line explains each gap, even if the shard was healthy before and after."""

    class Flickering(MemoryShard):
        async def read(self, ask: Ask) -> Any:
            if len(self.asks) == 1:
                self.asks.append(ask)
                raise ConnectionRefusedError("for a moment")
            return await super().read(ask)

    ranges = [(i * PAGE, (i + 1) * PAGE - 1) for i in range(3)]
    shard = Flickering([(i, None) for i in range(3 * PAGE)])
    reader = ShardReader(RangeRouter({1: ranges}), {1: shard}, timeout=TIMEOUT * 10)
    *rows, end = lines(await get(reader, "/data", accept=NDJSON))
    missing = [i for low, high in end["missing"] for i in range(low, high + 1)]
    assert missing
    assert sorted([*missing, *(row["id"] for row in rows)]) == list(range(3 * PAGE))
    assert (end["complete"], end["shards"]["1"]["error"]) == (False, "for a moment")


async def test_a_client_that_leaves_a_stream_ends_the_read_behind_it():
    """Once the client hangs up, the query is cancelled, long before the deadline."""
    frozen = Frozen()
    async with served(classic_reader(s2=frozen, timeout=30)) as client:
        async with client.stream("GET", "/data", headers={"accept": NDJSON}):
            await frozen.asked.wait()
        async with asyncio.timeout(PATIENCE):
            await frozen.left.wait()


# GET /data/{id}


async def test_a_row_is_had_by_its_id():
    """200 and the row; NULL is null."""
    answer = await get(classic_reader(s2=MemoryShard([(12, None)])), "/data/12")
    assert (answer.status_code, answer.json()) == (200, {"id": 12, "name": None})
    assert answer.headers["cache-control"] == "no-cache"
    models.Row.model_validate(answer.json())


async def test_a_row_that_is_not_there():
    """A missing row is 404, after a query to the ID's owner only."""
    owner, other = MemoryShard(), MemoryShard()
    body = has_problem(await get(classic_reader(s2=owner, s1=other), "/data/12"), 404, "no-such-row")
    assert "has no such row" in body["detail"]
    assert (len(owner.asks), len(other.asks)) == (1, 0)


@pytest.mark.parametrize("row_id", [0, 61, -1, INT64_MIN, INT64_MAX])
async def test_an_id_that_no_shard_owns_is_answered_at_once(row_id):
    """404 says that no shard owns the ID without querying any, even while all hang."""
    frozen = Frozen()
    answer = await get(classic_reader(s1=frozen, s2=frozen, s3=frozen), f"/data/{row_id}")
    assert has_problem(answer, 404, "no-such-row")["detail"] == f"no shard owns ID {row_id}"
    assert not frozen.asked.is_set()


async def test_a_row_whose_shard_failed_is_unknown():
    """503, not 404, with the report of that shard and Retry-After."""
    answer = await get(classic_reader(s2=DOWN), "/data/12")
    body = has_problem(answer, 503, "shard-unavailable")
    models.ShardUnavailable.model_validate(body)
    assert list(body["shards"]) == ["2"]
    assert (body["shards"]["2"]["status"], body["shards"]["2"]["ranges"]) == ("unreachable", [[12, 12]])
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("row_id", ["x", "1.0", str(INT64_MAX + 1), "%00", "%20"])
async def test_what_is_no_id_is_refused(row_id):
    """422 names the parameter of an invalid ID."""
    body = has_problem(await get(classic_reader(), f"/data/{row_id}"), 422, "invalid-parameters")
    assert [(error["in"], error["parameter"]) for error in body["errors"]] == [("path", "id")]


# GET /data/watch


async def test_a_watch_tells_of_rows_and_of_shards():
    """The first event has all rows; a change, a failure and a recovery are events, numbered consecutively."""
    shard = Notifying(rows_of(2))
    async with served(classic_reader(s2=shard)) as client, watching(client) as events:
        first = await events.next()
        assert (first["event"], first["id"]) == ("result", "1")
        assert ids(json.loads(first["data"])) == list(range(1, 61))
        models.ReadResult.model_validate_json(first["data"])
        shard.become([(12, "new")])
        second = await events.next()
        assert (second["event"], second["id"]) == ("result", "2")
        assert {"id": 12, "name": "new"} in json.loads(second["data"])["rows"]
        shard.become([], ConnectionResetError("gone"))
        assert (await events.until(lambda data: not data["complete"]))["missing"] == GAPS
        shard.become(rows_of(2))
        assert ids(await events.until(lambda data: data["complete"])) == list(range(1, 61))


async def test_a_watch_has_a_window():
    """`low` and `high` bound a watch like a read."""
    async with served(classic_reader()) as client, watching(client, "?low=9&high=12") as events:
        assert ids(json.loads((await events.next())["data"])) == [9, 10, 11, 12]


async def test_deltas_lead_from_each_event_to_the_next():
    """Applied in order to the first result, deltas give the current rows, also when a shard is lost and returns."""
    shard = Notifying([(11, "a"), (12, "b")])
    async with served(classic_reader(s2=shard)) as client, watching(client, "?deltas=true&low=9&high=12") as events:
        first = await events.next()
        rows = {row["id"]: row["name"] for row in json.loads(first["data"])["rows"]}
        assert first["event"] == "result"
        stages = [([(11, "z")], None), ([], ConnectionResetError("gone")), ([(11, "z"), (12, None)], None)]
        for stage, error in stages:
            shard.become(stage, error)
            expected = {9: "Test 9", 10: "Test 10", **dict(stage)}
            while rows != expected:
                event = await events.next()
                assert event["event"] == "delta"
                models.Delta.model_validate_json(event["data"])
                delta = json.loads(event["data"])
                for gone in [*delta["removed"], *delta["lost"]]:
                    del rows[gone]
                rows |= {row["id"]: row["name"] for row in [*delta["added"], *delta["changed"]]}
                assert bool(delta["missing"]) >= bool(delta["lost"])


async def test_a_quiet_watch_is_kept_alive(monkeypatch):
    """While nothing changes, comments are sent so that no intermediary drops the stream as dead."""
    monkeypatch.setattr(watch, "KEEPALIVE", 0.01)
    async with served(classic_reader(s2=Notifying([]))) as client, watching(client) as events:
        kinds = [set(await events.next()) for _ in range(4)]
        assert {""} in kinds
        assert kinds.count({"event", "data", "id"}) == 1


async def test_a_client_that_leaves_releases_its_watch():
    """The shard is listened to until the last client leaves."""
    shard = Notifying([])
    async with served(classic_reader(s2=shard)) as client:
        async with watching(client) as first:
            await first.next()
            async with watching(client) as second:
                await second.next()
                assert len(shard.listeners) == 1
            shard.become([(11, "still there")])
            assert 11 in ids(await first.until(lambda data: data["shards"]["2"]["rows"]))
        await eventually(lambda: not shard.listeners)


async def test_a_slow_client_gets_the_latest_only():
    """50 changes while the client is busy are not queued: it gets the latest state after at most two more events."""
    shard = Notifying([])
    async with classic_reader(s2=shard) as reader:
        events = watch.events(reader.watch(), asyncio.Event())
        await anext(events)
        for number in range(50):
            shard.become([(11, str(number))])
            await asyncio.sleep(0.001)
        await eventually(lambda: shard.returned == [(11, "49")])
        async with asyncio.timeout(PATIENCE):
            received = 1
            while b'{"id":11,"name":"49"}' not in await anext(events):
                received += 1
        assert received <= 2
        await events.aclose()
        await eventually(lambda: not shard.listeners)


async def deaf_results():
    """One result, then silence; the first cancellation is swallowed, as some libraries do."""
    async with classic_reader() as reader:
        yield await reader.read()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def test_events_end_however_often_it_takes():
    """A swallowed cancellation is repeated, so that a client that leaves is released."""
    results = deaf_results()
    events = watch.events(results, asyncio.Event())
    await anext(events)
    following = asyncio.create_task(anext(events))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(PATIENCE):
        following.cancel()
        await asyncio.wait([following])
    assert (results.ag_frame, following.cancelled()) == (None, True)


async def test_a_hundred_clients_that_leave_leave_nothing():
    """Clients that leave at different moments, before the first event or after, leave neither task nor listener."""
    shard = Notifying([])
    before = len(asyncio.all_tasks())
    async with served(classic_reader(s2=shard)) as client:
        served_by = len(asyncio.all_tasks())
        for number in range(100):
            with suppress(TimeoutError):
                async with asyncio.timeout(number % 10 * 0.002), watching(client, f"?low={-number}") as events:
                    await events.next()
                    shard.become([(11, str(number))])
                    await events.next()
        await eventually(lambda: not shard.listeners and len(asyncio.all_tasks()) <= served_by)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_watch_ends_with_its_reader():
    """When the reader is closed, the stream ends properly."""
    reader = classic_reader(s2=Notifying([]))
    async with httpx.AsyncClient(timeout=PATIENCE) as client, Server(reader) as server:
        client.base_url = server.url
        async with watching(client) as events:
            await events.next()
            await reader.aclose()
            assert await events.next() is None


@pytest.mark.parametrize("query", ["low=x", "low=2&high=1", "deltas=yes", "limit=5"])
async def test_a_watch_refuses_what_it_cannot_mean(query):
    """Parameters are checked before a stream begins."""
    has_problem(await get(classic_reader(), f"/data/watch?{query}"), 422, "invalid-parameters")


# Health


async def test_the_service_is_healthy_whatever_its_shards_are():
    """/healthz queries no shard."""
    frozen = Frozen()
    answer = await get(classic_reader(s1=frozen, s2=frozen, s3=frozen), "/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"
    assert not frozen.asked.is_set()


async def test_readiness_asks_each_shard_for_one_id():
    """/readyz queries all shards at once, each for one of its IDs, and reports on each."""
    shards = [MemoryShard(), MemoryShard(), MemoryShard()]
    reader = classic_reader(s1=shards[0], s2=shards[1], s3=shards[2])
    body = (await get(reader, "/readyz")).json()
    models.Readiness.model_validate(body)
    assert {shard: report["status"] for shard, report in body["shards"].items()} == {"1": "ok", "2": "ok", "3": "ok"}
    assert [[ask.ranges for ask in shard.asks] for shard in shards] == [[((1, 1),)], [((11, 11),)], [((21, 21),)]]


async def test_it_is_ready_while_one_shard_answers():
    """Partial answers suffice: 200 within one timeout while two shards hang, 503 when all are down."""
    hanging = MemoryShard(delay=30)
    answer = await in_time(get(classic_reader(s1=hanging, s2=hanging), "/readyz"), within=TIMEOUT + 0.1)
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert answer.json()["shards"]["1"]["status"] == "timeout"
    answer = await get(classic_reader(s1=DOWN, s2=DOWN, s3=DOWN), "/readyz")
    body = has_problem(answer, 503, "not-ready")
    models.NotReady.model_validate(body)
    assert {report["error"] for report in body["shards"].values()} == {"nobody there"}
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("key", [2, "eu", "eu/west", ("a", 1)])
async def test_each_shard_has_its_own_readiness(key):
    """/readyz/{shard} is 200 or 503 for that shard alone; keys are compared as text; others are not queried."""
    other = MemoryShard()
    for shard, status in ((MemoryShard(), 200), (DOWN, 503)):
        router = RangeRouter({key: [(1, 9)], "other": [(10, 19)]})
        answer = await get(ShardReader(router, {key: shard, "other": other}, TIMEOUT), f"/readyz/{key}")
        assert answer.status_code == status
        assert list(answer.json()["shards"]) == [str(key)]
    assert other.asks == []


async def test_the_readiness_of_an_unknown_shard():
    """404 names the shard and the known ones."""
    body = has_problem(await get(classic_reader(), "/readyz/7"), 404, "no-such-shard")
    assert body["detail"] == "unknown shard '7'; expected one of 1, 2, 3"


# Everything else


@pytest.mark.parametrize("path", ["/nope", "/data/", "/data/1/2", "/readyz/", "/redoc", "/docs/oauth2-redirect"])
async def test_what_is_not_there_is_a_problem(path):
    """An unknown path is a 404 problem, not a redirect."""
    answer = await get(classic_reader(), path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    "path", ["/", "/data", "/data/1", "/data/count", "/data/watch", "/healthz", "/readyz", "/readyz/1"]
)
async def test_only_get_is_served(path):
    """Any other method is 405, with GET in Allow."""
    async with client_of(classic_reader()) as client:
        answer = await client.delete(path)
    assert has_problem(answer, 405)["detail"].startswith("DELETE")
    assert answer.headers["allow"] == "GET"


async def test_an_unexpected_error_tells_the_client_nothing_of_the_inside(monkeypatch, caplog):
    """500 is a problem without a traceback; the server logs the error and goes on."""

    async def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("s3cr3t")

    reader = classic_reader()
    monkeypatch.setattr(reader, "read", broken)
    async with served(reader) as client:
        answer = await client.get("/data")
        has_problem(answer, 500)
        assert "s3cr3t" not in answer.text
        assert (await client.get("/healthz")).status_code == 200
    assert "s3cr3t" in caplog.text


async def test_the_page_for_people():
    """/ is an HTML page, and not part of the OpenAPI document."""
    answer = await get(classic_reader(), "/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<!doctype html>" in answer.text.lower()
    assert "/" not in create_app(classic_reader()).openapi()["paths"]


# The OpenAPI document

DOCUMENT = create_app(classic_reader()).openapi()
OPERATIONS = {path: item["get"] for path, item in DOCUMENT["paths"].items()}
EXAMPLES = [
    pytest.param(media["schema"]["$ref"].rpartition("/")[2], shown["value"], id=f"{path} {status} {name}")
    for path, operation in OPERATIONS.items()
    for status, answer in operation["responses"].items()
    for media in answer["content"].values()
    if "schema" in media
    for name, shown in media["examples"].items()
]


def test_the_document_has_the_version():
    """The document has labkit's version, and describes the answers of each of its paths."""
    assert DOCUMENT["info"]["version"] == __version__
    paths = ["/data/watch", "/data", "/data/count", "/data/{id}", "/healthz", "/readyz", "/readyz/{shard}"]
    assert {path: list(item) for path, item in DOCUMENT["paths"].items()} == {path: ["get"] for path in paths}


@pytest.mark.parametrize("path", OPERATIONS)
def test_every_operation_is_described(path):
    """Each operation has summary, description, tag and name; parameters, answers and headers have examples."""
    operation = OPERATIONS[path]
    assert all(operation[key] for key in ("summary", "description", "operationId"))
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    for parameter in operation.get("parameters", []):
        assert parameter["description"]
        assert parameter["schema"]["examples"]
    for status, answer in operation["responses"].items():
        assert answer["description"]
        assert all(media["examples"] for media in answer["content"].values())
        assert all(header["description"] and header["example"] for header in answer["headers"].values())
        assert status == "200" or list(answer["content"]) == [PROBLEM]


def test_every_parameter_is_in_the_document():
    """The parameters in the code and in the document are the same."""
    for path, query in QUERIES.items():
        assert [parameter["name"] for parameter in OPERATIONS[path]["parameters"]] == list(query.model_fields)


@pytest.mark.parametrize(("model", "shown"), EXAMPLES)
def test_every_example_is_such_a_body(model, shown):
    """Each example in the document is valid under its schema and names a model of the document."""
    assert model in DOCUMENT["components"]["schemas"]
    TypeAdapter(getattr(models, model)).validate_json(json.dumps(shown), strict=True)


def test_examples_of_streams_are_such_streams():
    """The lines and events of the examples are valid under their models."""
    for shown in OPERATIONS["/data"]["responses"]["200"]["content"][NDJSON]["examples"].values():
        *rows, end = shown["value"].splitlines()
        assert [json.loads(row)["id"] for row in rows]
        models.StreamEnd.model_validate_json(end)
    kinds: dict[str, type[BaseModel]] = {"result": models.ReadResult, "delta": models.Delta}
    for shown in OPERATIONS["/data/watch"]["responses"]["200"]["content"]["text/event-stream"]["examples"].values():
        for event in shown["value"].split("\n\n")[:-1]:
            kind, data, number = event.splitlines()
            kinds[kind.removeprefix("event: ")].model_validate_json(data.removeprefix("data: "))
            assert number.startswith("id: ")


# The server


async def test_the_server_is_up_in_its_block_and_gone_after_it():
    """The URL is known on entry and answers; afterwards the port refuses, and the reader is still open."""
    reader = classic_reader()
    async with Server(reader) as server, httpx.AsyncClient() as client:
        assert (await client.get(f"{server.url}/healthz")).status_code == 200
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{server.url}/healthz")
    assert (await reader.read()).complete


async def test_two_servers_of_one_reader():
    """Any number of servers may share a reader."""
    async with (
        classic_reader() as reader,
        Server(reader) as first,
        Server(reader) as second,
        httpx.AsyncClient() as client,
    ):
        assert first.url != second.url
        for server in (first, second):
            assert (await client.get(f"{server.url}/data/1")).json()["id"] == 1


async def test_an_address_of_the_sixth_version():
    """An IPv6 host is written in brackets in the URL."""
    async with Server(classic_reader(), "::1") as server, httpx.AsyncClient() as client:
        assert server.url.startswith("http://[::1]:")
        assert (await client.get(f"{server.url}/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("host", "port", "named"),
    [
        ("127.0.0.1", None, "127.0.0.1:{port}"),
        ("no.such.host.invalid", 0, "no.such.host.invalid:0"),
        ("127.0.0.1", 65536, "127.0.0.1:65536"),
        ("127.0.0.1", -1, "127.0.0.1:-1"),
        ("." * 300, 0, "..."),
    ],
)
async def test_an_address_that_cannot_be_had(host, port, named):
    """A port in use (None), an unknown host, a port out of range: one clear line that names host and port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(UsageError, match="use another host or port") as raised:
            async with Server(classic_reader(), host, port):
                pass
    assert named.format(port=port) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


async def test_the_server_leaves_logging_and_signals_as_they_are():
    """A server in a block sets no log handler, log level or signal handler."""

    def as_they_are() -> list[Any]:
        loggers = [
            logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
        ]
        handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
        return [*((logger.level, list(logger.handlers), logger.propagate) for logger in loggers), *handlers]

    before = as_they_are()
    async with Server(classic_reader()):
        assert as_they_are() == before
    assert as_they_are() == before


async def test_the_block_may_end_by_an_error():
    """An exception in the block propagates, and nothing of the server is left."""
    with pytest.raises(ZeroDivisionError):
        async with Server(classic_reader()):
            raise ZeroDivisionError


async def test_answers_under_way_are_finished_and_streams_end_when_the_server_stops():
    """On leaving the block, a read under way is answered in full, and a watch and a stream of rows end properly."""
    frozen = Frozen()
    reader = classic_reader(s2=frozen, timeout=PATIENCE)
    async with reader, httpx.AsyncClient(timeout=PATIENCE) as client, Server(reader) as server:
        client.base_url = server.url
        async with watching(client, "?high=1") as events:
            await events.next()
            reading = asyncio.create_task(client.get("/data"))
            streaming = asyncio.create_task(client.get("/data?low=11", headers={"accept": NDJSON}))
            await frozen.asked.wait()
            leaving = asyncio.create_task(server.__aexit__(None, None, None))
            assert await events.next() is None
            assert not leaving.done()
            frozen.thawed.set()
            await leaving
            assert (await reading).json()["complete"] is True
            assert lines(await streaming)[-1]["complete"] is True


async def test_a_stream_of_many_pages_says_where_to_go_on_when_the_server_stops():
    """The current page is the last one, and the last line has its `next`."""
    shard = Frozen()
    shard.rows = [(i, None) for i in range(10 * PAGE)]
    reader = ShardReader(RangeRouter({1: [(0, 10**9)]}), {1: shard}, timeout=PATIENCE)
    async with reader, httpx.AsyncClient(timeout=PATIENCE) as client:
        async with Server(reader) as server:
            streaming = asyncio.create_task(client.get(f"{server.url}/data", headers={"accept": NDJSON}))
            await shard.asked.wait()
            asyncio.get_running_loop().call_later(0.05, shard.thawed.set)
        *rows, end = lines(await streaming)
        assert len(rows) == PAGE
        assert (end["complete"], end["next"]) == (True, rows[-1]["id"])


async def test_a_client_that_does_not_read_does_not_hold_the_server_up(monkeypatch):
    """An answer its client does not read is cut off once answers under way have had their time."""
    monkeypatch.setattr(labkit.api.server, "MARGIN", 0)
    rows = [(i, "x" * 1000) for i in range(20_000)]
    reader = ShardReader(RangeRouter({1: [(0, 10**9)]}), {1: MemoryShard(rows)}, timeout=1)
    async with reader:
        async with Server(reader) as server:
            host, port = server.url.removeprefix("http://").split(":")
            deaf, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(f"GET /data HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = await deaf.readuntil(b"\r\n\r\n")
        body = b""
        with suppress(ConnectionResetError):
            body = await deaf.read(-1)
        assert b"200 OK" in head
        assert len(body) < 20_000_000
        writer.close()


async def test_a_server_can_be_stopped_at_once():
    """After `abort()` the end of the block waits for no answer under way: its client is cut off."""
    frozen = Frozen()
    reader = classic_reader(s2=frozen, timeout=60)
    async with reader, httpx.AsyncClient(timeout=PATIENCE) as client:
        async with Server(reader) as server:
            reading = asyncio.create_task(client.get(f"{server.url}/data"))
            await frozen.asked.wait()
            server.abort()
        with pytest.raises(httpx.TransportError):
            await reading
        assert frozen.left.is_set()


async def test_a_server_whose_owner_is_cancelled_while_it_stops_leaves_nothing():
    """Like a second Ctrl-C in a notebook: it ends the wait for answers, and the answers."""
    frozen = Frozen()
    reader = classic_reader(s2=frozen, timeout=60)
    async with reader, httpx.AsyncClient(timeout=PATIENCE) as client:
        server = await Server(reader).__aenter__()
        reading = asyncio.create_task(client.get(f"{server.url}/data"))
        await frozen.asked.wait()
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(httpx.TransportError):
            await reading
        await eventually(frozen.left.is_set)


async def test_serving_ends_at_a_signal():
    """`serve` reports its URL and stops gracefully on SIGTERM; afterwards the old signal handler is back."""
    before = signal.getsignal(signal.SIGTERM)
    frozen = Frozen()
    reader = classic_reader(s2=frozen, timeout=PATIENCE)
    async with reader, httpx.AsyncClient(timeout=PATIENCE) as client:
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(reader, "127.0.0.1", 0, url.set_result))
        reading = asyncio.create_task(client.get(f"{await url}/data"))
        await frozen.asked.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        frozen.thawed.set()
        await serving
        assert (await reading).json()["complete"] is True
    assert signal.getsignal(signal.SIGTERM) is before


async def test_serving_ends_at_once_at_a_second_signal():
    """A second Ctrl-C does not wait for shards that hang."""
    frozen = Frozen()
    reader = classic_reader(s2=frozen, timeout=60)
    async with reader, httpx.AsyncClient(timeout=PATIENCE) as client:
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(reader, "127.0.0.1", 0, url.set_result))
        reading = asyncio.create_task(client.get(f"{await url}/data"))
        await frozen.asked.wait()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.01)  # or the kernel merges the two
        await serving
        with pytest.raises(httpx.TransportError):
            await reading

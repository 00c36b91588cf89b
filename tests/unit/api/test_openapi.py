"""The access point against its own OpenAPI document (schemathesis), and against arbitrary requests (fuzzing)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN
from labkit.api import create_app
from labkit.api.openapi import models
from labkit.reader import ShardReader
from labkit.result import ReadResult
from labkit.router import CLASSIC
from labkit.shards.memory import MemoryShard
from tests.support.mocks import classic_shards

pytestmark = pytest.mark.slow

DOWN = ConnectionRefusedError("nobody there")
steady = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Glancing(ShardReader):
    """A reader whose watches end after two results, as if closed: schemathesis waits for the end of an answer."""

    async def watch(
        self, low: int | None = None, high: int | None = None, interval: float = 1.0, **wanted: Any
    ) -> AsyncIterator[ReadResult]:
        yield await self.read(low, high, **wanted)
        yield await self.read(low, high, **wanted)


def app_with(down: tuple[int, ...]) -> FastAPI:
    """The access point of a reader with some of its shards down."""
    broken = {f"s{shard}": MemoryShard(error=DOWN) for shard in down}
    return create_app(Glancing(CLASSIC, classic_shards(**broken)))


CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 1,
        "generation": {"deterministic": True, "database": "none"},
        # The document lists 503, for requirements that the shards cannot meet.
        "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]}},
    }
)


def described_by(down: tuple[int, ...]) -> Any:
    """The OpenAPI document of an access point, with its application."""
    return schemathesis.openapi.from_asgi("/openapi.json", app_with(down), config=CONFIG)


def check(case: Any, **headers: str) -> Any:
    """The answer to the case, validated by all checks of schemathesis."""
    if case.meta.generation.mode.is_positive and {"low", "high"} <= case.query.keys():
        # The one rule a document cannot express: low must not be above high.
        bounds = sorted((case.query["low"], case.query["high"]), key=int)
        case.query.update(low=bounds[0], high=bounds[1])
    if case.meta.generation.mode.is_positive:
        # Nor can it say which columns and filters fit a table that no shard has described yet.
        fitting = {"columns": ["name"], "filter": ["id>3", "name is not null"]}
        case.query.update({name: fitting[name] for name in fitting if name in case.query})
    return case.call_and_validate(headers=headers)


@described_by(()).parametrize()
@settings(steady, max_examples=20)
def test_with_all_shards_answers_are_as_the_document_says(case: Any) -> None:
    """All checks of schemathesis: valid requests are answered, invalid ones refused, and each body is as described."""
    check(case)


@described_by((2,)).parametrize()
@settings(steady, max_examples=20)
def test_with_one_shard_down_answers_are_as_the_document_says(case: Any) -> None:
    """The same holds while shard 2 is down: the document has partial answers and 503 problems too."""
    check(case)


@described_by((1, 2, 3)).parametrize()
@settings(steady, max_examples=20)
def test_with_all_shards_down_answers_are_as_the_document_says(case: Any) -> None:
    """The same holds while all shards are down."""
    check(case)


@described_by((2,)).include(path="/data").parametrize()
@settings(steady, max_examples=20)
def test_streams_of_rows_are_as_the_document_says(case: Any) -> None:
    """The same holds for NDJSON; each line is checked too, which schemathesis does not do."""
    answer = check(case, Accept="application/x-ndjson")
    if answer.status_code == 200:
        assert answer.headers["content-type"] == ["application/x-ndjson"]
        *rows, end = answer.content.splitlines()
        models.StreamEnd.model_validate_json(end)
        for row in rows:
            models.Row.model_validate_json(row)


class Client:
    """Sends raw requests to an application, with no library to correct them."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._runner = asyncio.Runner()

    def get(self, path: bytes, query: bytes = b"", accept: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); only the beginning of a stream."""
        return self._runner.run(self._get(path, query, accept))

    async def _get(self, path: bytes, query: bytes, accept: bytes | None) -> tuple[int, dict[str, str], bytes]:
        sent: list[Any] = []
        begun = asyncio.Event()

        async def receive() -> dict[str, str]:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                begun.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "path": unquote_to_bytes(path).decode(errors="replace"),
            "raw_path": path,
            "query_string": query,
            "headers": [] if accept is None else [(b"accept", accept)],
        }
        await self.app(scope, receive, send)
        headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])

    def close(self) -> None:
        """Closes its event loop."""
        self._runner.close()


@pytest.fixture(scope="module", params=[(), (2,), (1, 2, 3)], ids=["all well", "one down", "all down"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of an access point with some of its shards down."""
    client = Client(app_with(request.param))
    yield client
    client.close()


INTEGERS = st.integers(INT64_MIN - 2, INT64_MAX + 2) | st.integers(-3, 70)
WORDS = st.sampled_from(
    ["low", "high", "after", "limit", "require", "deltas", "complete", "true", "Low", "id", "columns", "filter", "name"]
)
VALUES = (
    INTEGERS.map(str)
    | WORDS
    | st.text(max_size=6)
    | st.sampled_from(["", "1e3", "1.0", "1_0", "+1", "٣", "NaN", "id>3"])
)
PAIRS = st.lists(st.tuples(WORDS, VALUES), max_size=5)
QUERIES = PAIRS.map(lambda pairs: "&".join(f"{name}={quote(value)}" for name, value in pairs).encode()) | st.binary()
SEGMENTS = st.sampled_from(["data", "watch", "count", "healthz", "readyz", "openapi.json", "..", ""]) | VALUES
PATHS = (
    st.sampled_from(["/data", "/data/count", "/data/watch", "/readyz", "/"])
    | INTEGERS.map("/data/{}".format)
    | st.text(max_size=5).map(lambda shard: "/readyz/" + quote(shard))
    | st.lists(SEGMENTS, max_size=4).map(lambda parts: "/" + "/".join(quote(part, safe="") for part in parts))
).map(str.encode)
RANGES = st.sampled_from(
    ["*/*", "application/json", "application/x-ndjson", "application/*", "text/html", "*", "a/b/c"]
)
WEIGHTS = st.sampled_from(["", ";q=0", ";q=1", ";q=0.5", ";q=2", ";q=", ';x="a,b;q=0"', ";"])
ACCEPTS = (
    st.none()
    | st.lists(st.tuples(RANGES, WEIGHTS).map("".join), max_size=4).map(lambda each: ", ".join(each).encode())
    | st.binary(max_size=20)
)


def is_problem(status: int, headers: dict[str, str], body: bytes) -> bool:
    """Whether an answer is a problem document about its own status."""
    said = json.loads(body)
    return (
        headers["content-type"] == "application/problem+json"
        and said["status"] == status
        and all(isinstance(said[member], str) for member in ("type", "title", "detail", "instance"))
    )


@settings(steady, max_examples=150)
@given(path=PATHS, query=QUERIES, accept=ACCEPTS)
@example(b"/data", b"low=%ff&high=%00", b"\xff")
@example(b"/data", b"\x80", None)
@example(b"/data/%ff", b"", None)
@example(b"/data/9223372036854775808", b"&&==&", None)
@example(b"//data", b"a" * 5000, b"," * 5000)
def test_no_request_makes_an_error_of_the_service(
    client: Client, path: bytes, query: bytes, accept: bytes | None
) -> None:
    """Any request is answered with 2xx or 4xx, or 503 for a shard; everything but 2xx is a problem document."""
    status, headers, body = client.get(path, query, accept)
    assert 200 <= status < 300 or 400 <= status < 500 or status == 503
    assert status < 300 or is_problem(status, headers, body)

"""Toxiproxy's HTTP API, with the requests that its clients send: paths, fields, status codes and error bodies.

`toxiproxy-python` and `toxiproxy-node-client` themselves send these, with the answers checked here.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from labkit import Proxies, errors, faults
from labkit.proxies.app import VERSION
from tests.support.echo import answered, echoing, opened
from tests.support.watching import refuses

pytestmark = pytest.mark.asyncio(loop_scope="module")

TYPES: dict[str, dict[str, Any]] = {
    "bandwidth": {"rate": 100},
    "black_hole": {},
    "corrupt": {},
    "half_close": {"after_bytes": 3},
    "latency": {"latency": 5, "jitter": 2},
    "limit_data": {"bytes": 3},
    "noop": {},
    "packet_loss": {"loss_rate": 0.5, "correlation": 0.25},
    "reset_peer": {"timeout": 5},
    "slicer": {"average_size": 4, "size_variation": 1, "delay": 10},
    "slow_close": {"delay": 5},
    "timeout": {"timeout": 5},
}


class Client:
    """Sends requests to the API in front of one echo server, whose shard is called "eu"."""

    def __init__(self, proxies: Proxies, http: httpx.AsyncClient, port: int) -> None:
        self.proxies, self.http, self.upstream = proxies, http, f"127.0.0.1:{port}"

    async def __call__(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """The JSON of the answer (None if it has no body), which has this status."""
        answer = await self.http.request(method, path, json=body)
        assert answer.status_code == status, (method, path, body, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def listen(self, name: str = "eu") -> str:
        """Where a proxy listens."""
        return str((await self("GET", f"/proxies/{name}"))["listen"])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[Client]:
    """The proxies and the API of all tests here."""
    async with (
        echoing() as port,
        Proxies({"eu": f"127.0.0.1:{port}"}) as proxies,
        httpx.AsyncClient(base_url=await proxies.api(port=0)) as http,
    ):
        yield Client(proxies, http, port)


@pytest_asyncio.fixture(loop_scope="module")
async def api(shared: Client) -> AsyncIterator[Client]:
    """The shared API, whose only proxy, "eu", is enabled and has no toxics."""
    yield shared
    await shared("POST", "/reset", status=204)
    for name in await shared("GET", "/proxies"):
        if name != "eu":
            await shared("DELETE", f"/proxies/{name}", status=204)


async def test_proxies_are_listed_created_shown_and_deleted(api: Client) -> None:
    """Proxies have the names of the shards, and clients create others; port 0 becomes the actual one."""
    assert list(await api("GET", "/proxies")) == ["eu"]
    made = await api("POST", "/proxies", {"name": "a b", "listen": "127.0.0.1:0", "upstream": api.upstream}, 201)
    port = int(made["listen"].removeprefix("127.0.0.1:"))
    assert made == {
        "name": "a b", "listen": f"127.0.0.1:{port}", "upstream": api.upstream, "enabled": True, "toxics": []
    }  # fmt: skip
    assert await api("GET", "/proxies/a%20b") == made == (await api("GET", "/proxies"))["a b"]
    assert await answered(made["listen"]) == b"hello"
    assert await api("DELETE", "/proxies/a%20b", status=204) is None
    assert refuses(port)
    assert list(await api("GET", "/proxies")) == ["eu"]


async def test_a_proxy_is_disabled_and_enabled(api: Client) -> None:
    """A disabled proxy ends its connections and refuses; it may be created so; `enabled` alone changes nothing else."""
    listen = await api.listen()
    async with opened(listen) as (reader, writer):
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        for method in ("POST", "PATCH"):
            off = await api(method, "/proxies/eu", {"enabled": False})
            assert (off["enabled"], off["listen"]) == (False, listen)
        assert await reader.read() == b""
    assert refuses(int(listen.rpartition(":")[2]))
    assert (await api("POST", "/proxies/eu", {"enabled": True, "toxics": None}))["enabled"]
    assert await answered(listen) == b"hello"
    made = await api("POST", "/proxies", {"name": "off", "upstream": api.upstream, "enabled": False}, 201)
    assert not made["enabled"]
    assert refuses(int(made["listen"].rpartition(":")[2]))
    await api("PATCH", "/proxies/off", {"enabled": True})
    assert await answered(made["listen"]) == b"hello"


async def test_a_proxy_moves_and_turns_to_another_server(api: Client) -> None:
    """Changing `listen` or `upstream` ends connections; the same address by another name changes nothing."""
    first = await api("POST", "/proxies", {"name": "two", "upstream": api.upstream}, 201)
    async with opened(first["listen"]) as (reader, writer):
        port = first["listen"].rpartition(":")[2]
        same = await api("POST", "/proxies/two", {"listen": f"localhost:{port}", "upstream": api.upstream})
        writer.write(b"x")
        assert (same, await reader.read(1)) == (first, b"x")
        moved = await api("POST", "/proxies/two", {"listen": "127.0.0.1:0"})
        assert moved["listen"] != first["listen"]
        assert await reader.read() == b""
    assert refuses(int(port))
    assert await answered(moved["listen"]) == b"hello"
    async with opened(moved["listen"]) as (reader, writer), echoing() as other:
        turned = await api("PATCH", "/proxies/two", {"upstream": f"127.0.0.1:{other}"})
        assert (turned["listen"], turned["upstream"]) == (moved["listen"], f"127.0.0.1:{other}")
        assert await reader.read() == b""
        assert await answered(moved["listen"]) == b"hello"


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize("type_", TYPES)
async def test_toxics_of_every_type_and_direction(api: Client, type_: str, stream: str) -> None:
    """A toxic is created, shown, listed, updated by both methods and removed; then all is as before."""
    body = {"type": type_, "stream": stream, "attributes": TYPES[type_]}
    made = await api("POST", "/proxies/eu/toxics", body)
    name = f"{type_}_{stream}"
    assert made.items() >= {"name": name, "type": type_, "stream": stream, "toxicity": 1.0}.items()
    assert made["attributes"].items() >= TYPES[type_].items()
    assert await api("GET", f"/proxies/eu/toxics/{name}") == made
    assert await api("GET", "/proxies/eu/toxics") == [made] == (await api("GET", "/proxies/eu"))["toxics"]
    for method, value in (("POST", 0.75), ("PATCH", 1)) if type_ == "packet_loss" else (("POST", 7), ("PATCH", 8)):
        changed = dict.fromkeys(list(TYPES[type_])[:1], value)
        updated = await api(method, f"/proxies/eu/toxics/{name}", {"attributes": changed})
        assert updated == {**made, "attributes": {**made["attributes"], **changed}}
    assert await api("DELETE", f"/proxies/eu/toxics/{name}", status=204) is None
    assert await api("GET", "/proxies/eu/toxics") == []
    assert await answered(await api.listen()) == b"hello"


async def test_every_type_of_the_registry_is_tried() -> None:
    """The types above are all network faults, besides noop."""
    from labkit.proxies.toxics import kinds

    assert set(kinds()) == set(TYPES)


@pytest.mark.parametrize(
    ("toxic", "answer"),
    [
        ({"type": "limit_data", "attributes": {"bytes": 3}}, b"hel"),
        ({"type": "timeout", "attributes": {"timeout": 1}}, b""),
        ({"type": "slicer", "attributes": {"average_size": 2, "size_variation": 1, "delay": 10}}, b"hello"),
        ({"type": "bandwidth", "attributes": {"rate": 100}}, b"hello"),
        ({"type": "half_close", "attributes": {"after_bytes": 2}}, b"he"),
        ({"type": "noop"}, b"hello"),
        ({"type": "limit_data", "toxicity": 0}, b"hello"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
async def test_a_toxic_does_what_it_says(api: Client, toxic: dict[str, Any], answer: bytes) -> None:
    """What arrives is what Toxiproxy documents, with its defaults: downstream, toxicity 1."""
    await api("POST", "/proxies/eu/toxics", toxic)
    assert await answered(await api.listen()) == answer


async def test_a_bandwidth_of_nothing_holds_everything(api: Client) -> None:
    """Nothing passes at rate 0, Toxiproxy's default; what was held arrives once it is removed."""
    assert (await api("POST", "/proxies/eu/toxics", {"type": "bandwidth"}))["attributes"] == {"rate": 0}
    async with opened(await api.listen()) as (reader, writer):
        writer.write(b"held")
        reading = asyncio.create_task(reader.readexactly(4))
        while (await api.proxies.record())[-1].kind != "fired":
            await asyncio.sleep(0.01)
        assert not reading.done()
        await api("DELETE", "/proxies/eu/toxics/bandwidth_downstream", status=204)
        assert await reading == b"held"


async def test_an_update_acts_on_open_connections(api: Client) -> None:
    """A latency that is raised delays what comes next on the same connection; a limit counts what has passed."""
    await api("POST", "/proxies/eu/toxics", {"type": "latency", "attributes": {"latency": 1}})
    await api("POST", "/proxies/eu/toxics", {"type": "limit_data", "attributes": {"bytes": 1000}})
    async with opened(await api.listen()) as (reader, writer):
        writer.write(b"abc")
        assert await reader.readexactly(3) == b"abc"
        await api("POST", "/proxies/eu/toxics/latency_downstream", {"attributes": {"latency": 200}})
        began = time.monotonic()
        writer.write(b"d")
        assert await reader.readexactly(1) == b"d"
        assert time.monotonic() - began >= 0.2
        await api("POST", "/proxies/eu/toxics/latency_downstream", {"toxicity": 0})
        await api("PATCH", "/proxies/eu/toxics/limit_data_downstream", {"attributes": {"bytes": 6}})
        writer.write(b"efgh")
        assert await reader.read() == b"ef"
    told = [(event.kind, event.fault) for event in await api.proxies.record() if event.kind in ("start", "stop")]
    assert told[-7:] == [
        ("start", faults.LimitData(1000)),
        ("stop", faults.Latency(1)),
        ("start", faults.Latency(200)),
        ("stop", faults.Latency(200)),
        ("start", faults.Latency(200, toxicity=0)),
        ("stop", faults.LimitData(1000)),
        ("start", faults.LimitData(6)),
    ]


BAD = "bad request body"
TOXIC, PROXY = "/proxies/eu/toxics", "/proxies"
LATENCY = {"type": "latency", "attributes": {"latency": 5}}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/proxies/nobody", None, 404, "proxy not found"),
        ("POST", "/proxies/nobody", {}, 404, "proxy not found"),
        ("DELETE", "/proxies/nobody", None, 404, "proxy not found"),
        ("GET", "/proxies/nobody/toxics", None, 404, "proxy not found"),
        ("POST", "/proxies/nobody/toxics", LATENCY, 404, "proxy not found"),
        ("GET", f"{TOXIC}/nothing", None, 404, "toxic not found"),
        ("POST", f"{TOXIC}/nothing", {}, 404, "toxic not found"),
        ("DELETE", f"{TOXIC}/nothing", None, 404, "toxic not found"),
        ("POST", PROXY, {}, 400, "missing required field: name"),
        ("POST", PROXY, {"name": ""}, 400, "missing required field: name"),
        ("POST", PROXY, {"name": "x"}, 400, "missing required field: upstream"),
        ("POST", PROXY, {"name": 5}, 400, f"{BAD}: name must be a string"),
        ("POST", PROXY, [], 400, f"{BAD}: it must be an object"),
        ("POST", PROXY, {"name": "x", "upstream": "db"}, 400, f"{BAD}: 'db' is not an address"),
        ("POST", PROXY, {"name": "x", "upstream": "db:1", "listen": "db:1"}, 400, f"{BAD}: cannot listen at 'db:1'"),
        ("POST", PROXY, {"name": "x", "upstream": "db:1", "enabled": "no"}, 400, f"{BAD}: enabled must be true or"),
        ("POST", PROXY, {"name": "eu", "upstream": "db:1"}, 409, "proxy already exists"),
        ("POST", TOXIC, {"type": "nonsense"}, 400, "invalid toxic type"),
        ("POST", TOXIC, {}, 400, "invalid toxic type"),
        ("POST", TOXIC, {"type": "down"}, 400, "invalid toxic type"),
        ("POST", TOXIC, {**LATENCY, "stream": "sideways"}, 400, "stream was invalid, can be either upstream or downst"),
        ("POST", TOXIC, {"type": "latency", "attributes": {"latency": "5"}}, 400, f"{BAD}: Latency: latency must be"),
        ("POST", TOXIC, {"type": "latency", "attributes": {"latncy": 5}}, 400, f"{BAD}: Toxiproxy's latency has no"),
        ("POST", TOXIC, {"type": "latency", "attributes": 5}, 400, f"{BAD}: attributes must be an object"),
        ("POST", TOXIC, {**LATENCY, "toxicity": "all"}, 400, f"{BAD}: toxicity must be a number"),
        ("POST", TOXIC, {**LATENCY, "toxicity": 2}, 400, f"{BAD}: Latency: toxicity must be a number from 0 to 1"),
        ("POST", "/populate", {}, 400, f"{BAD}: it must be a list"),
    ],
)  # fmt: skip
async def test_errors_are_toxiproxys(api: Client, method: str, path: str, body: Any, status: int, words: str) -> None:
    """Each has Toxiproxy's status and {"error": …, "status": …}, and nothing has changed."""
    before = await api("GET", "/proxies")
    answer = await api(method, path, body, status)
    assert set(answer) == {"error", "status"}
    assert answer["status"] == status
    assert answer["error"].startswith(words)
    assert await api("GET", "/proxies") == before


async def test_a_body_that_is_not_json(api: Client) -> None:
    """As with Toxiproxy, whatever its Content-Type."""
    for path in ("/proxies", "/proxies/eu", "/proxies/eu/toxics", "/populate"):
        answer = await api.http.post(path, content=b"{")
        assert (answer.status_code, answer.json()["status"]) == (400, 400)
        assert answer.json()["error"].startswith("bad request body: ")


async def test_a_port_in_use_is_a_server_error_that_names_it(api: Client) -> None:
    """In Toxiproxy's words, for a proxy that is created or moved; then nothing has changed."""
    listen = await api.listen()
    used = {"error": f"listen tcp {listen}: bind: address already in use", "status": 500}
    assert await api("POST", "/proxies", {"name": "x", "upstream": "db:1", "listen": listen}, 500) == used
    two = await api("POST", "/proxies", {"name": "two", "upstream": api.upstream}, 201)
    assert await api("POST", "/proxies/two", {"listen": listen}, 500) == used
    assert await api("GET", "/proxies/two") == two
    assert await answered(two["listen"]) == b"hello"
    assert sorted(await api("GET", "/proxies")) == ["eu", "two"]


async def test_names_of_toxics(api: Client) -> None:
    """A name is unique over both streams, and by default the type and the stream; equal toxics may have two names."""
    await api("POST", TOXIC, LATENCY)
    assert (await api("POST", TOXIC, LATENCY, 409)) == {"error": "toxic already exists", "status": 409}
    await api("POST", TOXIC, {**LATENCY, "name": "again"})
    await api("POST", TOXIC, {**LATENCY, "name": "again", "stream": "upstream"}, 409)
    await api("POST", TOXIC, {**LATENCY, "stream": "upstream", "attributes": None})
    names = [toxic["name"] for toxic in await api("GET", TOXIC)]
    assert names == ["latency_upstream", "latency_downstream", "again"]
    await api("DELETE", f"{TOXIC}/again", status=204)
    assert [toxic["name"] for toxic in await api("GET", TOXIC)] == names[:2]


async def test_populate_creates_replaces_and_leaves_alone(api: Client) -> None:
    """Proxies with the same addresses keep their toxics; others are replaced; wrong input creates none at all."""
    listen = await api.listen()
    await api("POST", TOXIC, LATENCY)
    same = {"name": "eu", "listen": listen.replace("127.0.0.1", "localhost"), "upstream": api.upstream}
    two = {"name": "two", "listen": "127.0.0.1:0", "upstream": api.upstream, "enabled": False}
    made = (await api("POST", "/populate", [same, two], 201))["proxies"]
    assert [(proxy["name"], proxy["enabled"], len(proxy["toxics"])) for proxy in made] == [
        ("eu", True, 1), ("two", False, 0)
    ]  # fmt: skip
    replaced = {**two, "listen": made[1]["listen"], "upstream": "127.0.0.1:1", "enabled": True}
    [again] = (await api("POST", "/populate", [replaced], 201))["proxies"]
    assert (again["enabled"], again["upstream"], again["listen"]) == (True, "127.0.0.1:1", made[1]["listen"])
    nameless = [{"name": "three", "upstream": "db:1"}, {"upstream": "db:1"}]
    error = {"error": "missing required field: name at proxy 2", "status": 400, "proxies": None}
    assert await api("POST", "/populate", nameless, 400) == error
    taken = [{"name": "three", "upstream": "db:1"}, {"name": "four", "upstream": "db:1", "listen": listen}]
    failed = await api("POST", "/populate", taken, 500)
    assert [proxy["name"] for proxy in failed["proxies"]] == ["three"]
    assert failed["error"] == f"listen tcp {listen}: bind: address already in use"
    assert sorted(await api("GET", "/proxies")) == ["eu", "three", "two"]


async def test_reset_enables_all_and_removes_all_toxics(api: Client) -> None:
    """Also those that were started by Python, which are listed under names of their own."""
    await api("POST", TOXIC, LATENCY)
    await api.proxies.inject("eu", faults.Latency(9, stream="upstream"), faults.Corrupt(7), faults.BlackHole())
    listed = await api("GET", TOXIC)
    assert [(toxic["name"], toxic["attributes"]) for toxic in listed] == [
        ("latency_upstream", {"latency": 9, "jitter": 0}),
        ("latency_downstream", {"latency": 5, "jitter": 0}),
        ("corrupt_downstream", faults.Corrupt(7).attributes()),
        ("black_hole_downstream", {}),
    ]
    await api("POST", "/proxies/eu", {"enabled": False})
    assert await api("POST", "/reset", status=204) is None
    proxy = await api("GET", "/proxies/eu")
    assert (proxy["enabled"], proxy["toxics"]) == (True, [])
    assert await answered(proxy["listen"]) == b"hello"
    await api.proxies.heal()


async def test_a_fault_that_the_api_removed_ends_its_block_well(api: Client) -> None:
    """A client may remove what a `fault` block started; the block's end has nothing left to undo."""
    async with api.proxies.fault("eu", faults.Latency(5)):
        await api("DELETE", f"{TOXIC}/latency_downstream", status=204)
        assert await answered(await api.listen()) == b"hello"
    assert await api("GET", TOXIC) == []


async def test_a_shards_proxy_may_be_created_again(api: Client) -> None:
    """As the clients' `populate` does: then it is that shard's again."""
    before = await api("GET", "/proxies/eu")
    await api("DELETE", "/proxies/eu", status=204)
    with pytest.raises(errors.UsageError, match=r"unknown shard 'eu': choose one of \[\]"):
        await api.proxies.inject("eu", faults.Down())
    assert await api("POST", "/proxies", before, 201) == before
    async with api.proxies.fault("eu", faults.Down()):
        assert not (await api("GET", "/proxies/eu"))["enabled"]


async def test_browsers_are_refused_and_paths_that_there_are_not(api: Client) -> None:
    """A page in a browser cannot reach the API; each answer has an ID, as Toxiproxy's."""
    page = await api.http.get("/proxies", headers={"User-Agent": "Mozilla/5.0 (X11)"})
    assert (page.status_code, page.text) == (403, "User agent not allowed\n")
    found = await api.http.get("/version")
    assert re.fullmatch("[0-9a-f]{20}", found.headers["X-Toxiproxy-Request-Id"])
    assert found.json()["version"] == VERSION
    missing = await api.http.get("/nothing")
    assert (missing.status_code, missing.text) == (404, "404 page not found\n")
    assert (await api.http.put("/proxies")).status_code == 405


async def test_metrics_count_what_passes(api: Client) -> None:
    """In Prometheus' format, by proxy, direction, listener and upstream."""
    made = await api("POST", "/proxies", {"name": 'a"b', "upstream": api.upstream}, 201)
    await api("POST", "/proxies/a%22b/toxics", {"type": "limit_data", "attributes": {"bytes": 2}})
    assert await answered(made["listen"]) == b"he"
    answer = await api.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = re.findall(
        rf'^toxiproxy_proxy_(\w+)_bytes_total\{{direction="(\w+)",listener="{made["listen"]}",'
        rf'proxy="a\\"b",upstream="{api.upstream}"\}} (\d+)$',
        answer.text,
        re.MULTILINE,
    )
    assert found == [
        ("received", "upstream", "5"), ("received", "downstream", "5"), ("sent", "upstream", "5"),
        ("sent", "downstream", "2"),
    ]  # fmt: skip
    assert "# TYPE toxiproxy_proxy_sent_bytes_total counter\n" in answer.text


async def test_one_api_at_an_address_that_is_free(api: Client) -> None:
    """A second one, and an address in use, are one line each."""
    with pytest.raises(errors.UsageError, match="the API is served already, at http"):
        await api.proxies.api(port=0)
    port = int(str(api.http.base_url.port))
    async with Proxies({}) as others:
        with pytest.raises(
            errors.UsageError, match=rf"cannot serve the API at 127.0.0.1:{port}: address already in use"
        ):
            await others.api(port=port)
    assert others.leftovers() == []

"""`labkit call` on a real Redis Cluster with nodes that are dead, frozen or without an address."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from labkit import Lab, faults
from labkit.cli.call.command import command
from tests.support.lateness import kept, mark
from tests.support.watching import comes_true, sockets

pytestmark = pytest.mark.asyncio(loop_scope="module")

WALL = 2.0
"""The promised limit in seconds as the shell sees it, Python's start included."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_lab() -> AsyncIterator[Lab]:
    """Three masters; containers make no difference to which node is asked."""
    async with Lab("redis-cluster", launcher="embedded") as lab:
        yield lab


def address(lab: Lab, shard: int) -> str:
    """host:port of a shard's master."""
    found = re.search(r"@(.+)/", lab.urls[shard])
    assert found is not None
    return found[1]


def start(lab: Lab, *shards: int) -> str:
    """A URL with the masters of these shards (all by default) as start-up nodes."""
    given = lab.urls[1].partition("@")[0]
    return f"{given}@" + ",".join(address(lab, shard) for shard in shards or (1, 2, 3))


def keys(lab: Lab, shard: int) -> list[str]:
    """The lines expected for one shard's master after KEYS '*'."""
    return [f"{address(lab, shard)}  master", f'  1) "{lab.tables[shard]}"']


async def promptly(*arguments: str) -> tuple[int, list[str], list[str]]:
    """The result of `shell` without the seconds, which must be less than `WALL`, not counting up to half a second in
    which processes waited for a CPU.
    """
    before = mark()
    code, out, err, seconds = await shell(*arguments)
    seconds -= kept(before)
    assert seconds < WALL
    return code, out, err


async def shell(*arguments: str) -> tuple[int, list[str], list[str], float]:
    """`labkit call …` run as a command: exit code, lines of stdout, lines of stderr, seconds."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "labkit",
        "call",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode().splitlines(), err.decode().splitlines(), time.perf_counter() - began


@pytest.fixture
def call(lab: Lab, capfd: pytest.CaptureFixture[str]) -> Any:
    """The command in this process: `await call("GET", "a")` returns (exit code, stdout, stderr)."""

    async def run(*words: str, url: str = "", **options: Any) -> tuple[int, str, str]:
        given = {"everywhere": False, "masters": False, "seconds": 2.0, "json": False, **options}
        code = await command(words, url=url or start(lab, 1), **given)
        return code, *capfd.readouterr()

    return run


async def test_all_nodes_answer_when_all_is_well(lab: Lab, call: Any) -> None:
    """Every node is listed by address with its role and reply; stderr stays empty."""
    code, out, err = await call("KEYS", "*", everywhere=True)
    assert (code, err) == (0, "")
    by_address = sorted((1, 2, 3), key=lambda shard: int(address(lab, shard).rpartition(":")[2]))
    assert out.splitlines() == [line for shard in by_address for line in keys(lab, shard)]
    code, out, err = await call("KEYS", "*", everywhere=True, masters=True, json=True)
    assert (code, err) == (0, "")
    answers = {address(lab, shard): [lab.tables[shard]] for shard in (1, 2, 3)}
    assert json.loads(out) == {"answers": answers, "failures": {}}


@pytest.mark.parametrize("shard", [1, 2, 3])
async def test_each_key_is_read_from_its_owner(lab: Lab, call: Any, shard: int) -> None:
    """Whichever node the command starts with, the reply is the owner's."""
    for first in (1, 2, 3):
        assert await call("ZCARD", lab.tables[shard], url=start(lab, first)) == (0, "(integer) 20\n", "")


async def test_the_server_says_which_words_are_keys(lab: Lab, call: Any) -> None:
    """A key is found even when it comes last or is one of several; a command without keys is answered too."""
    key = lab.tables[2]
    assert await call("EVAL", "return redis.call('ZCARD', KEYS[1])", "1", key) == (0, "(integer) 20\n", "")
    assert await call("EVAL", "return {1, 'ü', false}", "0") == (0, '1) (integer) 1\n2) "ü"\n3) (nil)\n', "")
    assert await call("ZUNIONSTORE", f"copy:{key}", "2", key, f"none:{key}") == (0, "(integer) 20\n", "")
    assert await call("DEL", f"copy:{key}") == (0, "(integer) 1\n", "")
    code, out, err = await call("ZADD", key)
    assert (code, out) == (1, "")
    assert err.endswith("  rejected: ERR wrong number of arguments for 'zadd' command\n")


async def test_a_key_on_its_way_is_found_where_it_is_going(lab: Lab, call: Any) -> None:
    """During a migration the old owner redirects with ASK, and `call` follows with ASKING."""
    old, new = await lab.admin(2), await lab.admin(1)
    key = f"new:{lab.tables[2]}"
    async with old, new:
        slot = await old.execute_command("CLUSTER KEYSLOT", key)
        ids = [(await node.execute_command("CLUSTER MYID")).decode() for node in (old, new)]
        await new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        await old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        try:
            assert await call("SET", key, "there") == (0, "OK\n", "")
            assert await new.execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 1
            assert await call("GET", key) == (0, '"there"\n', "")
            assert await call("ZCARD", lab.tables[2]) == (0, "(integer) 20\n", "")
            assert await call("DEL", key) == (0, "(integer) 1\n", "")
        finally:
            for node in (old, new):
                await node.execute_command("CLUSTER SETSLOT", slot, "STABLE")


async def test_a_blocking_command_ends_with_the_deadline(lab: Lab, call: Any) -> None:
    """The command ends at its deadline and leaves no socket."""
    before = sockets()
    code, out, err = await call("XREAD", "BLOCK", "0", "STREAMS", f"none:{lab.tables[2]}", "$", seconds=0.2)
    assert (code, out) == (1, "")
    assert err == f"labkit: {address(lab, 2)}  timeout: no answer within 0.2 s\n"
    assert await comes_true(lambda: sockets() <= before)


# Broken nodes come last: a node that comes back refuses writes for two seconds.


async def test_a_node_that_lost_its_identity_is_named(lab: Lab, call: Any) -> None:
    """When the cluster lists a slot owner at port 0, one line reports it, and the other nodes answer."""
    async with lab.fault(2, faults.LostIdentity()):
        code, out, err = await call("KEYS", "*", everywhere=True)
        assert code == 1
        assert {*keys(lab, 1), *keys(lab, 3)} <= set(out.splitlines())
        assert lab.tables[2] not in out
        assert re.fullmatch(r"node [0-9a-f]{8} +unreachable: no address \(port 0\)\n", err)
        code, out, err = await call("ZCARD", lab.tables[2])
        assert (code, out) == (1, "")
        assert "the cluster knows no address of the node that owns slot" in err
        assert err.endswith("(port 0)\n")
        assert await call("ZCARD", lab.tables[3], url=start(lab, 2, 3)) == (0, "(integer) 20\n", "")


async def test_a_dead_and_a_frozen_node_are_named_within_two_seconds(lab: Lab) -> None:
    """The third node answers, and exit code 1 reports the failures. The healthy start-up node may be the only one or
    the last of three; if the only start-up node is dead, one line says so.
    """
    async with lab.fault({2: faults.Kill(), 3: faults.Pause()}):
        for url in (start(lab, 1), start(lab, 3, 2, 1)):
            code, out, err = await promptly("--url", url, "--all", "KEYS", "*")
            assert (code, out) == (1, keys(lab, 1))
            assert sorted(err) == sorted(
                [
                    f"{address(lab, 2)}  unreachable: connection refused",
                    f"{address(lab, 3)}  timeout: no answer within 1 s",
                ]
            )
        code, out, err = await promptly("--url", start(lab, 2), "--all", "KEYS", "*")
        assert (code, out, len(err)) == (1, [], 1)
        assert f"({address(lab, 2)} unreachable: connection refused); name other nodes too, with commas" in err[0]

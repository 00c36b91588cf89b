"""Layouts on a Redis that is a dictionary: what was written is read back, and what is not a row is never returned."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as rx

from labkit._types import INT64_MAX, INT64_MIN
from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.shards.base import Ask
from labkit.shards.redis.layouts import LAYOUTS, keys, layout, member
from labkit.shards.redis.layouts.base import BATCH, KNOWN
from labkit.shards.redis.layouts.bulk import MAX_ONE_BY_ONE
from labkit.shards.redis.layouts.numbers import ids_inside
from labkit.shards.redis.layouts.sorted_set import EXACT
from labkit.tables import InvalidAnswer
from tests.support.scenes import in_window, quick

KEY = "data_2:{b}"
WITHOUT_ORDER = ("hash", "strings")
"""Of those that keep a row as JSON."""
JSON = ("sorted-set", *WITHOUT_ORDER)


class Memory:
    """The Redis commands that layouts use, on a dictionary; `commands` records the calls, `replies` maps a command to a
    canned reply.
    """

    def __init__(self, **replies: Any) -> None:
        self.keys: dict[bytes, Any] = {}
        self.commands: list[tuple[Any, ...]] = []
        self.replies = replies

    async def __call__(self, command: str, *words: Any) -> Any:
        self.commands.append((command, *words))
        if command in self.replies:
            reply = self.replies[command]
            if isinstance(reply, BaseException):
                raise reply
            return reply
        assert len(words) > (command == "HMGET"), f"wrong number of arguments for '{command}'"
        return self.do(command, *words)

    async def many(self, questions: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to several commands; an error is one of them."""
        replies = []
        for words in questions:
            try:
                replies.append(await self(*words))
            except rx.ResponseError as error:
                replies.append(error)
        return replies

    def do(self, command: str, *words: Any) -> Any:
        """Executes a command without recording it."""
        return getattr(self, command.lower() + "_" * (command == "DEL"))(*map(encoded, words))

    @property
    def names(self) -> list[str]:
        """The names of the recorded commands."""
        return [words[0] for words in self.commands]

    def fill(self, name: str, rows: Any, key: str = KEY) -> Memory:
        """Writes rows as the layout does."""
        for words in layout(name).write(key, rows):
            self.do(*words)
        return self

    def zadd(self, key: bytes, *words: bytes) -> int:
        members = self.keys.setdefault(key, {})
        members.update(zip(words[1::2], map(float, words[::2]), strict=True))
        return len(words) // 2

    def zrangebyscore(self, key: bytes, low: bytes, high: bytes, *limit: bytes) -> list[bytes]:
        pairs = sorted((score, one) for one, score in self.keys.get(key, {}).items())
        found = [one for score, one in pairs if float(low) <= score <= float(high)]
        return found[int(limit[1]) :][: int(limit[2])] if limit else found

    def hset(self, key: bytes, *words: bytes) -> int:
        self.keys.setdefault(key, {}).update(zip(words[::2], words[1::2], strict=True))
        return len(words) // 2

    def hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        return [self.hash(key).get(field) for field in fields]

    def hgetall(self, key: bytes) -> list[bytes]:
        return [word for pair in self.hash(key).items() for word in pair]

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        found = self.keys.get(key, {})
        if not isinstance(found, dict):
            raise rx.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return found

    def del_(self, *keys: bytes) -> int:
        return sum(self.keys.pop(key, None) is not None for key in keys)

    def mset(self, *words: bytes) -> bytes:
        self.keys.update(zip(words[::2], words[1::2], strict=True))
        return b"OK"

    def mget(self, *keys: bytes) -> list[bytes | None]:
        values = map(self.keys.get, keys)
        return [value if isinstance(value, bytes) else None for value in values]

    def exists(self, *keys: bytes) -> int:
        return sum(key in self.keys for key in keys)

    def type(self, key: bytes) -> bytes:
        return {bytes: b"string", dict: b"hash", type(None): b"none"}[type(self.keys.get(key))]

    def scan(self, cursor: bytes, match: bytes, pattern: bytes, count: bytes, number: bytes) -> list[Any]:
        """Seven keys at a time, with the last one repeated, as SCAN may do."""
        assert (match, count, number) == (b"MATCH", b"COUNT", b"%d" % BATCH)
        start = int(cursor)
        part = list(islice(self.keys, max(start - 1, 0), start + 7))
        following = start + 7 if start + 7 < len(self.keys) else 0
        return [b"%d" % following, [key for key in part if glob(pattern).fullmatch(key)]]


def encoded(word: Any) -> bytes:
    """A word as redis-py sends it."""
    return word if isinstance(word, bytes) else str(word).encode()


def glob(pattern: bytes) -> re.Pattern[bytes]:
    """Redis's glob patterns, without character classes, which are not used here."""
    assert not re.search(rb"(?<!\\)(\\\\)*\[", pattern)
    parts = re.findall(rb"\\.|.", pattern, re.DOTALL)
    wild = {b"*": b".*", b"?": b"."}
    return re.compile(b"".join(wild.get(part, re.escape(part[-1:])) for part in parts), re.DOTALL)


def an_ask(low: int | None = None, high: int | None = None, limit: int | None = None, columns: Any = None) -> Ask:
    return Ask(((INT64_MIN, INT64_MAX),), low, high, 0.0, limit, columns)


async def read(name: str, run: Memory, *window: Any, key: str = KEY) -> Answer:
    return await layout(name).read(run, key, an_ask(*window))


def rows_of(answer: Answer) -> list[tuple[Any, ...]]:
    """The rows of an answer, a table or not."""
    return (
        [tuple(row.values()) for row in answer.to_pylist()]
        if isinstance(answer, pa.Table)
        else list(map(tuple, answer))
    )


NAMES = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(["same", "[1]"])
IDS = st.one_of(
    st.integers(-30, 30),
    *(st.integers(at - 20, min(at + 20, INT64_MAX)) for at in (EXACT, -EXACT, INT64_MAX, INT64_MIN + 20)),
)
KEYS = st.sampled_from([KEY, "data", "d*[a-z]?\\^{t}", "ü:1", "data:"])


@quick
@given(st.sampled_from(LAYOUTS), st.dictionaries(IDS, NAMES, max_size=30), KEYS, st.data())
def test_what_is_written_is_read(name: str, rows: dict[int, str | None], key: str, data: st.DataObject) -> None:
    """Any rows, window and limit, beside other keys: the window's rows are returned exactly, in ascending order."""
    bound = st.none() | st.sampled_from([*rows, 0]) | IDS
    low, high = data.draw(bound), data.draw(bound)
    if low is not None and high is not None and low > high:
        low, high = high, low
    limit = data.draw(st.none() | st.integers(1, 12))
    run = Memory().fill(name, rows.items(), key).fill(name, [(1, "of another")], "dxa:q")
    got = asyncio.run(read(name, run, low, high, limit, key=key))
    inside = [row for row in sorted(rows.items()) if in_window(low, high, row[0])]
    found = rows_of(got)
    assert found[:limit] == inside[:limit]
    assert limit is not None or len(found) == len(inside)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_had_by_its_name(name: str) -> None:
    """`layout(name)` returns the layout of that name."""
    assert layout(name).name == name


@pytest.mark.parametrize("name", ["zset", "", "Hash", None, 7, []])
def test_an_unknown_layout_is_wrong_use(name: Any) -> None:
    """An unknown layout is a one-line error that lists those there are."""
    with pytest.raises(UsageError) as caught:
        layout(name)
    assert str(caught.value) == f"unknown layout {name!r}: write one of sorted-set, hash, strings, hashes"


def test_rows_are_written_with_one_command_a_batch() -> None:
    """A batch of rows is one command, or one for each hash; the decimal ID is the score, the field or the end of the
    key. A row of which nothing but the key is left has that.
    """
    rows = [(-5, None), (7, "ü")]
    assert {name: list(layout(name).write("k", rows)) for name in LAYOUTS} == {
        "hashes": [("DEL", "k:-5", "k:7"), ("HSET", "k:-5", "id", b"-5"), ("HSET", "k:7", "name", "ü".encode())],
        "sorted-set": [("ZADD", "k", -5, b"[-5,null]", 7, '[7,"ü"]'.encode())],
        "hash": [("HSET", "k", -5, b"[-5,null]", 7, '[7,"ü"]'.encode())],
        "strings": [("MSET", "k:-5", b"[-5,null]", "k:7", '[7,"ü"]'.encode())],
    }


@pytest.mark.parametrize("name", JSON)
def test_many_rows_are_written_in_batches(name: str) -> None:
    """Rows, also from a generator, are written in batches, which do not block the server; no rows, no command."""
    commands = list(layout(name).write("k", ((i, "x") for i in range(2 * BATCH + 1))))
    assert [words.count(member(i, "x")) for words, i in zip(commands, (0, BATCH, 2 * BATCH), strict=True)] == [1, 1, 1]
    assert list(layout(name).write("k", [])) == []


@pytest.mark.parametrize("name", WITHOUT_ORDER)
async def test_a_row_that_is_written_again_is_replaced(name: str) -> None:
    """Writing a row again replaces it: an ID has one field or one key."""
    assert await read(name, Memory().fill(name, [(1, "old"), (1, "new")])) == [(1, "new")]


@pytest.mark.parametrize(("name", "command"), [("hash", "HMGET"), ("strings", "MGET")])
@pytest.mark.parametrize(("low", "high"), [(5, 5), (-3, 8), (1, KNOWN), (INT64_MAX - 3, INT64_MAX)])
async def test_a_window_of_few_ids_is_asked_for_by_id(name: str, command: str, low: int, high: int) -> None:
    """A small window fetches every ID in it, whoever owns it, so that a misplaced row is detected."""
    run = Memory().fill(name, [(row_id, "x") for row_id in (low, high)])
    assert [row[0] for row in await read(name, run, low, high)] == sorted({low, high})
    first = run.commands[0]
    assert first[0] == command
    ids = [int(encoded(word).rpartition(b":")[2]) for word in first[2 if name == "hash" else 1 :]]
    assert ids == list(range(low, high + 1))
    assert "SCAN" not in run.names
    assert "HGETALL" not in run.names


@pytest.mark.parametrize(("name", "command"), [("hash", "HGETALL"), ("strings", "SCAN")])
@pytest.mark.parametrize("window", [(None, None), (1, None), (None, 1), (0, KNOWN), (INT64_MIN, INT64_MAX)])
async def test_any_other_window_is_a_look_at_all(name: str, command: str, window: Any) -> None:
    """Any other window scans everything: the server has no order to prune by."""
    run = Memory().fill(name, [(1, "x")])
    assert await read(name, run, *window) == [(1, "x")]
    assert run.names[0] == command


async def test_keys_is_never_asked_for() -> None:
    """KEYS, which blocks all other clients, is never used; SCAN and MGET take one batch of keys at a time."""
    run = Memory().fill("strings", [(i, "x") for i in range(2 * BATCH + 5)])
    assert len(await read("strings", run)) == 2 * BATCH + 5
    assert set(run.names) == {"SCAN", "EXISTS", "MGET"}
    assert max(map(len, run.commands)) <= BATCH + 1


async def test_no_keys_are_held_but_those_of_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys become numbers slice by slice: freeing a million objects at once would take a tenth of a second."""
    monkeypatch.setattr(keys, "SLICE", 20)
    looks = []

    def look(words: list[bytes], ask: Ask) -> Any:
        looks.append(len(words))
        return ids_inside(words, ask)

    monkeypatch.setattr(keys, "ids_inside", look)
    run = Memory().fill("strings", [(i, "x") for i in range(MAX_ONE_BY_ONE + 1)])
    table = await read("strings", run)
    assert table.column("id").to_pylist() == list(range(MAX_ONE_BY_ONE + 1))
    assert sum(looks) >= MAX_ONE_BY_ONE + 1
    assert set(looks[:-1]) == {20}
    assert looks[-1] <= 20


async def test_rows_of_many_commands_lie_side_by_side() -> None:
    """Rows of many commands become one chunk, since work on a table takes time per chunk."""
    table = await read("strings", Memory().fill("strings", [(i, "x") for i in range(2 * BATCH + 5)]))
    assert [len(chunk) for chunk in table.column(0).chunks if len(chunk)] == [2 * BATCH + 5]


async def test_a_page_of_strings_fetches_no_more_than_its_rows() -> None:
    """A page scans all keys but fetches only its own values."""
    run = Memory().fill("strings", [(i, "x") for i in range(100)])
    assert [row[0] for row in await read("strings", run, 40, None, 5)] == [40, 41, 42, 43, 44]
    assert [words[1:] for words in run.commands if words[0] == "MGET"] == [tuple(f"{KEY}:{i}" for i in range(40, 45))]


async def test_a_page_is_full_where_rows_go_while_it_is_read() -> None:
    """A page stays full if keys seen by SCAN are gone at the MGET: a short page would be taken for the last one."""
    run = Memory().fill("strings", [(i, "x") for i in range(100)])
    mget = run.mget

    def after_some_went(*keys: bytes) -> list[bytes | None]:
        for i in (2, 3, 4):
            run.keys.pop(f"{KEY}:{i}".encode(), None)
        return mget(*keys)

    run.mget = after_some_went  # type: ignore[method-assign]
    rows = await read("strings", run, 0, None, 5)
    assert [row[0] for row in rows][:5] == [0, 1, 5, 6, 7]


@pytest.mark.parametrize("error", [rx.MovedError("1 127.0.0.1:7001"), rx.AskError("1 127.0.0.1:7001")])
async def test_a_scan_of_a_node_that_gives_the_slot_away_is_no_answer(error: Exception) -> None:
    """SCAN silently omits keys of a migrating slot; the lookup of an absent key reveals the migration."""
    run = Memory(EXISTS=error).fill("strings", [(i, "x") for i in range(3)])
    with pytest.raises(type(error)):
        await read("strings", run)
    assert run.commands[-1] == ("EXISTS", f"{KEY}:")
    assert "MGET" not in run.names


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("window", [(None, None), (1, 5)])
async def test_errors_of_the_server_are_passed_on(name: str, window: Any) -> None:
    """A server's errors are passed on; the shard decides what they mean."""
    error = rx.ResponseError("NOPERM")
    run = Memory(ZRANGEBYSCORE=error, HMGET=error, HGETALL=error, SCAN=error, MGET=error)
    with pytest.raises(rx.ResponseError, match="NOPERM"):
        await read(name, run, *window)


@pytest.mark.parametrize("window", [(None, None), (1, 5)])
async def test_a_key_of_another_type_is_no_row_that_is_missing(window: Any) -> None:
    """A key of another type is invalid, though MGET silently skips it: a missing row would go unnoticed."""
    run = Memory().fill("strings", [(1, "x")])
    run.keys[f"{KEY}:3".encode()] = {}
    with pytest.raises(InvalidAnswer, match=r"key 'data_2:\{b\}:3' holds no row: its type is b'hash'"):
        await read("strings", run, *window)


async def test_a_row_that_is_written_while_it_is_asked_for_is_no_lie() -> None:
    """A row missing at the MGET but present at the EXISTS was written in between: the earlier answer stands."""
    run = Memory().fill("strings", [(1, "x")])
    exists = run.exists

    def after_a_write(*keys: bytes) -> int:
        run.fill("strings", [(3, "new")])
        return exists(*keys)

    run.exists = after_a_write  # type: ignore[method-assign]
    assert await read("strings", run, 1, 5) == [(1, "x")]


ODD = [b"Test 3", b"", b"3", b"null", b"[3]", b'[3,"a",2]', b'{"id":3}', b'[3,"a"', b"\xff", b"[" * 100_000, 7]


@pytest.mark.parametrize("raw", ODD, ids=lambda raw: repr(raw)[:12])
@pytest.mark.parametrize("window", [(None, None), (1, 5)])
@pytest.mark.parametrize("name", JSON)
async def test_a_value_that_is_no_row_is_invalid(name: str, window: Any, raw: Any) -> None:
    """In every layout a value is JSON [id, name]; the error for anything else is short."""
    run = Memory().fill(name, [(1, "x")])
    {
        "sorted-set": lambda: run.keys[KEY.encode()].update({raw: 3.0}),
        "hash": lambda: run.keys[KEY.encode()].update({b"3": raw}),
        "strings": lambda: run.keys.update({f"{KEY}:3".encode(): raw}),
    }[name]()
    if name == "strings" and not isinstance(raw, bytes):
        run.mget = lambda *keys: [run.keys.get(key) for key in keys]  # type: ignore[method-assign]
    if name == "sorted-set" and not isinstance(raw, bytes):
        run.replies["ZRANGEBYSCORE"] = [raw]
    with pytest.raises(InvalidAnswer, match="is not a row") as caught:
        await read(name, run, *window)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("raw", [b'[4,"a"]', b'["3","a"]', b'[3.0,"a"]', b'[true,"a"]', b'[null,"a"]'])
@pytest.mark.parametrize("window", [(None, None), (1, 5), (3, 3)])
@pytest.mark.parametrize("name", WITHOUT_ORDER)
async def test_a_row_under_the_id_of_another_is_invalid(name: str, window: Any, raw: bytes) -> None:
    """The value contains the ID too, so a row stored under another ID is detected."""
    run = Memory().fill(name, [(1, "x"), (3, "x")])
    where = run.keys[KEY.encode()] if name == "hash" else run.keys
    where[b"3" if name == "hash" else f"{KEY}:3".encode()] = raw
    with pytest.raises(InvalidAnswer, match="under id 3 is another row"):
        await read(name, run, *window)


@pytest.mark.parametrize("suffix", ["", "03", "+3", "3 ", "1_0", "x", "3:sessions", "\u0663", "1e3", "-0", "9" * 5000])
@pytest.mark.parametrize("name", WITHOUT_ORDER)
async def test_a_field_or_key_that_is_no_id_is_invalid(name: str, suffix: str) -> None:
    """An ID has one spelling, so no row occurs twice; every key below `key:` must be a row."""
    run = Memory().fill(name, [(1, "x")])
    where = run.keys[KEY.encode()] if name == "hash" else run.keys
    where[suffix.encode() if name == "hash" else f"{KEY}:{suffix}".encode()] = member(3, "x")
    with pytest.raises(InvalidAnswer, match="is not the id of a row"):
        await read(name, run)


@pytest.mark.parametrize(
    ("name", "replies"),
    [
        ("sorted-set", {"ZRANGEBYSCORE": None}),
        ("sorted-set", {"ZRANGEBYSCORE": b"OK"}),
        ("hash", {"HGETALL": 7}),
        ("hash", {"HGETALL": [b"1"]}),
        ("hash", {"HGETALL": [None, None]}),
        ("strings", {"SCAN": [b"0"]}),
        ("strings", {"SCAN": [b"0", b"x"]}),
        ("strings", {"SCAN": [b"0", [b"somebody else's"]]}),
        ("strings", {"SCAN": [b"0", [7]]}),
        ("strings", {"MGET": []}),
        ("strings", {"MGET": None}),
        ("hashes", {"SCAN": [b"0", b"x"]}),
        ("hashes", {"HGETALL": 7}),
        ("hashes", {"HGETALL": [b"name"]}),
        ("hashes", {"HGETALL": [None, None]}),
        ("hashes", {"HGETALL": [[b"name"], b"x"]}),
        ("hashes", {"HGETALL": [b"name", 7]}),
        ("hashes", {"HGETALL": [b"name", [b"x"]]}),
    ],
)
async def test_a_reply_of_another_shape_is_invalid(name: str, replies: dict[str, Any]) -> None:
    """Corrupt bytes may still be valid RESP: a reply of the wrong shape is invalid."""
    run = Memory(**replies).fill(name, [(1, "x")])
    with pytest.raises(InvalidAnswer):
        await read(name, run)


@pytest.mark.parametrize(("name", "command"), [("hash", "HMGET"), ("strings", "MGET")])
async def test_values_that_are_too_few_are_invalid(name: str, command: str) -> None:
    """There must be one value per requested ID; otherwise it is unknown which ID a value belongs to."""
    with pytest.raises(InvalidAnswer, match="1 elements, not 3"):
        await read(name, Memory(**{command: [member(1, "x")]}), 1, 3)


@pytest.mark.parametrize("name", LAYOUTS)
async def test_a_window_that_holds_nothing_is_no_rows(name: str) -> None:
    """A missing key, an empty window or a reversed one gives no rows."""
    for run in (Memory(), Memory().fill(name, [(100, "x")])):
        for window in [(1, 5), (5, 1), (None, 5), (101, None)]:
            assert rows_of(await read(name, run, *window)) == []


def test_what_hears_of_changes() -> None:
    """One key per table subscribes to its channel; a key per row, to a pattern that matches no other table."""
    for name in ("sorted-set", "hash"):
        assert layout(name).subscription("a*[b]\\", 3) == ("SUBSCRIBE", "__keyspace@3__:a*[b]\\")
    command, pattern = layout("strings").subscription("a*[b]\\", 3)
    assert (command, pattern) == ("PSUBSCRIBE", r"__keyspace@3__:a\*\[b\]\\:*")
    assert glob(pattern.encode()).fullmatch(b"__keyspace@3__:a*[b]\\:1")
    assert not glob(pattern.encode()).fullmatch(b"__keyspace@3__:aab\\:1")

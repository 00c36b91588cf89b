"""The layer between asyncpg and the event loop: SCRAM, bounds on what a server sends, nothing left open."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import threading
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import Mock, call

import asyncpg
import pytest

from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import RangeRouter
from labkit.shards import MemoryShard
from labkit.shards.base import Ask, ShardFailure
from labkit.shards.postgres import PostgresShard
from labkit.shards.postgres.scram import MOST_ROUNDS, Scram, derived, prepared
from labkit.shards.postgres.wire import DESCRIPTION_LIMIT, LOGIN_LIMIT, Line
from tests.support.mocks import SECRET, eventually, in_time, read_alone, report_of, seconds_for, serving

pytestmark = pytest.mark.usefixtures("no_task_left")

FEW = 4096


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (4 + len(body)).to_bytes(4) + body


READY = message(b"Z", b"I")
LET_IN = message(b"R", bytes(4)) + message(b"S", b"server_version\x0016.0\0")
LOGGED_IN = LET_IN + READY


def columns(*types: int) -> bytes:
    """A statement without parameters and with columns of these types (OIDs of pg_type)."""
    described = [b"name\0" + bytes(6) + kind.to_bytes(4) + bytes(8) for kind in types]
    return message(b"t", bytes(2)) + message(b"T", len(types).to_bytes(2) + b"".join(described))


def row(*fields: bytes | None) -> bytes:
    sized = (b"\xff" * 4 if field is None else len(field).to_bytes(4) + field for field in fields)
    return message(b"D", len(fields).to_bytes(2) + b"".join(sized))


def value(oid: int, content: bytes) -> bytes:
    """A value in a record."""
    return oid.to_bytes(4) + len(content).to_bytes(4) + content


SELECTED = message(b"C", b"SELECT 1\0")


ANSWERS = {
    b"P": message(b"1", b""),
    b"D": columns(23, 25),
    b"B": message(b"2", b""),
    b"E": row((7).to_bytes(4), b"Test 7") + SELECTED,
    b"S": READY,
}
"""The server's reply to each message of a query, by kind."""
CATALOGUE = [
    (name, oid.to_bytes(4), b"\xff" * 4, bytes(4), b"\0", b"", oid.to_bytes(4), (2).to_bytes(8))
    for name, oid in ((b"id", 23), (b"name", 25))
]
ABOUT_TABLE = message(b"t", b"\0\1" + (2205).to_bytes(4))
CATALOGUED = ANSWERS | {
    b"D": ABOUT_TABLE + columns(19, 26, 23, 23, 16, 25, 26, 20)[7:],
    b"E": b"".join(row(*column) for column in CATALOGUE) + SELECTED,
}
"""The same for the question which columns the table has: id and name."""
RECORD = row(*[None] * 8, (2).to_bytes(4) + b"".join(map(value, (23, 25), ((7).to_bytes(4), b"Test 7"))))
FIRST = ANSWERS | {
    b"D": ABOUT_TABLE + columns(19, 26, 23, 23, 16, 25, 26, 20, 17)[7:],
    b"E": b"".join(row(*column, None) for column in CATALOGUE) + RECORD + SELECTED,
}
"""The same for the first read, which asks for both at once."""
RECOVERY = ANSWERS | {b"D": columns(16), b"E": row(b"\0") + SELECTED}
"""The same for the query whether the server is a replica."""


def refusal(state: str, text: str) -> bytes:
    return message(b"E", f"SFATAL\0C{state}\0M{text}\0\0".encode())


def sasl(kind: int, body: bytes) -> bytes:
    return message(b"R", kind.to_bytes(4) + body)


async def heard(reader: asyncio.StreamReader, kind: bool = True) -> bytes:
    """The content of the client's next message; its first message has no kind byte."""
    if kind:
        await reader.readexactly(1)
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)


class Server:
    """A Postgres server with one row that speaks SCRAM with this password and then sends `session`; `flaw` names how it
    misbehaves.
    """

    def __init__(self, password: str = SECRET, rounds: int = FEW, flaw: str = "", session: bytes = LOGGED_IN) -> None:
        self.password, self.rounds, self.flaw, self.session = password, rounds, flaw, session
        self.answers = ANSWERS
        self.special = {b"recovery": RECOVERY, b"NULL::bytea": FIRST, b"pg_attribute": CATALOGUED}
        """Replies to statements that contain that word, instead of `answers`."""
        self.piece = FEW
        """Bytes sent at a time once the client has logged in."""
        self.salt = f"salt of {password}".encode()
        self.farewell = b""
        """What it says, and hangs up, instead of answering the next query."""
        self.sessions = 0
        self.asked: list[bytes] = []
        self.writer: asyncio.StreamWriter

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        await heard(reader, kind=False)
        if self.flaw == "out of turn":
            writer.write(sasl(11, b"r=x,s=eA==,i=1"))
        writer.write(sasl(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"))
        if await self._knows(reader, writer):
            if self.flaw == "endless":
                await self._endless(writer)
            await self._say(writer, READY if self.flaw == "no word" else self.session)
        else:
            writer.write(refusal("28P01", "password authentication failed"))
        if self.flaw == "gone":
            for _ in "PDH":  # the query: closing a socket with unread data resets the connection
                await heard(reader)
            return
        if self.flaw:
            writer.write(b"".join(ANSWERS.values()))
        await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer, answers = writer, self.answers
        while kind := await reader.read(1):
            self.asked.append(kind + await heard(reader, kind=False))
            if self.farewell and kind == b"S":
                writer.write(self.farewell)
                self.farewell = b""
                return
            if kind in (b"P", b"Q"):
                special = (answers for word, answers in self.special.items() if word in self.asked[-1])
                answers = next(special, self.answers)
            await self._say(writer, answers.get(kind, b""))

    async def _say(self, writer: asyncio.StreamWriter, text: bytes) -> None:
        for begin in range(0, len(text), self.piece):
            writer.write(text[begin : begin + self.piece])
            await asyncio.sleep(0)

    async def _knows(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        mechanism, _, rest = (await heard(reader)).partition(b"\0")
        assert mechanism == b"SCRAM-SHA-256"
        gs2, bare = rest[4:7], rest[7:]
        nonce = bare.partition(b"r=")[2]
        whole = {"nonce": b"other", "same nonce": nonce}.get(self.flaw, nonce + b"more")
        first = b"r=%b,s=%b,i=%d" % (whole, b64encode(self.salt), self.rounds)
        writer.write(sasl(11, b"nonsense" if self.flaw == "nonsense" else first))
        if self.flaw == "twice":
            writer.write(sasl(11, first))
        if self.flaw == "early":
            return True
        unproved, _, proof = (await heard(reader)).partition(b",p=")
        assert unproved == b"c=" + b64encode(gs2) + b",r=" + whole
        key = hashlib.pbkdf2_hmac("sha256", prepared(self.password).encode(), self.salt, self.rounds)
        signed = b",".join((bare, first, unproved))
        client = hmac.digest(key, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client).digest(), signed, "sha256")
        if b64decode(proof) != bytes(a ^ b for a, b in zip(client, signature, strict=True)):
            return False
        proof = hmac.digest(hmac.digest(key, b"Server Key", "sha256"), signed, "sha256")
        if self.flaw not in ("unsigned", "no word"):
            writer.write(sasl(12, b"v=" + b64encode(b"x" * 32 if self.flaw == "signature" else proof)))
        return True

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        writer.write(message(b"R", bytes(4)))
        while True:
            writer.write(message(b"S", b"name\0" + b"x" * 65536 + b"\0"))
            await writer.drain()


@asynccontextmanager
async def shard_of(server: Server, password: str = SECRET, options: str = "") -> AsyncIterator[PostgresShard]:
    """A shard that connects to `server`."""
    async with serving(server) as port:
        shard = PostgresShard(f"postgresql://u@127.0.0.1:1/d?ssl=disable{options}", "t", columns=["name"])
        shard._server._args |= {"port": port, "password": password}
        yield shard
        await shard.aclose()


@pytest.mark.parametrize("password", [SECRET, "pässwörd", "I\u00adX", "\u2168", "a\u00a0b", "", "x" * 500])
async def test_a_password_of_any_kind_is_proved(password: str) -> None:
    """Any password logs in, prepared as Postgres prepares it."""
    server = Server(password)
    async with shard_of(server, password) as shard:
        await report_of(shard)
        assert server.asked[0].startswith(b"P")


async def test_a_wrong_password_is_rejected_in_the_servers_words() -> None:
    """A wrong password is REJECTED in the server's words."""
    async with shard_of(Server("another")) as shard:
        report = await report_of(shard)
    assert (report.status, report.error) == (Status.REJECTED, "password authentication failed")


@pytest.mark.parametrize("piece", [FEW, 1])
async def test_the_first_question_goes_with_the_proof(piece: int) -> None:
    """The first query is sent along with the proof and not repeated; its answer may arrive in pieces."""
    server = Server()
    server.piece = piece
    async with shard_of(server) as shard:
        tables = [(await read_alone(shard)).table.to_pylist() for _ in range(3)]
    assert tables == [[{"id": 7, "name": "Test 7"}]] * 3
    assert b"".join(asked[:1] for asked in server.asked) == b"PDHBES" + b"PDHBES" + b"BES"
    assert b"pg_attribute" in server.asked[0]


WIDE = f"a description of columns of more than {DESCRIPTION_LIMIT} bytes, the limit"


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (ANSWERS[b"P"] + FIRST[b"D"], Status.OK, None),
        (ANSWERS[b"P"] + columns(*[23] * 1_665), Status.INVALID, WIDE),
        (refusal("42P01", 'relation "t" does not exist'), Status.REJECTED, 'relation "t" does not exist'),
    ],
)
async def test_its_answer_may_be_there_before_the_driver_asks(answer: bytes, status: Status, error: str | None) -> None:
    """An answer that arrives before the driver queries is held for it, with the same bounds as a later one."""
    server = Server(session=LOGGED_IN + answer)
    server.special = {b"pg_attribute": FIRST | {b"P": b"", b"D": b""}}
    async with shard_of(server) as shard:
        report = await report_of(shard)
    assert (report.status, report.error) == (status, error)


async def test_an_answer_is_heard_before_the_end_of_the_connection() -> None:
    """If a pooler answers the first query with an error and hangs up, the error is reported, not only the hang-up."""
    async with shard_of(Server(flaw="gone", session=LOGGED_IN + refusal("08P01", "server login failed"))) as shard:
        report = await report_of(shard)
    assert report.status is Status.DISCONNECTED
    told = tuple(map(int, asyncpg.__version__.split(".")[:2])) >= (0, 32)
    assert report.error == ("server login failed" if told else "connection was closed in the middle of operation")
    inner = Mock()
    line = Line(inner, set())
    line.transport = Mock()
    line.begin(b"question", ANSWERS[b"P"])
    line.write(b"question")
    line.connection_lost(None)  # TLS reports both at once
    assert inner.mock_calls == [call.data_received(ANSWERS[b"P"]), call.connection_lost(None)]


async def test_where_something_else_is_asked_first_that_is_answered() -> None:
    """If the driver first queries whether the server is writable, it does not get the early query's answer."""
    server = Server()
    async with shard_of(server, options="&target_session_attrs=read-write") as shard:
        assert (await read_alone(shard)).table.to_pylist() == [{"id": 7, "name": "Test 7"}]
    assert b"".join(asked[:1] for asked in server.asked) == b"PDH" + b"S" + b"PDHPBES" + b"PDHBES"


@pytest.mark.parametrize("let_in", [b"", LET_IN])
@pytest.mark.parametrize(
    ("state", "status"),
    [("28P01", Status.REJECTED), ("3D000", Status.REJECTED), ("53300", Status.REJECTED), ("57P03", Status.UNREACHABLE)],
)
async def test_a_refusal_behind_the_proof_has_the_servers_words(let_in: bytes, state: str, status: Status) -> None:
    """A refusal after the proof has the server's words, though the first query is already on its way."""
    async with shard_of(Server(session=let_in + refusal(state, "not you"))) as shard:
        report = await report_of(shard)
    assert (report.status, report.error) == (status, "not you")


@pytest.mark.parametrize("said", [b"", LET_IN])
@pytest.mark.parametrize(("flaw", "status"), [("gone", Status.UNREACHABLE), ("", Status.TIMEOUT)])
async def test_a_login_that_stops_in_the_middle(said: bytes, flaw: str, status: Status) -> None:
    """If the server hangs up or falls silent during login, the read ends in time and leaves nothing open."""
    async with shard_of(Server(flaw=flaw, session=said)) as shard:
        assert (await report_of(shard, seconds=seconds_for(status))).status is status
        await eventually(lambda: not shard._server.pool()._lines)


FLAWS = {
    "out of turn": "the server violated the SCRAM protocol",
    "twice": "the server violated the SCRAM protocol",
    "nonce": "the server violated the SCRAM protocol",
    "same nonce": "the server violated the SCRAM protocol",
    "nonsense": "the server violated the SCRAM protocol",
    "signature": "the server does not know the password: its signature is wrong",
    "unsigned": "the server accepted the login without proving that it knows the password",
    "no word": "the server accepted the login without proving that it knows the password",
    "early": "the server accepted the login without proving that it knows the password",
    "endless": f"an answer of more than {LOGIN_LIMIT} bytes, the limit",
}


@pytest.mark.parametrize("flaw", FLAWS)
async def test_the_rows_of_a_server_that_lies_are_nobodys(flaw: str) -> None:
    """A server that does not prove it knows the password is not believed and receives no more than the first query; the
    socket is closed.
    """
    server = Server(flaw=flaw)
    async with shard_of(server) as shard:
        result = await read_alone(shard)
        report = result.reports[1]
        assert report.status is (Status.INVALID if flaw == "endless" else Status.ERROR)
        assert report.error == FLAWS[flaw]
        await eventually(lambda: not shard._server.pool()._lines)
    assert not result.table.num_rows
    assert b"PDH".startswith(b"".join(asked[:1] for asked in server.asked))


@pytest.mark.parametrize("piece", [message(b"n", b""), message(b"S", b"a\0b\0")])
async def test_small_messages_without_end_are_cut_before_a_session_begins(piece: bytes) -> None:
    """Endless small messages before login are cut at a low limit, since each costs event loop time."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        while True:
            writer.write(piece * FEW)
            await writer.drain()

    async with serving(endless) as port:
        shard = PostgresShard(f"postgresql://u:p@127.0.0.1:{port}/d?ssl=disable", "t")
        report = await report_of(shard)
        await shard.aclose()
    assert (report.status, report.error) == (Status.INVALID, f"an answer of more than {LOGIN_LIMIT} bytes, the limit")


@pytest.mark.parametrize("rounds", [MOST_ROUNDS + 1, 2**31 - 1, 9_999_999_999])
async def test_more_rounds_than_the_limit_are_refused_at_once(rounds: int) -> None:
    """Too many SCRAM rounds are refused at once, and the error names the number."""
    async with shard_of(Server(rounds=rounds)) as shard:
        report = await report_of(shard)
    assert report.status is Status.ERROR
    assert report.error == f"the server requests {rounds} rounds of SCRAM, more than the limit of {MOST_ROUNDS}"


async def test_many_rounds_stop_nobody_else() -> None:
    """While a key is derived the deadline holds, another shard answers, and the thread ends on its own."""
    before = threading.active_count()
    async with shard_of(Server(rounds=MOST_ROUNDS)) as shard:
        shards = {1: shard, 2: MemoryShard([(11, "a")], delay=0.05)}
        reader = ShardReader(RangeRouter({1: [(1, 10)], 2: [(11, 20)]}), shards, timeout=0.2)
        result = await in_time(reader.read(), 0.2)
    assert (result.reports[1].status, result.reports[2].status) == (Status.TIMEOUT, Status.OK)
    await eventually(lambda: threading.active_count() == before, seconds=20)


async def test_a_key_is_derived_once() -> None:
    """A key is derived once for all connections with the same password and salt."""
    keys = {derived("once", b"salt", FEW) for _ in range(5)}
    assert len(keys) == 1
    assert derived("once", b"other salt", FEW) not in keys
    assert keys.pop().result() == hashlib.pbkdf2_hmac("sha256", b"once", b"salt", FEW)


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"N", b"SNOTICE\0C00000\0Mhello\0\0"), (b"S", b"name\0value\0"), (b"T", b"x" * 70000), (b"t", b"\0" * 70000)],
)
async def test_an_answer_without_end_is_cut(kind: bytes, body: bytes) -> None:
    """An endless answer of any kind is cut at the byte limit or at the deadline, and the socket is closed."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        writer.write(LOGGED_IN)
        await reader.read(1)
        while True:
            writer.write(message(kind, body) * 20)
            await writer.drain()

    async with serving(endless) as port:
        shard = PostgresShard(f"postgresql://u:p@127.0.0.1:{port}/d?ssl=disable", "t", answer_limit=1 << 20)
        report = await report_of(shard)
        assert report.status in (Status.INVALID, Status.TIMEOUT)
        await eventually(lambda: not shard._server.pool()._lines)
        await shard.aclose()


@pytest.mark.parametrize(
    ("kind", "what"),
    [(b"T", f"a description of columns of more than {DESCRIPTION_LIMIT}"), (b"D", "an answer of more than 1048576")],
)
async def test_a_field_without_end_is_cut_at_the_limit(kind: bytes, what: str) -> None:
    """A message that announces 2 GB is cut at the limit, and the error names the limit."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        writer.write(LOGGED_IN)
        await reader.read(FEW)
        if kind == b"D":
            writer.write(ANSWERS[b"P"] + FIRST[b"D"])
            await reader.read(FEW)
        writer.write(kind + (2**31 - 1).to_bytes(4))
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with serving(endless) as port:
        shard = PostgresShard(f"postgresql://u:p@127.0.0.1:{port}/d?ssl=disable", "t", answer_limit=1 << 20)
        report = await report_of(shard, seconds=2.0)
        await shard.aclose()
    assert (report.status, report.error) == (Status.INVALID, f"{what} bytes, the limit")


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("count", [1_665, 32_767, 65_535])
async def test_more_columns_than_a_statement_has_are_refused(count: int, bulk: bool) -> None:
    """A description of too many columns is refused: the driver would parse it in one go on the event loop."""

    async def wide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        writer.write(LOGGED_IN)
        await reader.read(FEW)
        writer.write(ANSWERS[b"P"] + columns(*[23] * count))
        await reader.read(-1)

    async with serving(wide) as port:
        shard = PostgresShard(f"postgresql://u:p@127.0.0.1:{port}/d?ssl=disable", "t", bulk=bulk)
        report = await report_of(shard)
        await shard.aclose()
    assert (report.status, report.error) == (Status.INVALID, WIDE)


@pytest.mark.parametrize(("state", "status"), [("57P05", Status.OK), ("57P01", Status.DISCONNECTED)])
async def test_a_farewell_that_crossed_the_question_costs_no_read(state: str, status: Status) -> None:
    """After an idle timeout the query, which cannot have been read, is sent again; after a shutdown it is not."""
    server = Server()
    async with shard_of(server) as shard:
        assert (await report_of(shard)).status is Status.OK
        server.answers = {**ANSWERS, b"B": b"", b"E": b""}
        server.farewell = refusal(state, "terminating connection")
        reading = asyncio.create_task(report_of(shard, seconds=seconds_for(status)))
        await eventually(lambda: not server.farewell)
        server.answers = ANSWERS
        assert (await reading).status is status
    assert server.sessions == (2 if status is Status.OK else 1)


async def test_names_are_looked_up_by_the_resolver_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are resolved outside the default executor, which a hanging lookup would block; every address is tried."""

    async def found(host: str, _port: int) -> list[object]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port)) for port in (1, right)]

    asked: list[str] = []
    server = Server()
    async with serving(server) as right:
        monkeypatch.setattr("labkit._resolve.resolve", found)
        shard = PostgresShard(f"postgresql://u:{SECRET}@db.example:5432/d?ssl=disable", "t")
        await report_of(shard)
        await shard.aclose()
    assert asked == ["db.example"]
    assert server.asked[0].startswith(b"P")


def test_the_exchange_of_rfc_7677() -> None:
    """The messages equal those of the RFC's example, to the byte."""
    scram = Scram()
    scram._nonce, scram._bare = b"rOprNGfwEbeRWgbNEkqO", b"n=user,r=rOprNGfwEbeRWgbNEkqO"
    said = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    salt, rounds = scram.challenged(said)
    assert scram.final(derived("pencil", salt, rounds).result()) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert scram.is_signed(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert not scram.is_signed(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=")
    assert not Scram().is_signed(b"v=")


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u3000b", "a b"),
        ("a\u0007ü", "a\u0007ü"),  # prohibited: unchanged
        ("\u0627\u0031", "\u0627\u0031"),  # both directions: unchanged
        ("\u00ad", "\u00ad"),  # nothing would be left: unchanged
    ],
)
def test_passwords_are_prepared_as_rfc_4013_says(password: str, said: str) -> None:
    """The examples of the RFC; a password that it prohibits is used unchanged, as in Postgres."""
    assert prepared(password) == said


async def test_closing_when_the_time_of_a_dial_is_just_up() -> None:
    """Closing a shard just as a dial is being cancelled raises nothing and leaves nothing open."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []
    async with serving(silent) as port:
        shard = PostgresShard(f"postgresql://u@127.0.0.1:{port}/d", "t")
        deadline = loop.time() + 0.1
        read = asyncio.create_task(shard.read(Ask(((1, 10),), None, None, deadline)))
        loop.call_at(deadline, lambda: closing.append(asyncio.create_task(shard.aclose())))
        with pytest.raises((TimeoutError, ShardFailure)):
            await read
        await closing[0]

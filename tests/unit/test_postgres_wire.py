"""What stands between asyncpg and the event loop: SCRAM beside it, bounds on what a server sends, nothing left open."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import threading
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from labkit.reader import ShardReader
from labkit.router import RangeRouter
from labkit.shards import MemoryShard
from labkit.shards.postgres import PostgresShard
from labkit.shards.postgres_scram import MOST_ROUNDS, Scram, derived, prepared
from labkit.shards.postgres_wire import DESCRIPTION_LIMIT, LOGIN_LIMIT
from labkit.status import Status
from tests.unit.mocks import SECRET, eventually, in_time, report_of, serving

pytestmark = pytest.mark.usefixtures("no_task_left")

FEW = 4096


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (4 + len(body)).to_bytes(4) + body


READY = message(b"Z", b"I")
LET_IN = message(b"R", bytes(4)) + message(b"S", b"server_version\x0016.0\0")
LOGGED_IN = LET_IN + READY


def columns(*types: int) -> bytes:
    """No parameters, and the description of columns of these types, by their numbers in pg_type."""
    described = [b"name\0" + bytes(6) + kind.to_bytes(4) + bytes(8) for kind in types]
    return message(b"t", bytes(2)) + message(b"T", len(types).to_bytes(2) + b"".join(described))


def row(*fields: bytes) -> bytes:
    content = b"".join(len(field).to_bytes(4) + field for field in fields)
    return message(b"D", len(fields).to_bytes(2) + content) + message(b"C", b"SELECT 1\0")


ANSWERS = {
    b"P": message(b"1", b""),
    b"D": columns(23, 25),
    b"B": message(b"2", b""),
    b"E": row((7).to_bytes(4), b"Test 7"),
    b"S": READY,
}
"""What a server says to each message of a question, by its kind."""


def sasl(kind: int, body: bytes) -> bytes:
    return message(b"R", kind.to_bytes(4) + body)


async def heard(reader: asyncio.StreamReader, kind: bool = True) -> bytes:
    """The content of the next message of the client; the first has no kind."""
    if kind:
        await reader.readexactly(1)
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)


class Server:
    """A Postgres server that speaks SCRAM with this password; each flaw is a lie of it."""

    def __init__(self, password: str = SECRET, rounds: int = FEW, flaw: str = "", mechanisms: str = "") -> None:
        self.password, self.rounds, self.flaw = password, rounds, flaw
        self.mechanisms = mechanisms or "SCRAM-SHA-256-PLUS SCRAM-SHA-256"
        self.salt = f"salt of {password}".encode()
        self.asked: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        if self.flaw == "out of turn":
            writer.write(sasl(11, b"r=x,s=eA==,i=1"))
        writer.write(sasl(10, b"".join(name.encode() + b"\0" for name in self.mechanisms.split()) + b"\0"))
        if await self._knows(reader, writer):
            if self.flaw == "endless":
                await self._endless(writer)
            writer.write(READY if self.flaw == "no word" else LOGGED_IN)
        else:
            writer.write(message(b"E", b"SFATAL\0C28P01\0Mpassword authentication failed\0\0"))
        while not reader.at_eof():
            self.asked.append(await reader.read(FEW))

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
async def shard_of(server: Server, password: str = SECRET) -> AsyncIterator[PostgresShard]:
    """A shard whose server is that, by its name."""
    async with serving(server) as port:
        shard = PostgresShard("postgresql://u@127.0.0.1:1/d?ssl=disable", "t")
        shard._server._args |= {"port": port, "password": password}
        yield shard
        await shard.aclose()


@pytest.mark.parametrize("password", [SECRET, "pässwörd", "I\u00adX", "\u2168", "a\u00a0b", "", "x" * 500])
async def test_a_password_of_any_kind_is_proved(password: str) -> None:
    """The session begins, and the question is asked; the password is prepared as Postgres does."""
    server = Server(password)
    async with shard_of(server, password) as shard:
        await report_of(shard)
        assert server.asked[0].startswith(b"P")


async def test_a_wrong_password_is_rejected_in_the_servers_words() -> None:
    """The proof is wrong, and the server says so."""
    async with shard_of(Server("another")) as shard:
        report = await report_of(shard)
    assert (report.status, report.error) == (Status.REJECTED, "password authentication failed")


WIDE = f"a description of columns of more than {DESCRIPTION_LIMIT} bytes, the limit"

FLAWS = {
    "out of turn": "the server's part of SCRAM is none",
    "twice": "the server's part of SCRAM is none",
    "nonce": "the server's part of SCRAM is none",
    "same nonce": "the server's part of SCRAM is none",
    "nonsense": "the server's part of SCRAM is none",
    "signature": "the server does not know the password: its signature is wrong",
    "unsigned": "the server let the client in and did not prove that it knows the password",
    "no word": "the server let the client in and did not prove that it knows the password",
    "early": "the server let the client in and did not prove that it knows the password",
    "endless": f"an answer of more than {LOGIN_LIMIT} bytes, the limit",
}


@pytest.mark.parametrize("flaw", FLAWS)
async def test_a_server_that_lies_is_not_asked(flaw: str) -> None:
    """Who does not prove that it knows the password gets no question; the socket is closed."""
    server = Server(flaw=flaw)
    async with shard_of(server) as shard:
        report = await report_of(shard)
        assert report.status is (Status.INVALID if flaw == "endless" else Status.ERROR)
        assert report.error == FLAWS[flaw]
        await eventually(lambda: not shard._server.pool()._lines)
    assert not b"".join(server.asked).startswith(b"P")


async def test_a_message_of_no_kind_is_refused() -> None:
    """While it logs a client in; the driver's loop over messages would never end."""

    async def zeros(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        writer.write(bytes(100))
        await reader.read(-1)

    async with serving(zeros) as port:
        shard = PostgresShard(f"postgresql://u:p@127.0.0.1:{port}/d?ssl=disable", "t")
        report = await report_of(shard)
        await shard.aclose()
    assert (report.status, report.error) == (Status.INVALID, "the answer cannot be understood: a message of no kind")


@pytest.mark.parametrize("piece", [message(b"X", b""), message(b"S", b"a\0b\0")])
async def test_small_messages_without_end_are_cut_before_a_session_begins(piece: bytes) -> None:
    """Each costs time of the event loop, so their limit is low."""

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
    """And the number is named."""
    async with shard_of(Server(rounds=rounds)) as shard:
        report = await report_of(shard)
    assert report.status is Status.ERROR
    assert report.error == f"the server asks for {rounds} rounds of SCRAM; more than {MOST_ROUNDS} are not done"


async def test_many_rounds_stop_nobody_else() -> None:
    """The deadline holds, a shard beside it answers, and the thread ends by itself."""
    before = threading.active_count()
    async with shard_of(Server(rounds=MOST_ROUNDS)) as shard:
        shards = {1: shard, 2: MemoryShard([(11, "a")], delay=0.05)}
        reader = ShardReader(RangeRouter({1: [(1, 10)], 2: [(11, 20)]}), shards, timeout=0.2)
        result = await in_time(reader.read(), 0.2)
    assert (result.reports[1].status, result.reports[2].status) == (Status.TIMEOUT, Status.OK)
    await eventually(lambda: threading.active_count() == before, seconds=20)


async def test_a_key_is_derived_once() -> None:
    """A pool of connections, and shards with the same user, pay for one."""
    keys = {derived("once", b"salt", FEW) for _ in range(5)}
    assert len(keys) == 1
    assert derived("once", b"other salt", FEW) not in keys
    assert keys.pop().result() == hashlib.pbkdf2_hmac("sha256", b"once", b"salt", FEW)


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"N", b"SNOTICE\0C00000\0Mhello\0\0"), (b"S", b"name\0value\0"), (b"T", b"x" * 70000), (b"t", b"\0" * 70000)],
)
async def test_an_answer_without_end_is_cut(kind: bytes, body: bytes) -> None:
    """Whatever it consists of: at the limit of bytes, or at the deadline, and the socket is closed."""

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
    """A message that says it has 2 GB is held up to the limit, and the limit is named."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader, kind=False)
        writer.write(LOGGED_IN)
        await reader.read(FEW)
        if kind == b"D":
            writer.write(ANSWERS[b"P"] + ANSWERS[b"D"])
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
    """The driver would read them at one go, on the event loop."""

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
    """A session that was idle too long has heard no question, so another is asked; one that was ended may have."""
    farewell = message(b"E", b"SFATAL\0C" + state.encode() + b"\0Mterminating connection\0\0")
    described = message(b"1", b"") + message(b"t", bytes(2)) + message(b"T", bytes(2))
    done = message(b"2", b"") + message(b"C", b"SELECT 0\0") + message(b"Z", b"I")
    sessions: list[asyncio.StreamWriter] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sessions.append(writer)
        await heard(reader, kind=False)
        writer.write(LOGGED_IN)
        for answer in (described, done, farewell if len(sessions) == 1 else done):
            if await reader.read(FEW):
                writer.write(answer)
        writer.close()

    async with serving(server) as port:
        shard = PostgresShard(f"postgresql://u:p@127.0.0.1:{port}/d?ssl=disable", "t")
        assert [(await report_of(shard)).status for _ in range(2)] == [Status.OK, status]
        await shard.aclose()
    assert len(sessions) == (2 if status is Status.OK else 1)


async def test_names_are_looked_up_by_the_resolver_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver never asks the default executor, which a hung name would fill; the second address is tried as well."""

    async def found(host: str, _port: int) -> list[object]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port)) for port in (1, right)]

    asked: list[str] = []
    server = Server()
    async with serving(server) as right:
        monkeypatch.setattr("labkit.shards.postgres_wire.resolve", found)
        shard = PostgresShard(f"postgresql://u:{SECRET}@db.example:5432/d?ssl=disable", "t")
        await report_of(shard)
        await shard.aclose()
    assert asked == ["db.example"]
    assert server.asked[0].startswith(b"P")


def test_the_exchange_of_rfc_7677() -> None:
    """The messages of its example, to the byte."""
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
        ("a\u0007ü", "a\u0007ü"),  # prohibited: as it is
        ("\u0627\u0031", "\u0627\u0031"),  # two directions: as it is
        ("\u00ad", "\u00ad"),  # nothing would be left
    ],
)
def test_passwords_are_prepared_as_rfc_4013_says(password: str, said: str) -> None:
    """The examples of the RFC; what it refuses, Postgres takes as it is."""
    assert prepared(password) == said

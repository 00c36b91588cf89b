"""Conditions of toxics as pure plans: which questions, and which answers, of both protocols are hit.

The toxic of these tests flips the highest bit of every byte it gets, so what it got is exactly known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.faults import Latency, LimitData, PacketLoss, ResetPeer, SlowClose, Timeout, Toxic
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.lab.proxy.conditions import conditional
from labkit.lab.proxy.postgres_wire import MOST_NAMES, Prepared
from labkit.lab.proxy.questions import TEXT, Rule

SEED = "0|2"
quick = settings(derandomize=True, database=None, deadline=None, max_examples=120)
FLIPPED = bytes(byte ^ 0x80 for byte in range(256))


class Flips(Pipe):
    """Flips the highest bit of every byte."""

    def data(self, piece: Piece) -> list[Piece]:
        return [Piece(piece.data.translate(FLIPPED), piece.due)]


class Connection:
    """Both directions of one connection through a toxic with conditions."""

    def __init__(self, toxic: Toxic, rule: Rule | None = None, *, new: bool = True, prepared: Any = None) -> None:
        self.fired = 0
        flow = Flow(Random(SEED), self._fire, new)
        flips = type(toxic) is Latency
        pipes = conditional(
            toxic.stream,
            rule or Rule(toxic, SEED),
            (lambda: Flips()) if flips else (lambda: toxic.pipe(flow)),
            prepared or {},
            new=new,
        )
        self.pipes = {"upstream": Pipe(), "downstream": Pipe()} | pipes
        self.pieces: dict[str, list[Piece]] = {"upstream": [], "downstream": []}

    def _fire(self) -> None:
        self.fired += 1

    def say(self, data: bytes, stream: str = "upstream", at: float = 100.0) -> Connection:
        if data:
            self.pieces[stream] += self.pipes[stream].data(Piece(data, at))
        return self

    def answer(self, data: bytes, at: float = 100.0) -> Connection:
        return self.say(data, "downstream", at)

    def end(self, stream: str) -> Connection:
        self.pieces[stream] += self.pipes[stream].ended(Piece(b"", 100.0, End.FIN))
        return self

    def remove(self, stream: str) -> list[tuple[bytes, End | None]]:
        return [(piece.data, piece.end) for piece in self.pipes[stream].removed(200.0)]

    def got(self, stream: str) -> bytes:
        return b"".join(piece.data for piece in self.pieces[stream])

    def ends(self, stream: str) -> list[tuple[End, float]]:
        return [(piece.end, piece.due) for piece in self.pieces[stream] if piece.end]


@dataclass
class Turn:
    """Something a client says, and what the server answers."""

    asks: bytes
    answers: bytes
    text: str | None = None
    """None: it is not a question."""
    later: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Further parts of the same question and answer."""

    @property
    def parts(self) -> list[tuple[bytes, bytes]]:
        return [(self.asks, self.answers), *self.later]


def hits(turns: list[Turn], when: str | None, nth: set[int] | None) -> list[bool]:
    """Which of the turns are hit."""
    hit, count = [], 0
    for turn in turns:
        matches = turn.text is not None and (when is None or when.lower() in turn.text.lower())
        count += matches
        hit.append(matches and (nth is None or count in nth))
    return hit


def expected(turns: list[Turn], hit: list[bool]) -> dict[str, bytes]:
    """What comes through in both directions."""
    told: dict[str, bytes] = {"upstream": b"", "downstream": b""}
    for turn, flipped in zip(turns, hit, strict=True):
        for asks, answers in turn.parts:
            told["upstream"] += asks.translate(FLIPPED) if flipped else asks
            told["downstream"] += answers.translate(FLIPPED) if flipped else answers
    return told


def chopped(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


def talked(connection: Connection, turns: list[Turn], sizes: Iterator[int], *, pipelined: bool) -> None:
    """Everything is said in chunks of these sizes: turn by turn, or all questions before the first answer."""
    parts = [part for turn in turns for part in turn.parts]
    if pipelined:
        parts = [(b"".join(asks for asks, _ in parts), b"".join(answers for _, answers in parts))]
    for asks, answers in parts:
        for chunk in chopped(asks, sizes):
            connection.say(chunk)
        for chunk in chopped(answers, sizes):
            connection.answer(chunk)


def endless(sizes: list[int]) -> Iterator[int]:
    yield from sizes
    while True:
        yield 1 << 20


def assert_hit(turns: list[Turn], toxic: Toxic, sizes: list[int], *, pipelined: bool, new: bool = True) -> None:
    """Asserts that exactly the questions, or answers, that the conditions name are changed."""
    connection = Connection(toxic, new=new)
    talked(connection, turns, endless(sizes), pipelined=pipelined)
    nth = {toxic.nth} if isinstance(toxic.nth, int) else None if toxic.nth is None else set(toxic.nth)
    assert toxic.when is None or isinstance(toxic.when, str)
    told = expected(turns, hits(turns, toxic.when, nth))
    other = "downstream" if toxic.stream == "upstream" else "upstream"
    plain = expected(turns, [False] * len(turns))
    assert connection.got(toxic.stream) == told[toxic.stream]
    assert connection.got(other) == plain[other]


# Postgres


def message(kind: str, *body: bytes) -> bytes:
    data = b"".join(body)
    return kind.encode() + pack("!I", 4 + len(data)) + data


def text(*words: str) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


READY = message("Z", b"I")
TRICKY = b"Z\0\0\0\5I" * 3
"""Data that looks like the end of an answer."""
ROW = message("D", TRICKY)
START = message("", pack("!I", 196608), text("user", "me", "database", "x", ""))
LOGIN = Turn(
    START,
    message("R", pack("!I", 10), text("SCRAM-SHA-256", "")),
    later=[
        (
            message("p", b"proof"),
            message("R", pack("!I", 0)) + message("S", text("a", "b")) + message("K", bytes(8)) + READY,
        )
    ],
)


def simple(sql: str) -> Turn:
    return Turn(message("Q", text(sql)), message("T", TRICKY) + ROW + message("C", text("SELECT 1")) + READY, sql)


def extended(sql: str, name: str = "") -> Turn:
    asks = message("P", text(name, sql), bytes(2)) + message("D", b"S", text(name)) + bound(name)
    return Turn(asks + message("S"), message("1") + message("T") + message("2") + ROW + message("C") + READY, sql)


def bound(name: str, portal: str = "") -> bytes:
    return message("B", text(portal, name), TRICKY) + message("E", text(portal), bytes(4))


def by_name(name: str, sql: str) -> Turn:
    """A statement prepared before."""
    return Turn(bound(name) + message("S"), message("2") + ROW + message("C") + READY, sql)


def in_two_steps(sql: str) -> Turn:
    """A statement whose description the client awaits before it executes it."""
    prepares = message("P", text("s", sql), bytes(2)) + message("D", b"S", text("s")) + message("H")
    return Turn(
        prepares,
        message("1") + message("t") + message("T"),
        sql,
        [(bound("s") + message("S"), ROW + message("C") + READY)],
    )


def copied_in(sql: str, *, by_extended: bool = False) -> Turn:
    data = message("d", TRICKY) + message("d", b"COPY this, and SELECT that") + message("c")
    if by_extended:
        asks = message("P", text("", sql), bytes(2)) + bound("") + message("S")
        return Turn(
            asks, message("1") + message("2") + message("G"), sql, [(data + message("S"), message("C") + READY)]
        )
    return Turn(message("Q", text(sql)), message("G"), sql, [(data, message("C") + READY)])


def copied_out(sql: str) -> Turn:
    rows = message("d", TRICKY) * 3
    return Turn(message("Q", text(sql)), message("H") + rows + message("c") + message("C") + READY, sql)


SYNC = Turn(message("S"), READY)
CLOSE = Turn(message("C", b"S", text("nothing")) + message("S"), message("3") + READY)

STATEMENT = st.sampled_from(
    ["SELECT 1", "select name from t", "COPY t TO STDOUT", "copy (SELECT 2) to stdout", "BEGIN"]
)
POSTGRES = st.one_of(
    st.builds(simple, STATEMENT),
    st.builds(extended, STATEMENT),
    st.builds(in_two_steps, STATEMENT),
    st.builds(copied_in, STATEMENT, by_extended=st.booleans()),
    st.builds(copied_out, STATEMENT),
    st.just(SYNC),
    st.just(CLOSE),
)
PREPARED = [
    extended("SELECT a", "one"),
    extended("COPY b", "two"),
    by_name("one", "SELECT a"),
    by_name("two", "COPY b"),
]
SIZES = st.lists(st.integers(1, 40), max_size=60)
WHEN = st.sampled_from([None, "COPY", "select", "name from", "NEVER"])
NTH = st.none() | st.integers(1, 4) | st.lists(st.integers(1, 6), min_size=1)
STREAM = st.sampled_from(["upstream", "downstream"])


@quick
@given(
    turns=st.lists(POSTGRES, max_size=6),
    after=st.booleans(),
    toxic=st.builds(Latency, when=WHEN, nth=NTH, stream=STREAM),
    sizes=SIZES,
    pipelined=st.booleans(),
)
def test_postgres_questions_and_answers_are_told_apart(
    turns: list[Turn], after: bool, toxic: Latency, sizes: list[int], pipelined: bool
) -> None:
    """However the bytes are cut, and pipelined or not, exactly the questions or answers that match are hit: simple
    queries, extended ones, those in two steps and COPY both ways; the login, a lone Sync or Close are no questions.
    """
    assert_hit([LOGIN, *turns, *(PREPARED if after else [])], toxic, sizes, pipelined=pipelined)


CONVERSATION = [
    LOGIN,
    in_two_steps("SELECT 1"),
    *PREPARED,
    copied_in("COPY t", by_extended=True),
    simple("copy 2"),
    SYNC,
]


def test_a_sync_of_its_own_has_an_answer_of_its_own() -> None:
    """After a simple COPY a Sync is answered; after an extended one the first Sync behind the data ends the answer."""
    for copied in (copied_in("COPY 1"), copied_in("COPY 1", by_extended=True)):
        for pipelined in (False, True):
            turns = [LOGIN, copied, SYNC, simple("COPY 2"), simple("SELECT")]
            assert_hit(turns, Latency(when="COPY 2"), [], pipelined=pipelined)


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("size", range(1, 24))
def test_postgres_cut_everywhere(stream: str, pipelined: bool, size: int) -> None:
    """One conversation in chunks of every size, so that every message is cut at every position."""
    for toxic in (Latency(when="copy", stream=stream), Latency(nth=(2, 5), stream=stream)):
        assert_hit(CONVERSATION, toxic, [size] * 4000, pipelined=pipelined)


ENCRYPTION = message("", pack("!I", 80877103))


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_a_server_that_declines_encryption_is_understood(stream: str, size: int) -> None:
    """After a declined request for encryption the connection goes on in clear."""
    turns = [Turn(ENCRYPTION, b"N"), LOGIN, simple("COPY"), simple("SELECT")]
    assert_hit(turns, Latency(when="COPY", stream=stream), [size] * 1000, pipelined=False)


REPLICATION = message("", pack("!I", 196608), text("user", "me", "replication", "database", ""))
FOREIGN = {
    "TLS at once": b"\x16\x03\x01\x02\0COPY\0\0",
    "TLS when asked": ENCRYPTION + b"\x16\x03\x01\x02\0COPY\0\0",
    "a request to cancel": message("", pack("!III", 80877102, 1, 2)) + b"COPY",
    "replication": REPLICATION + message("Q", text("COPY")),
    "a message of no kind": START + message("~", b"COPY") + message("Q", text("COPY")),
    "a message of no length": START + b"Q\0\0\0\1COPY",
    "another protocol": b"\x05\x01\0COPY\0",
    "letters, then none": b"COPY\xff\0\n",
    "a list of nothing": b"*x\r\n$4\r\nCOPY\r\n",
    "a word without its length": b"*1\r\nCOPY\r\n",
    "a list without end": b"*99999999999999\r\n$4\r\nCOPY\r\n",
    "a line without end": b"A" * (TEXT + 1) + b" COPY\r\n",
}


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("told", FOREIGN.values(), ids=list(FOREIGN))
def test_what_is_not_understood_passes_unharmed(told: bytes, stream: str, size: int) -> None:
    """Encrypted bytes, other protocols and broken messages pass, however they are cut, and nothing is hit."""
    connection = Connection(Latency(when="copy", stream=stream))
    size = size if len(told) < 1000 else 1 << 20
    for chunk in chopped(told, iter([size] * len(told))):
        connection.say(chunk).answer(chunk)
    assert (connection.got("upstream"), connection.got("downstream")) == (told, told)


@pytest.mark.parametrize("broken", [message("W"), b"~" + bytes(9), b"C\0\0\0\1"])
def test_answers_that_are_not_understood_pass_unharmed(broken: bytes) -> None:
    """From an answer that is not understood on, nothing is hit any more."""
    turns = [LOGIN, simple("COPY 1")]
    connection = Connection(Latency(when="COPY"))
    talked(connection, turns, endless([]), pipelined=False)
    rest = broken + simple("COPY 2").answers
    connection.say(simple("COPY 2").asks).answer(rest)
    connection.say(simple("COPY 3").asks).answer(simple("COPY 3").answers)
    told = expected(turns, [False, True])["downstream"] + rest + simple("COPY 3").answers
    assert connection.got("downstream") == told


def test_messages_that_answer_nothing_are_left_alone() -> None:
    """A notice, a notification or a last error between two answers belongs to neither."""
    notice = message("N", TRICKY) + message("A", bytes(4), text("x", "y")) + message("E", text("SFATAL", ""))
    turns = [LOGIN, simple("COPY 1"), Turn(b"", notice), simple("COPY 2"), Turn(b"", notice)]
    for size in range(1, 12):
        assert_hit(turns, Latency(when="COPY"), [size] * 1000, pipelined=False)


def test_a_message_that_comes_before_a_question_does_not_answer_it() -> None:
    """A notice is left alone even if the question is asked while it arrives."""
    notice, turn = message("N", TRICKY), simple("COPY")
    for arrived in range(1, len(notice)):
        connection = Connection(Latency(when="COPY")).say(LOGIN.asks).answer(READY).answer(notice[:arrived])
        connection.say(turn.asks).answer(notice[arrived:] + turn.answers)
        assert connection.got("downstream") == READY + notice + turn.answers.translate(FLIPPED)


def test_names_mean_what_they_were_last_given_to() -> None:
    """A statement that is prepared anew has its new text, a portal that is of its new statement, which may be executed
    several times; a name that nobody gave matches nothing.
    """

    def opened(name: str, sql: str) -> Turn:
        return Turn(bound(name, "p") + message("S"), ROW + READY, sql)

    def fetched(sql: str, portal: str = "p") -> Turn:
        return Turn(message("E", text(portal), bytes(4)) + message("S"), ROW + READY, sql)

    turns = [
        LOGIN, extended("SELECT a", "one"), extended("COPY b", "one"), by_name("one", "COPY b"),
        opened("one", "COPY b"), fetched("COPY b"), by_name("one", "COPY b"), fetched("COPY b"),
        extended("SELECT c", "two"), opened("two", "SELECT c"), fetched("SELECT c"),
        by_name("three", "?"), fetched("?", "q"),
    ]  # fmt: skip
    for stream in ("upstream", "downstream"):
        assert_hit(turns, Latency(when="COPY", stream=stream), [], pipelined=False)


def test_only_so_many_names_are_remembered() -> None:
    """Of very many statements the latest are known."""
    connection = Connection(Latency(when="COPY")).say(START)
    for i in range(MOST_NAMES + 1):
        connection.say(message("P", text(f"s{i}", "COPY"), bytes(2)))
    for name, hit in (("s0", False), (f"s{MOST_NAMES}", True)):
        known = connection.pipes["upstream"]._client._reader._statements  # type: ignore[attr-defined]
        assert known.get(name.encode(), False) is hit
    assert len(known) == MOST_NAMES


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_an_older_connection_is_understood_from_its_next_question_on(stream: str, before: int) -> None:
    """On a connection that is older than the toxic, what still belongs to an earlier question or to the login is left
    alone; the next question counts. Statements prepared before are known.
    """
    earlier = copied_in("COPY 0")
    rest = [
        Turn(b"", earlier.later[0][1]),  # its answer is awaited
        Turn(earlier.later[0][0][7:], earlier.later[0][1]),  # in the middle of its data
        Turn(message("p", b"proof"), LOGIN.later[0][1]),
        Turn(b"", READY[3:]),
    ][before]
    turns = [rest, by_name("two", "COPY b"), by_name("one", "SELECT a"), simple("COPY 1")]
    prepared = {b"one": b"SELECT a", b"two": b"COPY b"}
    connection = Connection(Latency(when="copy", stream=stream), new=False, prepared=prepared)
    talked(connection, turns, endless([]), pipelined=False)
    assert connection.got(stream) == expected(turns, [False, True, False, True])[stream]


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_a_question_sent_with_the_password_counts(stream: str) -> None:
    """A connection in the middle of its login when the toxic takes hold: the question behind the password counts."""
    login, turn = Turn(*LOGIN.later[0]), in_two_steps("COPY")
    connection = Connection(Latency(when="COPY", stream=stream), new=False)
    connection.say(login.asks + turn.asks).answer(login.answers + turn.answers)
    asks, answers = turn.later[0]
    connection.say(asks).answer(answers)
    assert connection.got(stream) == expected([login, turn], [False, True])[stream]


def test_data_that_looks_like_a_question_is_none() -> None:
    """On an older connection, a chunk from the middle of copied data does not keep the next question from counting."""
    for data in (b"Q\0\0\0\x08abcd~", b"S\0\0\0\0", b"Q\1\1\1\1", b"Q\0\0", b"z\0\0\0\4", b"*1\r\n+"):
        connection = Connection(Latency(when="COPY"), new=False).say(data).answer(READY)
        connection.say(simple("COPY").asks).answer(simple("COPY").answers)
        assert connection.got("downstream") == READY + simple("COPY").answers.translate(FLIPPED)


def test_an_older_connection_may_be_about_to_begin() -> None:
    """A connection that has said nothing when the toxic takes hold is understood from its start."""
    for turns in ([LOGIN, simple("COPY")], [Turn(ENCRYPTION, b"N"), LOGIN, simple("COPY")], [command("COPY")]):
        assert_hit(turns, Latency(when="COPY"), [], pipelined=False, new=False)


@pytest.mark.parametrize("chunk", [b"\x17\x03\x03\0\x20", b"\x17\x03\x03COPY"])
def test_an_older_encrypted_connection_passes_unharmed(chunk: bytes) -> None:
    """TLS is recognised by its records; what follows is not taken for a question, even if it looks like one."""
    connection = Connection(Latency(when="COPY"), new=False)
    connection.say(chunk).say(simple("COPY").asks).answer(simple("COPY").answers)
    assert connection.got("downstream") == simple("COPY").answers


def test_statements_are_noted_for_later() -> None:
    """Named statements are noted, also behind a password or other statements; the latest text counts, unnamed and
    unfinished ones do not, and the oldest go when there are too many.
    """
    noted = Prepared()
    noted.read(extended("SELECT a", "one").asks + extended("COPY b", "two").asks)
    noted.read(message("p", b"proof") + in_two_steps("SELECT s").asks)
    noted.read(simple("BEGIN").asks + extended("COMMIT").asks + extended("SELECT c", "one").asks)
    noted.read(extended("SELECT d").asks)
    noted.read(extended("SELECT e", "five").asks[:12])
    noted.read(b"PING\r\n")
    noted.read(b"P\0\0\0\0\0\0\0\0")
    assert noted.texts == {b"two": b"COPY b", b"s": b"SELECT s", b"one": b"SELECT c"}
    for i in range(100):
        noted.read(extended("x" * 1000, f"n{i}").asks)
    assert 60 < len(noted.texts) < 66
    assert b"n99" in noted.texts
    assert b"two" not in noted.texts


# Redis


def bulk(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w.encode()), w.encode()) for w in words)


REPLIES = [
    b"+OK\r\n", b"-ERR no\r\n", b":12\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n",
    b"(99\r\n", b"$0\r\n\r\n", b"$7\r\n+OK\r\n:1\r\n", b"=7\r\ntxt:abc\r\n", b"!5\r\nERR x\r\n", b"~2\r\n:1\r\n:2\r\n",
    b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n*1\r\n+x\r\n", b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
    b"|1\r\n+ttl\r\n:9\r\n*1\r\n:1\r\n", b"*3\r\n$-1\r\n_\r\n*-1\r\n",
]  # fmt: skip
PUSHED = Turn(b"", b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n")


def command(*words: str, reply: bytes = b"+OK\r\n") -> Turn:
    return Turn(bulk(*words), reply, " ".join(words))


def inline(line: str, reply: bytes) -> Turn:
    return Turn(line.encode() + b"\r\n", reply, line)


def quiet(line: bytes) -> Turn:
    """What the server does not answer."""
    return Turn(line, b"")


WORDS = st.sampled_from([("GET", "copy:1"), ("set", "k", "*1\r\n$4\r\nCOPY"), ("ZRANGE", "t", "0", "-1"), ("MULTI",)])
SETUP = Turn(bulk("HELLO", "3", "AUTH", "me", "pw") + bulk("CLIENT", "SETNAME", "x"), b"%1\r\n+a\r\n:1\r\n+OK\r\n")
REDIS = st.one_of(
    st.builds(lambda words, reply: command(*words, reply=reply), WORDS, st.sampled_from(REPLIES)),
    st.builds(inline, st.sampled_from(["PING", "get copy:2", "  select 1 "]), st.sampled_from(REPLIES)),
    st.just(quiet(b"\r\n")),
    st.just(quiet(b"*0\r\n")),
    st.just(PUSHED),
)


@quick
@given(
    turns=st.lists(REDIS, max_size=8),
    toxic=st.builds(Latency, when=st.sampled_from(["COPY", "zrange t", "GET", "nothing"]), nth=NTH, stream=STREAM),
    sizes=SIZES,
    pipelined=st.booleans(),
)
def test_redis_commands_and_replies_are_told_apart(
    turns: list[Turn], toxic: Latency, sizes: list[int], pipelined: bool
) -> None:
    """However the bytes are cut, and pipelined or not, exactly the commands or replies that match are hit: inline
    commands and lists, every type of reply, nested too; pushed messages and empty lines are neither.
    """
    if pipelined:
        turns = [turn for turn in turns if turn is not PUSHED]
    assert_hit([SETUP, *turns], toxic, sizes, pipelined=pipelined)


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("size", range(1, 24))
def test_redis_cut_everywhere(stream: str, pipelined: bool, size: int) -> None:
    """One conversation in chunks of every size, so that everything is cut at every position."""
    turns = [
        SETUP,
        *(command("GET", f"copy:{i}", reply=reply) for i, reply in enumerate(REPLIES)),
        inline("PING", b"+PONG\r\n"),
    ]
    for toxic in (Latency(when="copy:1", stream=stream), Latency(when="g", nth=(2, 5, 20), stream=stream)):
        assert_hit(turns, toxic, [size] * 4000, pipelined=pipelined)


def test_setting_up_a_connection_is_no_question_unless_asked_for() -> None:
    """Without `when`, what Redis clients send when they connect is not counted; with it, it can be hit."""
    turns = [Turn(SETUP.asks, SETUP.answers), command("SELECT", "1"), command("GET", "a"), command("GET", "b")]
    turns[1].text = None
    assert_hit(turns, Latency(nth=1), [], pipelined=False)
    turns[1].text = "SELECT 1"
    assert_hit(turns, Latency(when="SELECT", nth=1), [], pipelined=False)


def test_replies_that_a_client_switches_off_are_not_awaited() -> None:
    """CLIENT REPLY SKIP and OFF leave commands without replies; the next reply is that of the next command with one."""
    turns = [
        quiet(bulk("CLIENT", "REPLY", "SKIP")), quiet(bulk("SET", "a", "1")), command("GET", "a"),
        quiet(bulk("client", "reply", "off")), quiet(bulk("SET", "b", "1")), quiet(bulk("SET", "c", "1")),
        command("CLIENT", "REPLY", "ON"), command("GET", "b", reply=b"$1\r\n1\r\n"), command("SET", "d", "2"),
    ]  # fmt: skip
    for pipelined in (False, True):
        assert_hit(turns, Latency(when="GET"), [], pipelined=pipelined)


@pytest.mark.parametrize("name", ["SUBSCRIBE", "psubscribe", "MONITOR", "SYNC"])
def test_a_connection_on_which_the_server_speaks_unasked_passes_unharmed(name: str) -> None:
    """From SUBSCRIBE and its like on, answers are left alone; commands can still be hit."""
    asked, told = bulk("GET", "x"), b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n"
    connection = Connection(Latency(when="GET")).say(bulk(name, "x")).answer(told).say(asked).answer(told)
    assert connection.got("downstream") == told + told
    upstream = Connection(Latency(when="GET", stream="upstream")).say(bulk(name, "x")).say(asked)
    assert upstream.got("upstream") == bulk(name, "x") + asked.translate(FLIPPED)


def test_a_push_that_comes_before_a_reply_is_left_alone() -> None:
    """A pushed message between a command and its reply is not the reply."""
    connection = Connection(Latency(when="GET")).say(bulk("GET", "a")).answer(PUSHED.answers + b"+OK\r\n")
    assert connection.got("downstream") == PUSHED.answers + b"+OK\r\n".translate(FLIPPED)


def test_an_unasked_reply_is_left_alone() -> None:
    """What a Redis says before it is asked, such as that it has too many clients, is no answer."""
    refusal = Turn(b"", b"-ERR max number of clients reached\r\n")
    assert_hit([refusal, command("GET", "a")], Latency(when="GET"), [], pipelined=False)
    assert_hit([command("GET", "a"), refusal], Latency(when="GET"), [], pipelined=False)


def test_an_older_redis_connection_is_understood_from_its_next_command_on() -> None:
    """The rest of an earlier command or reply is left alone; the next command counts."""
    for rest in (
        Turn(b"", b"+OK\r\n"),
        Turn(b"xyz\r\n", b"+OK\r\n"),
        Turn(b"3\r\nabc\r\n", b":1\r\n"),
        Turn(b"", b"\n"),
    ):
        for question in (command("GET", "a"), inline("get a", b"$1\r\n1\r\n")):
            turns = [rest, question, command("SET", "b", "c")]
            connection = Connection(Latency(when="GET"), new=False)
            talked(connection, turns, endless([]), pipelined=False)
            assert connection.got("downstream") == expected(turns, [False, True, False])["downstream"]


# what counts


def test_when_ignores_case_and_takes_bytes() -> None:
    """`when` matches ASCII letters in either case, and bytes that are no text."""
    key = b"*2\r\n$3\r\nGET\r\n$2\r\n\xff\xfe\r\n"
    for toxic in (Latency(when=b"\xff\xfe"), Latency(when=b"get \xff")):
        assert Connection(toxic).say(key).answer(b"+x\r\n").got("downstream") == b"+x\r\n".translate(FLIPPED)
    assert Connection(Latency(when="é".upper())).say(bulk("GET", "é")).answer(b"+x\r\n").got("downstream") == b"+x\r\n"


def test_questions_are_counted_over_all_connections() -> None:
    """`nth` counts the matching questions of all connections together."""
    toxic = Latency(when="GET", nth=(2, 3))
    rule = Rule(toxic, SEED)
    first, second = Connection(toxic, rule), Connection(toxic, rule)
    heard = []
    for connection in (first, second, second, first):
        before = len(connection.got("downstream"))
        connection.say(bulk("SET", "a", "b")).answer(b"+s\r\n").say(bulk("GET", "a")).answer(b"+g\r\n")
        heard.append(connection.got("downstream")[before:])
    plain, flipped = b"+s\r\n+g\r\n", b"+s\r\n" + b"+g\r\n".translate(FLIPPED)
    assert heard == [plain, flipped, flipped, plain]


def drawn(toxic: Toxic, questions: int, seed: str = SEED, connections: int = 1) -> list[bool]:
    """Which of some questions, asked in turns on several connections, are hit."""
    rule = Rule(toxic, seed)
    asked = [Connection(toxic, rule) for _ in range(connections)]
    hit = []
    for i in range(questions):
        connection = asked[i % connections]
        connection.say(bulk("GET", "a")).answer(b"+g\r\n")
        hit.append(connection.got("downstream")[-4:] != b"+g\r\n")
    return hit


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_questions_is_drawn_from_the_seed(share: float) -> None:
    """About that share of 1,000 questions is hit (within 5 standard deviations): the same for the same seed, whatever
    the connections; others for another seed.
    """
    toxic = Latency(share=share)
    hit = drawn(toxic, 1000)
    assert abs(sum(hit) - 1000 * share) < 5 * (1000 * share * (1 - share)) ** 0.5
    assert hit == drawn(toxic, 1000, connections=7) != drawn(toxic, 1000, "1|2")


def test_share_and_nth_together() -> None:
    """Of the numbers that `nth` names, `share` hits those that it would hit alone; at 0 none, at 1 all."""
    alone, both = drawn(Latency(share=0.5, nth=range(1, 101)), 100), drawn(Latency(share=0.5, nth=range(1, 101)), 200)
    assert (sum(alone) > 20, both) == (True, alone + [False] * 100)
    assert not any(drawn(Latency(share=0, nth=(1, 2)), 4))
    assert drawn(Latency(share=1.0, nth=(1, 3)), 4) == [True, False, True, False]


# what a toxic does to a question


def asked(toxic: Toxic, *answers: bytes) -> Connection:
    """Three GETs, of which the second is `GET hit`, answered one after the other."""
    connection = Connection(toxic)
    for key, answer in zip(("one", "hit", "three"), answers, strict=False):
        connection.say(bulk("GET", key)).answer(answer)
    return connection


def test_what_ends_a_connection_does_so_at_the_answer() -> None:
    """LimitData counts the answer's own bytes, and ResetPeer ends there; nothing passes afterwards."""
    limited = asked(LimitData(3, when="hit"), b"+one\r\n", b"+two\r\n", b"+three\r\n")
    assert (limited.got("downstream"), limited.ends("downstream")) == (b"+one\r\n+tw", [(End.CLOSE, 100.0)])
    reset = asked(ResetPeer(when="hit"), b"+one\r\n", b"+two\r\n", b"+three\r\n")
    assert (reset.got("downstream"), reset.ends("downstream"), reset.fired) == (b"+one\r\n", [(End.RESET, 100.0)], 1)


def test_a_limit_that_an_answer_does_not_reach_does_nothing() -> None:
    """Each answer is counted from its start; shorter ones pass whole, and the toxic has not fired."""
    connection = Connection(LimitData(9, when="hit"))
    for _ in range(3):
        connection.say(bulk("GET", "hit")).answer(b"+two\r\n")
    assert (connection.got("downstream"), connection.fired) == (b"+two\r\n" * 3, 0)


def test_what_silences_a_connection_does_so_for_good() -> None:
    """From the answer that Timeout hits on, nothing passes; it closes in time, and when it is removed."""
    silent = asked(Timeout(400, when="hit"), b"+one\r\n", b"+two\r\n", b"+three\r\n")
    assert (silent.got("downstream"), silent.ends("downstream")) == (b"+one\r\n", [(End.CLOSE, 100.4)])
    assert silent.remove("downstream") == [(b"", End.CLOSE)]
    untouched = asked(Timeout(400, when="nothing"), b"+one\r\n")
    assert (untouched.ends("downstream"), untouched.remove("downstream"), untouched.fired) == ([], [], 0)


def test_lost_bytes_end_the_connection_when_the_toxic_is_removed() -> None:
    """Answers after a lossy one pass, since the loss was limited to one; undone, the connection is closed."""
    lossy = asked(PacketLoss(1, when="hit"), b"+one\r\n", b"+two\r\n", b"+three\r\n")
    assert (lossy.got("downstream"), lossy.fired) == (b"+one\r\n+three\r\n", 1)
    assert lossy.remove("downstream") == [(b"", End.CLOSE)]


def test_an_end_is_late_only_after_a_question_that_is_hit() -> None:
    """SlowClose delays the end of a connection whose last question was hit."""
    late = Connection(SlowClose(500, when="hit", stream="upstream")).say(bulk("GET", "hit")).end("upstream")
    assert (late.ends("upstream"), late.fired) == ([(End.FIN, 100.5)], 1)
    other = Connection(SlowClose(500, when="hit", stream="upstream")).say(bulk("GET", "hit") + bulk("GET", "b"))
    assert (other.end("upstream").ends("upstream"), other.fired) == ([(End.FIN, 100.0)], 0)


@dataclass(frozen=True)
class Hoards(Toxic):
    """Holds everything back."""

    def pipe(self, flow: Flow) -> Pipe:
        return _Hoards()

    @classmethod
    def samples(cls, timeout: float) -> list[Any]:
        return []


class _Hoards(Pipe):
    def __init__(self) -> None:
        self.hoard = b""

    def data(self, piece: Piece) -> list[Piece]:
        self.hoard += piece.data
        return []

    def removed(self, now: float) -> list[Piece]:
        return [Piece(self.hoard, now)]


def test_what_a_toxic_holds_back_comes_before_the_next_answer() -> None:
    """No byte is overtaken: what a toxic of one's own holds back is let go when its question is over."""
    held = asked(Hoards(when="hit"), b"+one\r\n", b"+two\r\n", b"+three\r\n")
    assert held.got("downstream") == b"+one\r\n+two\r\n+three\r\n"
    waiting = asked(Hoards(when="hit"), b"+one\r\n", b"+two\r\n")
    assert (waiting.got("downstream"), waiting.remove("downstream")) == (b"+one\r\n", [(b"+two\r\n", None)])


# holding back


def test_questions_are_kept_only_for_their_answers() -> None:
    """What is remembered of a connection does not grow: upstream nothing waits, downstream until it is answered, and
    not on a connection that is no longer understood.
    """
    for stream, unclear in (("upstream", b""), ("downstream", b""), ("downstream", bulk("MONITOR"))):
        connection = Connection(Latency(when="GET", stream=stream))
        for _ in range(3):
            connection.say(unclear)
            connection.say(bulk("GET", "a")).answer(b"+OK\r\n")
        assert not connection.pipes["upstream"]._client._dialogue.waiting  # type: ignore[attr-defined]


def test_only_a_question_that_may_still_match_is_held_back() -> None:
    """Upstream, the part of a question whose text is not complete waits; all else passes at once, and as it is."""
    connection = Connection(Latency(when="hit", stream="upstream"))
    connection.say(bulk("SET", "a", "b")).say(bulk("SET", "a", "hit")[:-4])
    assert connection.got("upstream") == bulk("SET", "a", "b")
    connection.say(bulk("SET", "a", "hit")[-4:])
    assert connection.got("upstream") == bulk("SET", "a", "b") + bulk("SET", "a", "hit").translate(FLIPPED)
    whole = bulk("SET", "a", "b")
    assert connection.say(whole).pieces["upstream"][-1].data is whole


@pytest.mark.parametrize("how", ["end", "remove"])
def test_what_is_held_back_is_not_lost(how: str) -> None:
    """At the end of the connection, or of the toxic, the held part of a question passes."""
    part = bulk("SET", "a", "hit")[:-4]
    connection = Connection(Latency(when="hit", stream="upstream")).say(part)
    if how == "end":
        assert connection.end("upstream").got("upstream") == part
        assert connection.pieces["upstream"][-1].end is End.FIN
    else:
        assert connection.remove("upstream") == [(part, None)]


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_no_more_than_the_searched_text_is_held_back(name: str) -> None:
    """Only the first 64 KB of a question are searched: text beyond does not match, and nothing waits for it."""
    for before, hit in ((TEXT - 100, True), (TEXT + 1, False)):
        words = "x" * before + "hit"
        turn = simple(words) if name == "postgres" else command("SET", words, "y" * TEXT)
        start = START if name == "postgres" else b""
        connection = Connection(Latency(when="hit", stream="upstream")).say(start)
        told = 0
        for chunk in chopped(turn.asks, iter([1000] * 1000)):
            connection.say(chunk)
            told += len(chunk)
            assert told - (len(connection.got("upstream")) - len(start)) <= TEXT + 1100
        assert connection.got("upstream")[len(start) :] == (turn.asks.translate(FLIPPED) if hit else turn.asks)


@pytest.mark.parametrize("asks", [simple("COPY").asks, command("COPY").asks], ids=["postgres", "redis"])
def test_a_big_answer_passes_piece_by_piece_as_it_is(asks: bytes) -> None:
    """The pieces of an answer are neither copied nor joined."""
    postgres = asks[:1] == b"Q"
    connection = Connection(Latency(when="other"))
    connection.say(START if postgres else b"").say(asks)
    chunks = [(message("d", b"row") if postgres else b"$3\r\nrow\r\n") * 1000 for _ in range(20)]
    connection.answer(b"" if postgres else b"*20000\r\n")
    before = len(connection.pieces["downstream"])
    for chunk in chunks:
        connection.answer(chunk)
    passed = [piece.data for piece in connection.pieces["downstream"][before:]]
    assert len(passed) == len(chunks)
    assert all(mine is theirs for mine, theirs in zip(passed, chunks, strict=True))


# updated in place


@pytest.mark.parametrize("update", [Timeout(9, when="hit"), LimitData(0)], ids=repr)
def test_an_update_wakes_no_connection_that_was_silenced(update: Toxic) -> None:
    """What had silenced or ended a connection still does after an update; undone, the connection is closed."""
    before = asked(Timeout(0, when="hit"), b"+one\r\n", b"+two\r\n").pipes["downstream"]
    pipes = conditional("downstream", Rule(update, SEED), lambda: update.pipe(Flow(Random(1), list)), {}, new=False)
    after = pipes["downstream"]
    after.takes_over(before)
    assert after.over or list(after.opened(100.0))
    assert list(after.data(Piece(b"+three\r\n", 100.0))) == []
    assert [piece.end for piece in after.removed(200.0)] == [End.CLOSE]

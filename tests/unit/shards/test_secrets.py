"""Planted passwords, and servers that repeat what they are sent: no text shown to anyone contains them."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import traceback
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from html import escape
from string import hexdigits
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from labkit import RangeRouter, ShardReader
from labkit.api import Server
from labkit.cli.call.ask import ask_all, ask_owner
from labkit.cli.call.failures import CallFailure
from labkit.cli.call.shown import as_json, as_text, failures, in_blocks
from labkit.cli.call.wire import Wire
from labkit.errors import LabkitError, TopologyError, UsageError
from labkit.report import Status
from labkit.result import ReadResult
from labkit.shards import CircuitBreaker, PostgresShard, RedisClusterShard, RedisShard
from labkit.shards.base import Ask, Shard
from labkit.shards.secrets import LEAST, LONGEST, MASK, WITHHELD, OneTime, Secrets
from labkit.topology import load
from tests.support.mocks import Answering, resp_command, serving
from tests.support.scenes import quick
from tests.unit.shards.postgres.test_wire import LOGGED_IN, message

pytestmark = pytest.mark.slow

SECONDS = 5.0
PASSWORDS = ["s3cret-pw", "hunter", "p4ss/w@rd:?#[%", "pä55wörd-ключ", "1029384756", "c0rrect \"horse'\\battery"]


def pieces(secret: str, length: int = LEAST) -> set[str]:
    """Every fragment of a secret that must not be shown."""
    return {secret[start : start + length].lower() for start in range(len(secret) - length + 1)}


def leaks(text: str, *secrets: str) -> list[str]:
    """The fragments of secrets that a text contains."""
    told, digits = text.lower(), set(hexdigits)
    found = []
    for one in secrets:
        # Addresses, ports and times share digits by chance; of a longer secret, other fragments show too.
        whole = set(one) <= digits
        some = pieces(one, max(len(one), LEAST) if whole else LEAST)
        found += [piece for piece in some if piece in told and (whole or not set(piece) <= digits)]
    return found


def test_an_address_is_no_leak_of_the_digits_that_it_shares_with_a_password() -> None:
    """Digits that an object's address shares with a password are not a leak, but their neighbours would be."""
    assert not leaks("<Handle at 0x7f551a455bc8>", "p%C3%A455%2F")
    assert sorted(leaks("no user 3%A455%", "p%C3%A455%2F")) == ["%a45", "3%a4", "455%"]
    assert leaks("1029384756", "1029384756")
    assert leaks("by DEADBEEF99", "deadbeef99")
    assert not leaks("in 0.1029 s", "1029384756")


# --- what is masked


WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "as a URL": lambda secret: quote(secret, safe=""),
    "as a URL with other letters": lambda secret: quote(secret, safe="").lower(),
    "as a form": quote_plus,
    "in Python": repr,
    "as Redis": lambda secret: repr(secret.encode()),
    "in JSON": json.dumps,
    "in HTML": escape,
    "in capitals": str.upper,
    "in SQL": lambda secret: "'" + secret.replace("'", "''") + "'",
    "in hexadecimal": lambda secret: secret.encode().hex(),
    "byte by byte": lambda secret: secret.encode().hex(":"),
    "escaped": lambda secret: "".join(f"\\x{byte:02x}" for byte in secret.encode()),
    "escaped as characters": lambda secret: "".join(f"\\u{ord(char):04x}" for char in secret),
    "as numbers": lambda secret: ", ".join(f"0x{byte:02X}" for byte in secret.encode()),
    "in Base64": lambda secret: b64encode(secret.encode()).decode(),
    "in Base64 behind a user": lambda secret: b64encode(b"\0bob\0" + secret.encode()).decode(),
    "in another character set": lambda secret: secret.encode().decode("latin-1"),
    "taken apart": " ".join,
    "in pieces": lambda secret: ", ".join(secret[start : start + 3] for start in range(0, len(secret), 3)),
    "cut short": lambda secret: secret[: max(LEAST, len(secret) // 2)],
    "its end": lambda secret: secret[-max(LEAST, len(secret) // 2) :],
}


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("secret", PASSWORDS)
def test_no_way_to_write_a_secret_gets_through(secret: str, way: str) -> None:
    """Neither the secret nor its encoding is shown; the words around it are kept, or the whole text is withheld."""
    written = WRITTEN[way](secret)
    shown = Secrets(secret).masked(f"ERR unknown command `AUTH`, with args: `{written}`, ")
    assert not leaks(shown, secret, *([] if way in ("taken apart", "in Base64 behind a user") else [written]))
    assert shown == WITHHELD or shown.startswith("ERR unknown command `AUTH`, with args: `")
    assert shown == WITHHELD or MASK in shown


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
STRONG = st.text(st.characters(exclude_categories=["Cs"]), min_size=LEAST, max_size=24).filter(str.strip)


@quick
@given(secret=STRONG, before=TEXTS, behind=TEXTS, way=st.sampled_from(list(WRITTEN)))
def test_no_piece_of_any_secret_is_left(secret: str, before: str, behind: str, way: str) -> None:
    """No fragment of any secret is left, whatever text surrounds it."""
    shown = Secrets(secret).masked(before + WRITTEN[way](secret) + behind)
    assert not leaks(shown.replace(WITHHELD, "").replace(MASK, ""), secret)


@quick
@given(secret=STRONG, text=TEXTS)
def test_a_text_without_a_secret_is_left_as_it_is(secret: str, text: str) -> None:
    """A text without a secret is unchanged or withheld; without secrets every text is unchanged."""
    shown = Secrets(secret).masked(text)
    assume(not any(leaks(text, WRITTEN[way](secret)) for way in WRITTEN))
    assert shown in (text, WITHHELD)
    assert Secrets().masked(text) == text


@pytest.mark.parametrize(
    ("secret", "said", "shown"),
    [
        ("s3cret-pw", "unknown command `AUTH`, with: `s3cret-pw`", "unknown command `AUTH`, with: `***`"),
        ("s3cret-pw", "no such user s3cr", "no such user ***"),
        # A mask would reveal it: everyone knows how this text continues.
        ("user", "no such user", WITHHELD),
        ("password1", 'password authentication failed for user "bob"', WITHHELD),
        ("labkit", 'database "labkit" does not exist', WITHHELD),
        ("7000", "no such port: 7000", WITHHELD),
        ("a", "with args beginning with: `a`", WITHHELD),
        ("a", "with args beginning with `b`", "with args beginning with `b`"),
        ("é!", "not `é!`", WITHHELD),
        ("", "nothing was sent", "nothing was sent"),
        (None, "nothing was sent", "nothing was sent"),
    ],
)
def test_what_would_tell_by_its_absence_is_withheld_with_all_around_it(
    secret: str | None, said: str, shown: str
) -> None:
    """For a short secret, a word or a number the whole text is withheld; any other is masked in place."""
    assert Secrets(secret).masked(said) == shown
    assert Secrets(secret).masked(shown) == shown


@pytest.mark.parametrize(
    ("secret", "said", "shown"),
    [
        ("in the clear", 'too many connections for role "clear"', 'too many connections for role "clear"'),
        ("clear", 'too many connections for role "clear"', WITHHELD),
        ("clear-2-go", "AUTH clear clear-2-go", "AUTH clear ***"),
        ("in the clear", "not cle", WITHHELD),
        ("in the clear", "not clear then", WITHHELD),
    ],
)
def test_the_name_of_a_user_is_told(secret: str, said: str, shown: str) -> None:
    """A user name that is part of the password is shown, unless it is the whole password or more of it follows."""
    assert Secrets(secret, public=["clear", None]).masked(said) == shown


def test_of_a_long_text_the_beginning_is_shown() -> None:
    """A long text is cut, and the cut never leaves the beginning of a secret."""
    for before in range(LONGEST - 40, LONGEST + 40):
        shown = Secrets("s3cret-pw-0123456789").masked("." * before + "s3cret-pw-0123456789" + "." * 9999)
        assert len(shown) <= LONGEST
        assert not leaks(shown, "s3cret-pw-0123456789")


def test_a_secret_that_is_known_is_no_other() -> None:
    """Adding known secrets returns the same object, so that secrets do not grow with every connection."""
    known = Secrets("one-s3cret", None)
    assert known.plus([b"one-s3cret", "", None]) is known
    assert known.plus(["an0ther"]).masked("one-s3cret, an0ther") == "***, ***"


def test_a_short_piece_of_a_one_time_value_withholds_no_message() -> None:
    """Four characters of a login's proof, which is random and used once, are shown; eight never are."""
    proof = "q5DaTa+kT0Vn1eXiStR2dHlTQm9uZXNBcmVSb3VuZGE="
    said = 'relation "data_2" does not exist'
    assert Secrets(proof).masked(said) == WITHHELD
    once = Secrets("s3cret-pw").plus([OneTime(proof.encode())])
    assert once.masked(said) == said
    for piece in pieces(proof, 8):
        assert piece not in once.masked(f"{said}: {piece}")
    assert Secrets(proof).plus([OneTime(proof.encode())]).masked(said) == WITHHELD


def test_its_repr_says_nothing() -> None:
    """The repr of `Secrets` shows no secret."""
    assert repr(Secrets("s3cret-pw")) == "Secrets(…)"


# --- servers that repeat what they are sent

PLANTED = ("zq7x-kw9vj", "pä55/wörd%", "qhxvzk", "1029384756")
"""None occurs in a line of code that a traceback quotes."""


class Parrot:
    """A Redis server that answers every command with what `says` makes of it."""

    def __init__(self, says: Callable[[list[bytes]], bytes]) -> None:
        self.says = says
        self.heard: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            words = await resp_command(reader)
            self.heard += words
            writer.write(self.says(words))


def line(text: bytes) -> bytes:
    return b"-" + text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"


def _names(words: list[bytes]) -> bytes:
    """A slot map and a node list whose only node is named after the last password."""
    if words[0] != b"CLUSTER":
        return b"+OK\r\n"
    name = b"".join(char for char in (_password[-1:] or [b""])[0].split())
    entry = [b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n", b"$%d\r\n%b\r\n" % (len(name), name), b":7000\r\n"]
    return b"".join([*entry, b"$%d\r\n%b\r\n" % (len(name), name)])


_password: list[bytes] = []


def _echo(words: list[bytes]) -> bytes:
    if words[0] == b"AUTH":
        _password.append(words[-1])
    return b"+OK\r\n"


def _redirects(words: list[bytes]) -> bytes:
    _echo(words)
    if words[0] in (b"AUTH", b"CLUSTER"):
        return line(b"ERR no") if words[0] == b"CLUSTER" else b"+OK\r\n"
    return line(b"MOVED 1 %b:7000" % b"".join(_password[-1].split()))


def _maps(words: list[bytes]) -> bytes:
    _echo(words)
    return _names(words)


def _after_auth(answer: Callable[[bytes], bytes]) -> Callable[[list[bytes]], bytes]:
    def says(words: list[bytes]) -> bytes:
        return _echo(words) if words[0] == b"AUTH" else answer(_password[-1])

    return says


PARROTS: dict[str, Callable[[list[bytes]], bytes]] = {
    "unknown command": lambda words: line(
        b"ERR unknown command `%b`, with args beginning with: %b"
        % (words[0], b" ".join(b"`%b`," % word for word in words[1:]))
    ),
    "cut short": lambda words: line(b"ERR unknown " + b" ".join(words)[: 5 + 6]),
    "wrong password": lambda words: line(b"WRONGPASS it is not " + words[-1]),
    "loading": lambda words: line(b"LOADING " + words[-1].hex().encode()),
    "after all": _after_auth(lambda password: line(b"NOPERM who has " + password)),
    "first word": _after_auth(line),
    "no answer": _after_auth(lambda password: b"?" + password + b"\r\n"),
    "no number": _after_auth(lambda password: b":" + password + b"\r\n"),
    "as a row": _after_auth(lambda password: b"*2\r\n$%d\r\n%b\r\n$1\r\n1\r\n" % (len(password), password)),
    "as an id": _after_auth(lambda password: b'*2\r\n$4\r\n[1,"\r\n$%d\r\n%b\r\n' % (len(password), password)),
    "redirects": _redirects,
    "maps": _maps,
}
KINDS: dict[str, Callable[[str, int], Shard]] = {
    "redis": lambda user, port: RedisShard(f"redis://{user}@127.0.0.1:{port}/0", "data"),
    "hash": lambda user, port: RedisShard(f"redis://{user}@127.0.0.1:{port}/0", "data", layout="hash"),
    "option": lambda user, port: RedisShard(
        f"redis://127.0.0.1:{port}/0?password={user.rpartition(':')[2]}", "data", layout="strings"
    ),
    "cluster": lambda user, port: RedisClusterShard(f"redis+cluster://{user}@127.0.0.1:{port}", "data"),
    "only these": lambda user, port: RedisClusterShard(
        f"redis+cluster://{user}@127.0.0.1:{port}", "data", only_these=True
    ),
    "breaker": lambda user, port: CircuitBreaker(RedisShard(f"redis://{user}@127.0.0.1:{port}/0", "data")),
}


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception with all its causes and contexts."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one not in seen:
            seen.append(one)
            yield one
            left += [other for other in (one.__cause__, one.__context__) if other is not None]


async def everything(shard: Shard, caplog: pytest.LogCaptureFixture) -> tuple[ReadResult, str]:
    """Every text left by a read of the shard, and by a query that bypasses the reader."""
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0  # log every step
    try:
        reader = ShardReader(RangeRouter({1: [(1, 10)]}), {1: shard}, timeout=SECONDS)
        result = await reader.read()
        texts = [repr(shard), repr(result), str(result), repr(result.reports), result._repr_html_()]
        texts += [json.dumps(result.to_dict(), ensure_ascii=False), str(result.timeline())]
        texts += [pickle.dumps(result.reports).decode("utf-8", "replace")]
        try:
            await shard.read(Ask(((1, 10),), 1, 10, loop.time() + SECONDS))
        except Exception as error:
            logging.getLogger("user").exception("a read failed")
            texts += ["".join(traceback.format_exception(error))]
            for one in chain(error):
                texts += [repr(one), str(one), repr(one.args), repr(vars(one))]
        try:
            result.raise_for_missing()
        except LabkitError as error:
            texts += ["".join(traceback.format_exception(error)), repr(error)]
        await reader.aclose()
    finally:
        loop.set_debug(False)
    return result, "\n".join([*texts, caplog.text, *(repr(record.args) for record in caplog.records)])


@pytest.mark.parametrize("parrot", PARROTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_redis_repeats_is_nowhere(kind: str, parrot: str, caplog: pytest.LogCaptureFixture) -> None:
    """A password that the server repeats is shown nowhere, neither in plain text nor as the URL encodes it."""
    for password in PLANTED:
        caplog.clear()
        server, written = Parrot(PARROTS[parrot]), quote(password, safe="")
        async with serving(server) as port:
            result, told = await everything(KINDS[kind](f":{written}", port), caplog)
        assert password.encode() in server.heard
        assert result.reports[1].failed
        assert not leaks(told, password, written)


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_a_user_who_has_no_password_is_taken_for_one(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A user name without a password is treated as a secret: it may be a token."""
    async with serving(Parrot(PARROTS["unknown command"])) as port:
        _, told = await everything(KINDS[kind]("t0ken-of-mine", port), caplog)
    assert not leaks(told, "t0ken-of-mine")


async def test_the_rest_of_what_a_server_says_is_told() -> None:
    """The rest of the server's message is kept: it is what one searches for."""
    async with serving(Parrot(PARROTS["unknown command"])) as port:
        shard = RedisShard(f"redis://bob:s3cret-pw@127.0.0.1:{port}/0", "data")
        async with ShardReader(RangeRouter({1: [(1, 10)]}), {1: shard}, timeout=SECONDS) as reader:
            report = (await reader.read()).reports[1]
            async with Server(reader) as api:
                body = await asyncio.to_thread(lambda: urllib.request.urlopen(api.url + "/data").read())
    assert report.error == "unknown command `AUTH`, with args beginning with: `bob`, `***`,"
    assert report.error.encode() in body
    assert b"s3cret" not in body


async def test_the_checks_of_an_answer_are_told_without_what_was_sent() -> None:
    """Errors from checks outside the shard are masked too."""
    shard = Answering([("s3cret-pw", "a")])
    shard.secrets = Secrets("s3cret-pw")
    async with ShardReader(RangeRouter({1: [(1, 10)]}), {1: CircuitBreaker(shard)}, timeout=SECONDS) as reader:
        report = (await reader.read()).reports[1]
    assert (report.status, report.error) == (Status.INVALID, "id '***' is not an integer")


@pytest.mark.parametrize("parrot", PARROTS)
async def test_what_redis_repeats_to_a_call_is_nowhere(parrot: str) -> None:
    """`labkit call` shows neither the URL's password nor one in the command, for one node or all, as text or JSON."""
    said: list[str] = []
    for words in ((b"GET", b"a"), (b"AUTH", b"0vq-jxkzw"), (b"HELLO", b"2", b"AUTH", b"bob", b"0vq-jxkzw")):
        async with serving(Parrot(PARROTS[parrot])) as port:
            wire = Wire.of(f"redis://:zq7x-kw9vj@127.0.0.1:{port}", SECONDS, words)
            try:
                outcomes = [await ask_owner(wire, words), *(await ask_all(wire, words))]
                said += [in_blocks(outcomes), as_json(outcomes), *failures(outcomes), repr(outcomes)]
                said += [as_text(outcome.reply) for outcome in outcomes]
            except (LabkitError, CallFailure) as error:
                said += ["".join(traceback.format_exception(error)), *(repr(one.args) for one in chain(error))]
            said.append(repr(wire))
    told = "\n".join(said)
    assert not leaks(told, "zq7x-kw9vj")
    assert not leaks(told, "0vq-jxkzw")


def test_passwords_in_a_command_are_known() -> None:
    """Passwords of AUTH, HELLO, MIGRATE, CONFIG SET and ACL SETUSER are recognised; other words are not passwords."""
    from labkit.cli.call.wire import _passwords

    told = {
        "AUTH pw": ["pw"],
        "auth bob pw": ["pw"],
        "HELLO 2 AUTH bob pw SETNAME x": ["pw"],
        "MIGRATE h 1 k 0 9 AUTH pw KEYS a": ["pw"],
        "MIGRATE h 1 k 0 9 AUTH2 bob pw": ["pw"],
        "CONFIG SET requirepass pw": ["pw"],
        "ACL SETUSER bob on >pw ~*": ["pw"],
        "GET auth": [],
        "SET a >pw": [],
    }
    for command, passwords in told.items():
        assert _passwords(tuple(command.encode().split())) == [password.encode() for password in passwords]


class PostgresParrot:
    """A Postgres server that requests the password in the given way and repeats what it received in every field of a
    notice and then of an error (`late`: only after the first query).
    """

    def __init__(self, password: str, way: int, late: bool) -> None:
        self.password, self.way, self.late = password, way, late
        self.heard = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
        mechanisms = b"SCRAM-SHA-256\0\0" if self.way == 10 else b"salt" if self.way == 5 else b""
        writer.write(message(b"R", self.way.to_bytes(4) + mechanisms))
        await reader.readexactly(1)
        self.heard = (await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)).rstrip(b"\0")
        if self.late:
            writer.write(LOGGED_IN)
            await reader.readexactly(1)
        proof = self.heard if self.way == 5 else b""
        said = self.password.encode() + b" " + proof
        fields = b"".join(
            kind + b"it is %b\0" % said for kind in (b"M", b"D", b"H", b"W", b"q", b"s", b"t", b"c", b"d", b"n", b"R")
        )
        writer.write(message(b"N", b"SNOTICE\0C00000\0" + fields + b"\0"))
        writer.write(message(b"E", b"SFATAL\0C28000\0" + fields + b"\0"))
        writer.write_eof()
        await reader.read(-1)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", [3, 5, 10])
@pytest.mark.parametrize("source", ["url", "option", "PGPASSWORD", "PGPASSFILE"])
async def test_what_postgres_repeats_is_nowhere(
    source: str, way: int, late: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """No field of an error or notice shows the password or what was derived from it: in plain text, as MD5 or by SCRAM,
    wherever asyncpg finds it.
    """
    if (way, late) == (10, True):
        late = False  # this server does not implement the rest of SCRAM
    for password in PLANTED:
        caplog.clear()
        server, written = PostgresParrot(password, way, late), quote(password, safe="")
        async with serving(server) as port:
            url = f"postgresql://bob@127.0.0.1:{port}/lab?ssl=disable"
            if source == "url":
                url = url.replace("@", f":{written}@")
            elif source == "option":
                url += f"&password={written}"
            elif source == "PGPASSWORD":
                monkeypatch.setenv(source, password)
            else:
                file = tmp_path / "passwords"
                file.write_text(f"*:*:*:*:{password}\n")
                file.chmod(0o600)
                monkeypatch.setenv(source, str(file))
            result, told = await everything(PostgresShard(url, "data"), caplog)
        assert result.reports[1].status in (Status.REJECTED, Status.DISCONNECTED)
        assert not leaks(told, password, written)
        if way == 5:
            assert server.heard[:3] == b"md5"
            assert not pieces(server.heard.decode(), 8) & pieces(told, 8)


# --- URLs


WORD = "zq7xkwv9jq"
"""No word in labkit's texts shares four consecutive letters with it."""
AROUND = st.text(st.sampled_from(":/?#@[]&=+$,;%!'()*. \\\"{}|^~-_1"), max_size=6)
URLS = [
    "{}://{}@h:1/0", "{}://{}@h:1", "{}://{}@h", "{}://{}@127.0.0.1:6379/db?client_name=x", "{}://{}@h:1,g:2",
    "{}://bob:{}@h:1/0", "{}://:{}@h:1/d", "{}://bob:{}@[::1]:5/0", "{}://bob:{}@h/d?sslmode=require", "{}:{}@h/d",
    "{}://h:1/0?db={}", "{}://h/d?{}=1", "{}://h/d?sslmode={}", "{}://h/d?password=x&port={}", "{}:///d?host={}&port=x",
    "{}://h:1?ssl_cert_reqs={}", "{}://h:1?health_check_interval={}", "{}://h:{}/0", "{}://u:p@h/0#{}", "{}",
]  # fmt: skip
SCHEMES = ["redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "postgresql", "postgresql+asyncpg", "mysql"]
PUBLIC = {"{}://u:p@h/0#{}", "{}://h:{}/0", "{}"}
"""Where the word may be a host or a database name, which a valid URL shows."""


@quick
@given(st.sampled_from(URLS), st.sampled_from(SCHEMES), AROUND, AROUND, st.integers(0, len(WORD)))
def test_no_word_of_a_url_is_told(url: str, scheme: str, before: str, behind: str, cut: int) -> None:
    """A password may be anywhere in a URL and contain its delimiters: no error, chained exception or repr shows a
    fragment of it.
    """
    secret = before + WORD[:cut] + behind + WORD[cut:]
    whole = url.format(scheme, secret) if url != "{}" else secret
    told: list[str] = []
    for make in (RedisShard, RedisClusterShard, PostgresShard):
        try:
            shard: Any = make(whole, "data")
        except UsageError as error:
            told += ["".join(traceback.format_exception(error))]
            told += [text for one in chain(error) for text in (repr(one), str(one), repr(one.args))]
        else:
            told += [repr(shard)]
    if url in PUBLIC:
        told = [text for text in told if not text.startswith(("Redis", "Postgres"))]
    assert not leaks("\n".join(told), WORD[:cut], WORD[cut:])


@quick
@given(st.sampled_from(URLS), st.sampled_from(SCHEMES), AROUND, AROUND, st.integers(0, len(WORD)), st.booleans())
def test_no_word_of_a_url_in_a_file_is_told(
    tmp_path_factory: pytest.TempPathFactory, url: str, scheme: str, before: str, behind: str, cut: int, variable: bool
) -> None:
    """Nor does an error about a topology file, whether the URL is in the file or in a variable that it names."""
    secret = before + WORD[:cut] + behind + WORD[cut:]
    file = tmp_path_factory.getbasetemp() / "secret.toml"
    inside = "${LABKIT_PLANTED}" if variable else secret
    written = json.dumps(url.format(scheme, inside) if url != "{}" else inside)
    file.write_text(f'[[shards]]\nname = 1\nurl = {written}\ntable = "data"\nranges = [[1, 10]]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_PLANTED", secret)
        try:
            topology = load(file)
        except TopologyError as error:
            told = "".join(traceback.format_exception(error)) + "".join(repr(one.args) for one in chain(error))
            assert not leaks(told, WORD[:cut], WORD[cut:])
        else:
            assert not leaks(repr(topology), WORD[:cut], WORD[cut:])


@pytest.mark.parametrize("kind", [RedisShard, RedisClusterShard, PostgresShard])
def test_what_stands_in_a_password_as_it_is_has_a_clear_error(kind: Any) -> None:
    """A delimiter in a password is a clear error: otherwise a part of the password would be dialled and shown."""
    scheme = {RedisShard: "redis", RedisClusterShard: "redis+cluster", PostgresShard: "postgresql"}[kind]
    users = (
        ["zq7x/kwv9", "h:1@kwv9", "h:1?password=kwv9"] if kind is PostgresShard else ["zq7x/kwv9", "1#kwv9", "h:1?kwv9"]
    )
    for user in users:
        with pytest.raises(UsageError) as caught:
            kind(f"{scheme}://{user}@h:1/0", "data")
        assert "write it percent-encoded (/ is %2F, @ is %40)" in str(caught.value)


async def test_a_host_that_cannot_be_found_is_not_named() -> None:
    """The error of a failed name lookup is the system's, which does not name the host."""
    host = f"{WORD}.invalid"
    for shard in (RedisShard(f"redis://{host}:1", "data"), PostgresShard(f"postgresql://u@{host}/d", "data")):
        async with ShardReader(RangeRouter({1: [(1, 10)]}), {1: shard}, timeout=SECONDS) as reader:
            report = (await reader.read()).reports[1]
        assert report.failed
        assert not leaks(str(report.error), WORD)

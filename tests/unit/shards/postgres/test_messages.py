"""The messages of a Postgres server, checked as they arrive: the verdict does not depend on how they are cut or
skipped."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.shards.postgres import messages
from labkit.shards.postgres.messages import TEXT_LIMIT, Messages, check
from tests.support.scenes import quick

KINDS = b"ACDEGHIKNRSTVWZcdnstv123"
"""Source: PostgreSQL documentation, "Message Formats", those sent by the backend (B)."""
STRINGS = {b"A": (4, 2), b"C": (0, 1), b"K": (8, 0), b"S": (0, 2), b"Z": (1, 0), b"D": (2, 0), b"d": (1, 0)}
"""The minimum number of bytes of the content, and of strings after them."""


def message(kind: bytes, body: bytes, extra: int = 0) -> bytes:
    return kind + (4 + len(body) + extra & 0xFFFFFFFF).to_bytes(4) + body


def row(kind: bytes, columns: int, content: bytes) -> bytes:
    return message(kind, columns.to_bytes(2) + content)


def has_shape(kind: bytes, content: bytes) -> bool:
    """Whether the content is well-formed: a second implementation of what `Messages` checks."""
    if kind in (b"E", b"N"):
        return content.startswith(b"\0") or b"\0\0" in content
    if kind == b"R":
        asked, rest = content[:4], content[4:]
        if asked == b"\0\0\0\x05":
            return len(rest) >= 4
        return len(asked) == 4 and (asked != b"\0\0\0\x0a" or has_shape(b"E", rest))
    size, strings = STRINGS.get(kind, (0, 0))
    return len(content) >= size and content.count(0, size) >= strings


def verdict(data: bytes) -> int | None:
    """The number of bytes of `data` after which it is known to be malformed; None if it is not."""
    at = 0
    while len(data) >= at + 5:
        kind, length = data[at : at + 1], int.from_bytes(data[at + 1 : at + 5], signed=True)
        end = at + 1 + length
        if kind not in KINDS or length < 4 + (STRINGS[kind][0] if kind in b"Dd" else 0):
            return at + 5
        if kind in b"ACEKNRSZ":
            if length > TEXT_LIMIT:
                return at + 5
            if end <= len(data) and not has_shape(kind, data[at + 5 : end]):
                return end
        at = end
    return None


def followed(pieces: list[bytes]) -> int | None:
    """The number of the piece that was refused; None if all were accepted."""
    messages = Messages()
    for number, piece in enumerate(pieces):
        try:
            messages.follow(piece)
        except ValueError:
            return number
    return None


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    return [data[begin:end] for begin, end in pairwise([0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)])]


def assert_seen(data: bytes, cuts: list[int]) -> None:
    """The first piece that proves the data malformed is refused, and none before it."""
    known, pieces = verdict(data), pieces_of(data, cuts)
    number = followed(pieces)
    assert (number is None) == (known is None)
    if number is not None:
        before = sum(map(len, pieces[:number]))
        assert before < known <= before + len(pieces[number])


contents = st.lists(
    st.sampled_from([b"\0", b"\0\0", b"d", b"D", b"\0\2", b"d\0\0\0\x1e\0\2", b"SERROR\0", b"Test 7"])
    | st.binary(max_size=6),
    max_size=6,
).map(b"".join)
others = st.builds(message, st.sampled_from([KINDS[i : i + 1] for i in range(len(KINDS))]), contents)
broken = st.builds(message, st.binary(min_size=1, max_size=1), contents, st.integers(-12, 2))
errors = contents.map(lambda content: message(b"E", content.replace(b"\0\0", b"\0") + b"\0\0"))


@st.composite
def many_rows(draw: st.DrawFn) -> bytes:
    """Rows of one answer, alike; a few, or enough to be skipped."""
    kind, columns = (
        draw(st.sampled_from([b"d", b"D"])),
        draw(st.sampled_from([0, 1, 2, 68, 100]) | st.integers(0, 1664)),
    )
    rows = [row(kind, columns, content) for content in draw(st.lists(contents, min_size=1, max_size=4))]
    return b"".join(rows) * draw(st.integers(1, 60) | st.integers(100, 400))


@quick
@given(
    st.lists(many_rows() | others | errors, max_size=5),
    broken | st.just(b""),
    st.lists(many_rows() | errors, max_size=2),
    st.lists(st.integers(0, 1 << 20), max_size=6),
)
def test_the_verdict_is_that_of_a_plain_walk(before: list[bytes], bad: bytes, behind: list[bytes], cuts: list[int]):
    """The verdict equals that of a plain walk, whatever the messages are and wherever they are cut."""
    assert_seen(b"".join([*before, bad, *behind]), cuts)


@quick
@given(many_rows(), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=5), st.lists(st.integers(0, 1 << 20)))
def test_rows_with_bytes_that_were_changed_get_that_verdict(data: bytes, place: int, noise: bytes, cuts: list[int]):
    """The same holds with a few bytes changed anywhere, as on a corrupting network."""
    place %= len(data)
    assert_seen((data[:place] + noise + data[place + len(noise) :])[: len(data)], cuts)


BROKEN = {
    "kind 0": message(b"\0", b""),
    "another kind": message(b"X", b"Test 7"),
    "no length": message(b"d", b"", -4),
    "a length of 3": message(b"d", b"", -1),
    "a negative length": message(b"d", b"", -5),
    "the least length": b"d\x80\0\0\0",
    "an empty piece of a copy": message(b"d", b""),
    "an empty row": message(b"D", b""),
    "a column too few": message(b"D", b"\0"),
    "a ready without a state": message(b"Z", b""),
    "a command without an end": message(b"C", b"SELECT 1"),
    "a notice without an end": message(b"N", b"SNOTICE\0MTest\0"),
    "an error of nothing": message(b"E", b""),
    "a parameter without a value": message(b"S", b"name\0"),
    "a notification without a number": message(b"A", b"\0\0"),
    "a notification without a payload": message(b"A", b"\0\0\0\1channel\0"),
    "half a key": message(b"K", bytes(4)),
    "a request for nothing": message(b"R", b""),
    "a salt too short": message(b"R", b"\0\0\0\5abc"),
    "mechanisms without an end": message(b"R", b"\0\0\0\nSCRAM-SHA-1\0"),
    "a text of 2 GB": b"N\x7f\xff\xff\xff",
}
GOOD = row(b"d", 2, b"Test 7") + message(b"S", b"name\0value\0") + message(b"1", b"")


@pytest.mark.parametrize("bad", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("many", [row(b"d", 2, b"Test 7"), row(b"D", 2, b"Test 7")])
def test_what_is_no_message_is_refused(bad: bytes, many: bytes):
    """A malformed message is refused, alone or among valid ones, in one piece, byte by byte, or cut anywhere."""
    for before, behind in ((b"", b""), (GOOD, GOOD), (many * 1000, b""), (many * 1000, many * 1000)):
        data, begin = before + bad + behind, len(before)
        assert verdict(data) is not None
        for cut in range(begin, begin + len(bad) + 1):
            assert_seen(data, [cut])
        assert_seen(data, [])
    assert_seen(GOOD + bad + GOOD, list(range(200)))


@pytest.mark.parametrize("kind", [b"d", b"D"])
@pytest.mark.parametrize("columns", [0, 2, 68, 100])
@pytest.mark.parametrize("content", [b"", b"\0"])
def test_a_row_too_short_is_not_leapt_over(kind: bytes, columns: int, content: bytes):
    """A row too short for its column count is not skipped, even if the next row's header looks like the count."""
    many, short = row(kind, columns, b"Test 7") * 1000, message(kind, content)
    longer = kind + (columns << 24 | 5000).to_bytes(4) + columns.to_bytes(2) + b"Test 7"
    for behind in (many, longer, longer + many):
        assert_seen(many + short + behind, [])


def test_the_message_is_named():
    """The error names the message's kind and its announced length."""
    for bad, words in (
        (BROKEN["kind 0"], r"a message of kind '\\x00' and 4 bytes"),
        (BROKEN["a negative length"], "a message of kind 'd' and 4294967295 bytes"),
        (BROKEN["a notice without an end"], "a message of kind 'N' that ends in the middle"),
        (BROKEN["a text of 2 GB"], "a message of kind 'N' of more than 65536 bytes, the limit"),
    ):
        with pytest.raises(ValueError, match=words):
            Messages().follow(bad)


def test_each_kind_that_a_server_has_may_come():
    """Every kind that a server sends is accepted, and no other, also as a whole message."""
    right = {b"E": b"\0", b"N": b"\0", b"A": bytes(6), b"S": bytes(2), b"C": b"\0"}
    for number in range(256):
        kind = bytes([number])
        if number in KINDS:
            check(message(kind, right.get(kind, bytes(8))))
        else:
            with pytest.raises(ValueError, match="a message of kind"):
                check(message(kind, bytes(8)))


def test_a_long_message_is_counted_and_not_kept():
    """A row of a gigabyte is counted but not buffered; a text is buffered up to its limit."""
    messages = Messages()
    messages.follow(b"d" + (1 << 30).to_bytes(4))
    for _ in range(1000):
        messages.follow(bytes(1 << 16))
    assert messages._held == b""
    for more in (0, 1):
        long = message(b"E", b"M" + b"x" * (TEXT_LIMIT - 7 + more) + b"\0\0")
        assert verdict(long) == (5 if more else None)
        assert_seen(long, list(range(0, len(long), 1000)))


@pytest.mark.parametrize("name", [b"Test 7", b"", b"hundred", b"d\0\0\0\x1e\0", b"dddd", b"d12345\2D12345\2"])
@pytest.mark.parametrize("kind", [b"d", b"D"])
def test_rows_in_plenty_are_leapt_over(kind: bytes, name: bytes):
    """Of many rows all but the last few are skipped, even if their content looks like the beginning of a row."""
    fields = [(4).to_bytes(4) + i.to_bytes(4) + len(name).to_bytes(4) + name for i in range(1000)]
    data = b"".join(row(kind, 2, field) for field in fields)
    assert len(data) - 3 * len(data) // 1000 - 100 < messages._leapt(data, 0, len(data))[-1] < len(data)

"""COPY BINARY decoded into columns: every row as it was sent, wherever the stream is cut; anything else is invalid."""

from __future__ import annotations

import contextlib
from decimal import Context, Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.shards.postgres.columns import columns_of, schema_of
from labkit.shards.postgres.copy import BATCH, CopyDecoder
from labkit.shards.postgres.messages import Messages
from labkit.shards.postgres.records import records_batch
from labkit.tables import SCHEMA, InvalidAnswer
from tests.support.mocks import copy_binary

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
"""What Postgres can store: anything but the zero byte."""


@st.composite
def streams(draw):
    """A width, rows with IDs of that width, and the sizes in which the stream is fed."""
    width = draw(st.sampled_from([2, 4, 8]))
    most = 256**width // 2
    ids = st.integers(-most, most - 1) | look_alikes(width)
    rows = draw(st.lists(st.tuples(ids, st.none() | texts), max_size=30))
    return width, rows, draw(st.integers(1, 200)), draw(st.integers(1, 500))


def look_alikes(width):
    """IDs that contain bytes with which a row could begin."""
    beginning = b"\0\2\0\0\0" + bytes([width])
    cuts = st.integers(1, 6).map(lambda n: (beginning[:n], beginning[-n:]))
    return cuts.flatmap(lambda pair: st.sampled_from(pair)).map(
        lambda part: int.from_bytes(part[-width:].rjust(width, b"\0"), signed=True)
    )


def decoded(contents, width, piece=1 << 20, chunk=1 << 20):
    """The table decoded from messages with these contents, sent in pieces of that size."""
    decoder, messages = CopyDecoder(pair(width), chunk), Messages()
    sent = b"".join(map(message, contents))
    for start in range(0, len(sent), piece):
        assert decoder.feed(messages.follow(sent[start : start + piece])) == b""
    return decoder.finish()


def message(content, kind=b"d"):
    return kind + (4 + len(content)).to_bytes(4) + content


def pair(width):
    """The columns of a table (id, name), with IDs of that width."""
    oid = {2: 21, 4: 23, 8: 20}[width]
    return columns_of([("id", oid, -1, 0, False, "", oid, 2), ("name", 1043, -1, 0, False, "", 1043, 2)])


def rows_of(table):
    assert table.schema == SCHEMA
    return list(zip(*table.to_pydict().values(), strict=True))


@given(streams())
def test_rows_come_out_as_they_went_in(given):
    """Rows come out unchanged: NULL, empty and any other text, any ID of that width, wherever the stream is cut."""
    width, rows, piece, chunk = given
    assert rows_of(decoded(copy_binary(rows, width), width, piece, chunk)) == rows


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("size", [0, 4, 8, 18])
def test_an_id_that_ends_like_a_row_begins(width, size):
    """65538 is 00 01 00 02, which before a name's length looks like, but is not, the beginning of a row."""
    rows = [(65536 * i + 2, "x" * size) for i in range(1, 50)]
    assert rows_of(decoded(copy_binary(rows, width), width)) == rows


def test_ids_made_to_look_like_rows():
    """IDs and names that contain what looks like rows are never taken for rows."""
    inside = int.from_bytes(b"\0\2\0\0\0\x08\0\2")
    rows = [(inside + i % 3, "\2\x08" * (i % 9)) for i in range(200)]
    assert rows_of(decoded(copy_binary(rows, 8), 8, 100, 300)) == rows


def test_a_text_longer_than_a_chunk():
    """A text that spans many chunks is put together, and the rows around it stay whole."""
    rows = [(1, "a"), (2, "é" * 100_000), (3, None)]
    assert rows_of(decoded(copy_binary(rows), 4, 1000, 64)) == rows


def test_batches_are_put_together():
    """Many rows make a few batches, so that a table of millions is not thousands of chunks."""
    rows = [(i, f"Test {i}") for i in range(150_000)]
    table = decoded(copy_binary(rows), 4, 40_000, 100_000)
    assert table.num_rows == 150_000
    assert table.column("id").num_chunks <= 150_000 // BATCH + 1


HEADER, FIRST, SECOND, TRAILER = copy_binary([(1, "Test 1"), (2, "Test 2")])
NO_HEADER, TRUNCATED, TOO_LONG = "does not begin with its header", "is truncated", "is malformed after its rows"
MALFORMED = "a row is malformed"
BROKEN = {
    "nothing": ([], TRUNCATED),
    "another beginning": ([b"x" + HEADER[1:], FIRST, TRAILER], NO_HEADER),
    "half a header": ([HEADER[:-1], FIRST, TRAILER], NO_HEADER),
    "no trailer": ([HEADER, FIRST, SECOND], TRUNCATED),
    "half a row": ([HEADER, FIRST, SECOND[:-8]], MALFORMED),
    "half a row before another": ([HEADER, FIRST[:-8], SECOND, TRAILER], MALFORMED),
    "two rows in one message": ([HEADER, FIRST + SECOND, TRAILER], MALFORMED),
    "a row and a half": ([HEADER, FIRST + SECOND[:10], SECOND[10:], TRAILER], MALFORMED),
    "more after the trailer": ([HEADER, FIRST, TRAILER, SECOND], f"{TOO_LONG}|{MALFORMED}"),
    "two trailers": ([HEADER, FIRST, TRAILER, TRAILER], f"{TOO_LONG}|{MALFORMED}"),
    "three fields": ([HEADER, b"\0\3" + FIRST[2:], TRAILER], MALFORMED),
    "an id of another width": ([HEADER, FIRST[:5] + b"\x08" + FIRST[6:], TRAILER], MALFORMED),
    "an id of a gigabyte": ([HEADER, FIRST[:2] + b"\x40" + FIRST[3:], TRAILER], MALFORMED),
    "a name that is too long": ([HEADER, FIRST[:13] + b"\x07" + FIRST[14:], TRAILER], MALFORMED),
    "a name that is too short": ([HEADER, FIRST[:13] + b"\x05" + FIRST[14:], TRAILER], MALFORMED),
}


@pytest.mark.parametrize(("contents", "said"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("piece", [7, 1000])
def test_what_is_no_such_answer_is_invalid(contents, said, piece):
    """An answer with bytes lost or changed raises `InvalidAnswer`; rows after the end are found by either check."""
    with pytest.raises(InvalidAnswer, match=said):
        decoded(contents, 4, piece, 16)


def test_half_a_message_at_the_end_is_invalid():
    """A row that the server began after its last one is not left to the driver, which would misread its rest."""
    decoder, messages = CopyDecoder(pair(4)), Messages()
    decoder.feed(messages.follow(message(HEADER + FIRST) + message(TRAILER) + message(SECOND)[:-1]))
    with pytest.raises(InvalidAnswer, match="truncated"):
        decoder.finish()


@pytest.mark.parametrize("piece", [7, 1000])
def test_the_header_may_be_in_a_message_with_what_follows(piece):
    """A server sends the header in one message with the first row, or with the trailer if there are no rows."""
    assert rows_of(decoded([HEADER + FIRST, SECOND, TRAILER], 4, piece, 16)) == [(1, "Test 1"), (2, "Test 2")]
    for empty in ([HEADER + TRAILER], [HEADER, TRAILER]):
        assert rows_of(decoded(empty, 4, piece, 16)) == []


@pytest.mark.parametrize("early", [0, 3, 12])
@pytest.mark.parametrize("piece", [1, 3, 7, 1000])
@pytest.mark.parametrize("chunk", [1, 40, 1000])
def test_messages_that_are_no_rows_are_given_back(early, piece, chunk):
    """Whatever else the server says is for the driver: before, between and after the rows, wherever it is cut, and also
    if the driver has received the beginning of it already.
    """
    notice, begin, end = message(b"SNOTICE\0MTest\0\0", b"N"), message(b"\1\0\2\0\1\0\1", b"H"), message(b"", b"c")
    rows = [message(content) for content in (HEADER + FIRST, SECOND, TRAILER)]
    sent = b"".join([begin, notice, rows[0], notice, notice, rows[1], rows[2], end, notice])
    decoder, messages = CopyDecoder(pair(4), chunk), Messages()
    given = messages.follow(sent[:early]).data
    for start in range(early, len(sent), piece):
        given += decoder.feed(messages.follow(sent[start : start + piece]))
    assert given == begin + notice + notice + notice + end + notice
    assert rows_of(decoder.finish()) == [(1, "Test 1"), (2, "Test 2")]


def test_a_key_that_is_null_is_named():
    """A row without a key is named by its number, in whichever chunk it is."""
    keyless = b"\0\2\xff\xff\xff\xff" + FIRST[10:]
    for piece in (7, 1000):
        with pytest.raises(InvalidAnswer, match="row 2 has NULL for id, the key"):
            decoded([HEADER, FIRST, keyless, SECOND], 4, piece, 16)


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=3))
def test_any_bytes_are_rows_or_invalid(noise):
    """Any bytes after a valid header are rows or raise `InvalidAnswer`, even if a text is not UTF-8."""
    with contextlib.suppress(InvalidAnswer):
        decoded([HEADER, *noise], 4, 50, 64)


def test_text_that_is_not_utf8_is_told_as_the_driver_tells_it():
    """Text that is not UTF-8, as from a database without an encoding, has the same error as in asyncpg's SELECT."""
    with pytest.raises(InvalidAnswer) as caught:
        decoded([HEADER, FIRST, SECOND.replace(b"Test 2", b"Tes\xff 2"), TRAILER], 4)
    assert str(caught.value).endswith(": 'utf-8' codec can't decode byte 0xff in position 3: invalid start byte")


def test_no_records_are_no_rows():
    """An empty list of records is an empty batch."""
    assert records_batch(pair(8), SCHEMA, [], 0).num_rows == 0


@st.composite
def decimals(draw):
    """A precision, a scale, and values that fit, as the server stores them, or NULL."""
    precision = draw(st.integers(1, 38))
    scale = draw(st.integers(0, precision))
    most = 10**precision - 1
    units = st.integers(-most, most) | st.integers(-min(20, most), min(20, most))
    return precision, scale, draw(st.lists(st.none() | units, min_size=1, max_size=8))


@given(decimals())
def test_decimals_come_out_as_they_went_in(given):
    """Numerics of every precision and scale are exact, next to NULLs."""
    precision, scale, units = given
    columns = [*pair(8)[:1], *columns_of([("n", 1700, (precision << 16 | scale) + 4, 0, False, "numeric", 1700, 2)])]
    records = [record(number, one, scale) for number, one in enumerate(units)]
    found = records_batch(columns, schema_of(columns), records, 0).column(1)
    assert found.type == pa.decimal128(precision, scale)
    exact = Context(prec=50)
    assert found.to_pylist() == [None if one is None else exact.scaleb(Decimal(one), -scale) for one in units]


def record(number, units, scale):
    """A record of an ID and a numeric. Source: PostgreSQL, `numeric.c`, `numeric_send`."""
    head = b"\0\0\0\2" + (20).to_bytes(4) + (8).to_bytes(4) + number.to_bytes(8) + (1700).to_bytes(4)
    if units is None:
        return head + b"\xff\xff\xff\xff"
    behind = -(-scale // 4)
    rest, digits = abs(units) * 10 ** (4 * behind - scale), []
    while rest:
        rest, digit = divmod(rest, 10_000)
        digits.insert(0, digit)
    weight = len(digits) - behind - 1 if digits else 0
    while digits and not digits[-1]:
        digits.pop()
    sign = 0x4000 if units < 0 else 0
    fields = [len(digits).to_bytes(2), weight.to_bytes(2, signed=True), sign.to_bytes(2), scale.to_bytes(2)]
    value = b"".join([*fields, *(digit.to_bytes(2) for digit in digits)])
    return head + len(value).to_bytes(4) + value

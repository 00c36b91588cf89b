"""Rows as columns: numpy and Arrow decode many members to exactly what `json` makes of each."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN
from labkit.shards.redis.arrays import _cut
from labkit.shards.redis.layouts.byte_strings import TAIL, ByteStrings
from labkit.shards.redis.layouts.columns import columns
from labkit.shards.redis.layouts.numbers import numbers
from labkit.shards.redis.layouts.rows import id_of, member, row
from labkit.tables import InvalidAnswer, to_batch
from tests.support import scenes

quick = settings(scenes.quick, max_examples=80)

IDS = st.integers(-20, 20) | st.integers(INT64_MIN - 2, INT64_MAX + 2) | st.sampled_from([INT64_MIN, INT64_MAX, 10**30])
NAMES = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    | st.text('\\"\n\r,[]0 \x7f\u2028ü', max_size=6)
)
WRITTEN = st.builds(member, IDS, NAMES)
"""Rows as labkit writes them, nearly all in plain form."""
BY_OTHERS = st.builds(
    lambda row_id, name, ascii_only, separators: json.dumps(
        [row_id, name], ensure_ascii=ascii_only, separators=separators
    ).encode(),
    IDS | st.booleans() | st.none() | st.floats() | st.text(max_size=3),
    NAMES | st.integers() | st.booleans() | st.just(["a"]),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": "), (",  ", ":"), (" ,", ":"), ("\n,\n", ":")]),
)
ODD_ID = st.text("0011-+.ex_ \t\x0b٣", max_size=4) | st.sampled_from(["true", "null", "NaN"])
ODD_NAME = st.text('""""a, \\[]\x01\n', max_size=5) | st.sampled_from(
    ["null", "nul", "nulls", "Null", "null ", " null", '"\\ud800"', '"a\\u00fc"', '"a"', '  "a"', "7"]
)
ALMOST = st.builds(
    lambda start, row_id, comma, name, end: f"{start}{row_id}{comma}{name}{end}".encode(),
    st.sampled_from(["[", "[", "[", "", "{", " ["]),
    ODD_ID | IDS,
    st.sampled_from([",", ",", ",", "", ";", ",,"]),
    ODD_NAME,
    st.sampled_from(["]", "]", "]", "", "]]", "] ", ","]),
)
NOISE = st.binary(max_size=12) | st.builds(
    lambda raw, at, byte: raw[:at] + bytes([byte]) + raw[at + 1 :], WRITTEN, st.integers(0, 12), st.integers(0, 255)
)
NO_BYTES = st.sampled_from([None, 7, [], '[1,"text"]', bytearray(b"[1,null]")])


def one_by_one(members: list[Any]) -> Any:
    """What `row` returns for each: the rows, None if a column cannot hold one, or the error text."""
    try:
        rows = [row(raw) for raw in members]
    except InvalidAnswer as error:
        return str(error)
    try:
        to_batch(rows or [(0, None)])
    except InvalidAnswer:
        return None
    return rows


def as_they_came(members: list[bytes]) -> ByteStrings:
    """The members as Redis sends them, each between a header and a line end, as they are parsed."""
    data, heads = bytearray(), []
    for raw in members:
        heads.append(len(data))
        data += b"$%d\r\n%s\r\n" % (len(raw), raw)
    found = _cut(np.frombuffer(bytes(data) + TAIL, np.uint8), np.array(heads, np.int64), len(data))
    assert found is not None
    return found


def at_once(members: list[Any] | ByteStrings) -> Any:
    try:
        found = columns(members)
        batch = found.batch([row(members[place]) for place in found.others])
    except InvalidAnswer as error:
        return str(error)
    if batch is None:
        return None
    batch.validate(full=True)
    return list(zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True))


@quick
@given(st.lists(WRITTEN | BY_OTHERS, max_size=12))
@example([])
def test_rows_are_the_same(members: list[bytes]) -> None:
    """Any row that JSON can hold is decoded alike: awkward text, NULL, huge IDs, spaces, escapes."""
    assert at_once(members) == at_once(as_they_came(members)) == one_by_one(members)


@quick
@given(st.lists(WRITTEN, min_size=1, max_size=4), st.lists(ALMOST | NOISE, min_size=1, max_size=2), st.data())
def test_what_is_no_row_is_the_same(rows: list[bytes], odd: list[Any], data: st.DataObject) -> None:
    """Malformed members among valid ones give the same rows or the same error as one by one."""
    members = data.draw(st.permutations(rows + odd + data.draw(st.lists(NO_BYTES, max_size=1))))
    assert at_once(members) == one_by_one(members)
    if all(isinstance(raw, bytes) for raw in members):
        assert at_once(as_they_came(members)) == one_by_one(members)


@quick
@given(
    st.integers(1, 17).flatmap(lambda width: st.lists(st.integers(10 ** (width - 1), 10**width - 1), min_size=2)),
    st.text(st.characters(min_codepoint=32, exclude_characters='"\\'), max_size=3),
    st.integers(0, 5),
    st.integers(0, 30),
    st.sampled_from(b'09/:"[],\\ \x00') | st.integers(0, 255),
)
@example([10**15, 10**16 - 1], "", 1, 15, ord(":"))
def test_one_byte_among_members_that_are_alike_is_seen(
    ids: list[int], name: str, which: int, at: int, byte: int
) -> None:
    """IDs that have as many digits are decoded together; a member that differs in a byte is decoded as it is alone."""
    members = [member(row_id, name) for row_id in ids]
    assert at_once(as_they_came(members)) == one_by_one(members) == [(row_id, name) for row_id in ids]
    raw = members[which % len(members)]
    members[which % len(members)] = raw[: at % len(raw)] + bytes([byte]) + raw[at % len(raw) + 1 :]
    assert at_once(as_they_came(members)) == one_by_one(members)


@pytest.mark.parametrize(
    "apart", [[b'[1,"a"', b'"]'], [b'[1,"', b'b"]'], [b'[1,"a"],[2,"b"]', b""], [b'[1,"]', b'[2,"a"b"]']]
)
def test_two_halves_are_no_row(apart: list[bytes]) -> None:
    """Each member is decoded on its own: two neighbours never form a row together."""
    assert columns([b'[0,"x"]', *apart]).others == [1, 2]


def test_rows_of_the_plain_form_are_not_decoded_one_by_one() -> None:
    """Rows as labkit and plain `json.dumps` write them are decoded in bulk, those with escapes one by one."""
    names = ["a", None, "", "ü,[1]", "null", "x" * 1000]
    plain = [member(i - 3, name) for i, name in enumerate(names)]
    plain += [json.dumps([i, name], ensure_ascii=False).encode() for i, name in enumerate(names)]
    assert columns([*plain, member(7, '"'), *plain]).others == [len(plain)]


@quick
@given(st.lists(st.builds(lambda number: b"%d" % number, IDS) | ODD_ID.map(str.encode) | NO_BYTES, max_size=5))
def test_numbers_are_those_that_can_be_ids(words: list[Any]) -> None:
    """`numbers` returns all words as IDs if each is a 64-bit decimal, otherwise None."""

    def is_id(word: Any) -> bool:
        try:
            return isinstance(word, bytes) and INT64_MIN <= id_of(word) <= INT64_MAX
        except InvalidAnswer:
            return False

    found = numbers(words)
    assert (found is not None) == all(map(is_id, words))
    assert found is None or found.tolist() == [int(word) for word in words]

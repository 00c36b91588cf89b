"""The reader in front of hiredis returns the same answers, to the byte, whatever arrives and however it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from labkit.shards.redis import arrays as redis_arrays
from labkit.shards.redis.arrays import LONGEST, NESTED, ArrayReader
from labkit.shards.redis.layouts.bulk import MAX_ONE_BY_ONE
from labkit.shards.redis.layouts.byte_strings import ByteStrings, Many
from labkit.shards.redis.layouts.rows import as_list
from labkit.tables import InvalidAnswer
from tests.support import scenes

pytestmark = pytest.mark.slow

quick = settings(scenes.quick, max_examples=200)

STRING = st.binary(max_size=12) | st.sampled_from(
    [b"\r\n", b"$1\r\n", b"\n$1\r\na\r\n", b"x" * 9, b"x" * 10, b"y" * 40]
)
ELEMENT = st.none() | st.integers(-3, 300) | st.lists(STRING, max_size=3) | STRING
ANSWER = st.lists(STRING, max_size=9) | st.lists(ELEMENT, max_size=9) | ELEMENT
CUTS = st.builds(lambda first, others: [first, *others], st.integers(4, 60), st.lists(st.integers(1, 60), max_size=9))
"""The first piece holds a short first line whole: an array whose first line is cut is left to hiredis."""
END = b"+OK\r\n" * 40
"""Enough answers to complete whatever was still pending."""


@pytest.fixture(autouse=True, params=[40, 10_000])
def of_three(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Arrays of more than two strings of up to twenty bytes take the fast path here, whole or in pieces."""
    monkeypatch.setattr(redis_arrays, "MAX_ONE_BY_ONE", 2)
    monkeypatch.setattr(redis_arrays, "CHUNK", 4)
    monkeypatch.setattr(redis_arrays, "LONGEST", 20)
    monkeypatch.setattr(redis_arrays, "LOOK", request.param)
    monkeypatch.setattr(redis_arrays, "SLICE", request.param // 2)


def resp(answer: Any) -> bytes:
    """An answer in RESP2."""
    match answer:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % answer
        case list():
            return b"*%d\r\n" % len(answer) + b"".join(map(resp, answer))
        case _:
            return b"$%d\r\n%s\r\n" % (len(answer), answer)


def answers(reader: Any, data: bytes, cuts: Sequence[int]) -> list[Any]:
    """All answers of a reader that is fed `data` in pieces of those sizes, in turn; a protocol error comes last."""
    nothing, found, at, turn = reader.gets(), [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        reader.feed(data[at : at + size])
        at, turn = at + size, turn + 1
        try:
            while (answer := reader.gets()) is not nothing or getattr(reader, "is_busy", False):
                if answer is nothing:
                    continue
                found.append(comparable(answer))
        except hiredis.HiredisError as error:
            return [*found, str(error)]
    return found


def comparable(answer: Any) -> Any:
    """Arrays as lists, and errors, which are equal to nothing but themselves, by their text."""
    if isinstance(answer, list | ByteStrings | Many):
        return [comparable(one) for one in answer]
    return ("error", str(answer)) if isinstance(answer, hiredis.ReplyError) else answer


@quick
@given(st.lists(ANSWER, max_size=4), CUTS)
@example([[b"a", b"b", None]], [100])
@example([[b"a", b"b", 5]], [3])
@example([[b"a", 5, b"b"]], [100])
@example([[5, b"a", b"b"], b"c"], [100])
@example([b"a", [[b"a", b"b", b"c"]]], [11, 100])
@example([[b"a\n$1\r\nb", b"b", b"c"]], [100])
@example([[b"a", b"b", b"z" * 21]], [100])
def test_every_answer_is_the_one_of_hiredis(given_answers: list[Any], cuts: list[int]) -> None:
    """Answers equal those of hiredis, however nested they are and wherever the bytes are cut."""
    data = b"".join(map(resp, given_answers))
    assert answers(ArrayReader(hiredis.Reader()), data, cuts) == given_answers == answers(hiredis.Reader(), data, cuts)


@quick
@given(st.lists(ANSWER, min_size=1, max_size=3), CUTS, st.integers(0, 10**6), st.binary(max_size=2))
@example([[b"a", b"b", b"c"]], [100], 22, b"XY")
@example([6], [100], 0, b"-")
def test_what_is_changed_on_the_way_is_what_hiredis_has_it_for(
    given_answers: list[Any], cuts: list[int], at: int, noise: bytes
) -> None:
    """Corrupt bytes give the same answers and the same protocol error as with hiredis alone."""
    right = b"".join(map(resp, given_answers))
    at %= len(right)
    data = right[:at] + noise + right[at + len(noise) :] + END
    try:
        found = answers(ArrayReader(hiredis.Reader()), data, cuts)
    except InvalidAnswer:  # it announces more elements than are accepted, which hiredis would wait for
        reject()
    assert found == answers(hiredis.Reader(), data, cuts)


@pytest.mark.parametrize("size", [7, 10, 1000])
def test_only_a_large_array_of_short_strings_is_no_list(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a large array of short strings is a `ByteStrings`; every other answer is a list, as from hiredis."""
    monkeypatch.undo()

    def came_as(answer: list[Any]) -> type:
        reader = ArrayReader(hiredis.Reader())
        data = resp(answer)
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            found = reader.gets()
            while reader.is_busy:
                found = reader.gets()
        assert as_list(found) == answer
        assert not reader.has_data()
        return type(found)

    many = [b'[%d,"Test %d"]' % (i, i) for i in range(MAX_ONE_BY_ONE + 1)]
    assert came_as(many) is ByteStrings
    assert came_as([*many, b"x" * LONGEST]) is ByteStrings
    assert came_as(many[:MAX_ONE_BY_ONE]) is list
    assert came_as([*many, b"x" * (LONGEST + 1)]) is list
    assert came_as([*many, None]) is list
    assert came_as([*many, 7]) is list


@pytest.mark.parametrize(
    ("odd", "size"), [(b"x" * 2000, 65_536), (None, 100_003), (7, 65_536), ([b"a", [b"b"]], 100_003)]
)
def test_what_comes_in_pieces_keeps_pairs_together(odd: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long array arrives as parts of an even length, also around an element that is not a short string."""
    monkeypatch.undo()
    given_elements = [b"%d" % i for i in range(300_001)]
    for place in (None, 0, 150_001, 300_000):
        if place is not None:
            given_elements[place] = odd
        reader, data = ArrayReader(hiredis.Reader()), resp(given_elements)
        reader.allow(1 << 30)
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            found = reader.gets()
            while reader.is_busy:
                found = reader.gets()
        assert isinstance(found, Many)
        assert all(len(piece) % 2 == 0 for piece in found.pieces[:-1])
        assert {type(piece) for piece in found.pieces} <= ({ByteStrings, list} if place is not None else {ByteStrings})
        assert len(found) == len(given_elements)
        assert list(found) == given_elements
        assert not reader.has_data()


def test_answers_that_trickle_in_are_not_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is linear in the bytes, even if they arrive one at a time."""
    monkeypatch.undo()
    looks = []
    cut = redis_arrays._cut

    def counted(*words: Any) -> Any:
        looks.append(words)
        return cut(*words)

    monkeypatch.setattr(redis_arrays, "_cut", counted)
    strings = [b"x" * (i % 50) for i in range(4000)]
    data = resp(strings)
    assert answers(ArrayReader(hiredis.Reader()), data, [len(b"*4000\r\n"), *[1] * len(data)]) == [strings]
    assert 0 < len(looks) < 100


def test_a_reader_says_whether_it_has_the_beginning_of_an_answer() -> None:
    """`has_data` is true from the first byte of an answer until all of it has been taken."""
    reader = ArrayReader(hiredis.Reader())
    assert not reader.has_data()
    reader.feed(b"*3\r\n$1\r\na")
    assert reader.has_data()
    reader.feed(b"\r\n$1\r\nb\r\n$1\r\nc\r\n")
    assert list(reader.gets()) == [b"a", b"b", b"c"]
    assert not reader.has_data()


def test_texts_are_had_one_by_one_and_in_part() -> None:
    """`ByteStrings` is a sequence: length, indices from both ends, slices."""
    reader = ArrayReader(hiredis.Reader())
    reader.feed(resp([b"a", b"", b"ccc", b"d"]))
    texts = reader.gets()
    assert isinstance(texts, ByteStrings)
    assert (len(texts), texts[0], texts[1], texts[-1], list(texts[1:3])) == (4, b"a", b"", b"d", [b"", b"ccc"])


def test_the_limit_of_nested_elements_is_that_of_one_answer() -> None:
    """Answers to a pipeline may have more elements together than one of them may have."""
    count = 200
    reply = b"*%d\r\n" % count + b"$1\r\nx\r\n" * count
    reader, data = ArrayReader(hiredis.Reader()), reply * (2 * NESTED // count)
    reader.allow(1 << 30)
    assert answers(reader, data, [10_000]) == [[b"x"] * count] * (2 * NESTED // count)

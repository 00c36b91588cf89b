"""Arrays of many short strings, as Redis answers with, left in the bytes as they came, side by side (RESP2).

hiredis makes an object of every string: of rows that numpy and Arrow are to look at, that is half of the time. It
still reads all else, and says what is wrong with it: what is nested or NULL or long, and what is no answer.

Nothing that a server says makes a read hold more than `allow` says, or keeps the event loop for long: an array is taken
in pieces as it comes, and what it announces is believed only within bounds.
Source of the format: Redis documentation, "Redis serialization protocol specification" (arrays, bulk strings).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from redis.asyncio.connection import DefaultParser

from labkit.shards.redis.layouts.bulk import CHUNK, MAX_ONE_BY_ONE
from labkit.shards.redis.layouts.byte_strings import TAIL, ByteStrings, Many, Offsets, every
from labkit.tables import InvalidAnswer

__all__ = ["LONGEST", "LONGEST_TEXT", "NESTED", "ArrayReader", "Parser"]

LONGEST = 1_100
"""Bytes of a string: a VARCHAR(255) in UTF-8, as JSON beside the longest id, takes 1,045."""
LONGEST_TEXT = 1 << 24
"""Bytes that one string may have at all, 16 MiB: a longer one keeps the event loop while it is copied and decoded."""
NESTED = 100_000
"""Elements that arrays in arrays may announce: CLUSTER SLOTS of a thousand masters has some 20,000. The more there are,
the longer takes Python's garbage collection."""
LOOK = 1 << 20
"""Bytes of an array at the most that are looked at in one go: a millisecond or two."""
SLICE = 1 << 14
"""Bytes that hiredis is given at a time."""
HANDSHAKE = 1 << 20
"""Bytes of answers before anybody has said what is allowed."""
OBJECT = 64
"""Bytes that a Python object takes beside what it was made of, more or less."""

_ARRAY = re.compile(rb"\*([1-9][0-9]{0,17})\r\n")
_CUT = re.compile(rb"\*[0-9]{0,18}\r?")
_HEAD = re.compile(rb"\$([0-9]{1,4})\r\n")
_CUT_HEAD = re.compile(rb"\$[0-9]{0,4}\r?")
_ANNOUNCED = re.compile(rb"\n(?:\*([0-9]+)|\$([0-9]{8,}))\r")
_DOLLAR, _NEWLINE = b"$\n"
_LINE_END = b"\r\n"
_LEAST = 3
"""Bytes of the smallest answer there is."""

_Hiredis: Any = DefaultParser
Bytes: TypeAlias = npt.NDArray[np.uint8]
Strings: TypeAlias = "list[Any] | ByteStrings | Many"


class Parser(_Hiredis):  # type: ignore[misc]
    """redis-py's parser, for the `parser_class` of its connections, with an `ArrayReader` before its hiredis."""

    def on_connect(self, connection: Any) -> None:
        """Called by the connection, each time that there is one."""
        super().on_connect(connection)
        self._reader: Any = ArrayReader(self._reader)

    def allow(self, limit: int) -> None:
        """See `ArrayReader.allow`."""
        self._reader.allow(limit)

    async def read_from_socket(self) -> bool:
        """The next bytes; or none, so that others get their turn, where those that came have much in them."""
        if self._reader.is_busy:
            await asyncio.sleep(0)
            return True
        return bool(await super().read_from_socket())


class ArrayReader:
    """As `hiredis.Reader`, of which `reader` is a new one: `feed` takes bytes, `gets` gives whole answers.

    An answer of more than `MAX_ONE_BY_ONE` strings, each of `LONGEST` bytes at most, comes as `ByteStrings`, or as `Many` where it
    took several looks. Both methods raise `InvalidAnswer` for answers that are, or announce to be, longer than allowed.
    """

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._nothing = reader.gets()
        """What hiredis says where no answer is whole."""
        self._inside = False
        """Whether hiredis has the beginning of an answer, so that the rest of it is for hiredis too."""
        self._begun = b""
        """The first line of an array, as far as it has come."""
        self._strings: _Strings | None = None
        self._announced = _Announced()
        self._slices: deque[bytes] = deque()
        """What is for hiredis next: it moves all that it has whenever it has made something of a part."""
        self.allow(HANDSHAKE)

    def allow(self, limit: int) -> None:
        """From now on answers may have so many bytes, all together."""
        self._limit = self._left = limit

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream; they may be cut anywhere."""
        self._spend(len(data))
        if self._strings is not None and not self._strings.odd:
            self._strings.feed(data)
            return
        if self._strings is None and not self._inside:
            data, self._begun = self._begun + data, b""
            if _CUT.fullmatch(data):
                self._begun = data
                return
            self._strings = self._array(data)
            if self._strings is not None:
                return
        self._pass_on(data)

    def gets(self, *decoding: bool) -> Any:
        """The next answer; raises what hiredis raises."""
        if self._strings is not None:
            return self._array_whole()
        answer = self._reader.gets(*decoding)
        while answer is self._nothing and self._slices:
            self._feed_slice()
            answer = self._reader.gets(*decoding)
        if answer is not self._nothing:
            self._inside = bool(self._slices) or self._reader.has_data()
        return answer

    @property
    def is_busy(self) -> bool:
        """Whether `gets` is to be called again before more is fed."""
        return self._strings is not None and bool(self._slices)

    def has_data(self) -> bool:
        """Whether there are bytes that no answer was made of."""
        return self._strings is not None or bool(self._begun or self._slices) or bool(self._reader.has_data())

    def _array(self, data: bytes) -> _Strings | None:
        """What takes the array that begins there; None where it is none, or not one of many."""
        found = _ARRAY.match(data)
        if not found or int(found[1]) <= MAX_ONE_BY_ONE:
            return None
        count = int(found[1])
        if count * _LEAST > self._left:
            raise InvalidAnswer(f"an answer of {count} elements has more than {self._limit} bytes (answer_limit)")
        return _Strings(count, data, len(found[0]))

    def _array_whole(self) -> Any:
        """The array, once all of it has come."""
        strings = self._strings
        assert strings is not None
        if not strings.odd and strings.look():
            self._pass_on(strings.rest)
        if strings.odd:
            self._one_by_one(strings)
        if strings.count:
            return self._nothing
        self._strings = None
        return strings.whole()

    def _one_by_one(self, strings: _Strings) -> None:
        """Takes the elements of the next slice from hiredis, each as an answer by itself."""
        if self._slices:
            self._feed_slice()
        gets, nothing = self._reader.gets, self._nothing
        elements: list[Any] = []
        while len(elements) < strings.count and (element := gets()) is not nothing:
            elements.append(element)
        self._spend(OBJECT * len(elements))
        strings.take(elements)
        self._inside = strings.count > 0 or bool(self._slices) or self._reader.has_data()

    def _pass_on(self, data: bytes) -> None:
        if not self._inside:
            self._announced = _Announced()
        self._inside = True
        self._slices.extend(data[start : start + SLICE] for start in range(0, len(data), SLICE))

    def _feed_slice(self) -> None:
        data = self._slices.popleft()
        self._announced.check(data)
        self._reader.feed(data)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise InvalidAnswer(f"the answer has more than {self._limit} bytes (answer_limit)")


class _Announced:
    """What an answer says of itself before it comes, and hiredis makes room for."""

    def __init__(self) -> None:
        self._tail = b"\n"
        self._nested = 0

    def check(self, data: bytes) -> None:
        """Raises `InvalidAnswer` where the next bytes of it announce too much; a long one may be cut anywhere."""
        known, data = len(self._tail), self._tail + data
        for found in _ANNOUNCED.finditer(data):
            if found.end() <= known and known > 1:
                continue
            if found[1] is None:
                if len(found[2]) > 10 or int(found[2]) > LONGEST_TEXT:
                    raise InvalidAnswer(f"a string of the answer has more than {LONGEST_TEXT} bytes")
            else:
                self._nested += max(1, int(found[1])) if len(found[1]) < 10 else NESTED + 1
                if self._nested > NESTED:
                    raise InvalidAnswer(f"arrays in the answer have more than {NESTED} elements")
        self._tail = data[-24:]


class _Strings:
    """The `count` strings of an array that are still to come, in `data` from `begin` and in what follows; and those
    that have come, in pieces. Each but the last piece has an even number, so that pairs stay together.

    A string has a head, that says its length, and a line end. A look at them goes over all bytes that none was made of
    yet, so one is worth it only where they may be the last, or are many.
    """

    def __init__(self, count: int, data: bytes, begin: int) -> None:
        self.count, self._begin = count, begin
        self._parts = [data]
        self._size = len(data)
        self._enough = begin + _LEAST * count
        self._pieces: list[list[Any] | ByteStrings] = []
        self._loose: list[Any] = []
        self.odd = False
        """Whether it turned out that something else came, so that elements are for hiredis from there on."""

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._parts.append(data)
        self._size += len(data)

    @property
    def rest(self) -> bytes:
        """All bytes that came and that no string was made of."""
        return b"".join(self._parts)[self._begin :]

    def take(self, elements: list[Any]) -> None:
        """Elements that somebody else has read."""
        self.count -= len(elements)
        self._loose += elements
        if len(self._loose) >= CHUNK:
            even = len(self._loose) // 2 * 2
            self._pieces.append(self._loose[:even])
            self._loose = self._loose[even:]

    def whole(self) -> Strings:
        """All of them."""
        pieces = [*self._pieces, self._loose] if self._loose else self._pieces
        if len(pieces) == 1:
            return pieces[0]
        return list(chain.from_iterable(pieces)) if sum(map(len, pieces)) <= CHUNK else Many(pieces)

    def look(self) -> bool:
        """Cuts what has come into strings, if that is worth it; whether it is `odd`."""
        ended = self._parts[-1].endswith(_LINE_END[-1:]) and self._size >= self._enough
        if not ended and self._size < LOOK:
            return False
        data = np.frombuffer(b"".join([*self._parts, TAIL]), np.uint8)
        heads = _heads(data[self._begin - 1 : self._size]) + self._begin
        self.odd = not len(heads) or heads[0] != self._begin or len(heads) > self.count
        if self.odd or (ended and len(heads) == self.count and self._cut(data, heads, self._size)):
            return self.odd
        last = int(heads[-1])
        if not _may_be_string(data[last : self._size].tobytes()):
            self.odd = True
        elif self._size < LOOK:
            self.odd = _cut(data, heads[:-1], last) is None
            self._enough = self._size + _LEAST * (self.count - len(heads))
        else:
            even = (len(heads) - 1) // 2 * 2
            self.odd = not self._cut(data, heads[:even], int(heads[even]))
        return self.odd

    def _cut(self, data: Bytes, heads: Offsets, end: int) -> bool:
        """Makes a piece of the strings at `heads`, of which the last goes to `end`; False where one is none."""
        texts = _cut(data, heads, end)
        if texts is None:
            return False
        self.count -= len(heads)
        self._pieces.append(texts)
        self._parts = [b"\n" + data[end : self._size].tobytes()]  # each head has the end of a line before it
        self._begin, self._size = 1, len(self._parts[0])
        self._enough = self._begin + _LEAST * self.count
        return True


def _heads(data: Bytes) -> Offsets:
    """Where a line begins with the sign of a string, less one."""
    found = data[:-1] == _NEWLINE
    found &= data[1:] == _DOLLAR
    places: Offsets = found.nonzero()[0]
    return places


def _cut(data: Bytes, heads: Offsets, end: int) -> ByteStrings | None:
    """The strings that begin at `heads`, the last of which goes to `end`; None where one does not fill its place."""
    sizes = np.diff(heads, append=end)
    words = every("<u8", data)[heads]
    words ^= _WORDS.take(sizes, mode="clip")
    words &= _MASKS.take(sizes, mode="clip")
    if words.any():
        return None
    return ByteStrings(data, heads + _STARTS.take(sizes, mode="clip"), heads + sizes - len(_LINE_END))


def _may_be_string(cut: bytes) -> bool:
    """Whether a string begins so, of which the rest may be still to come."""
    head = _HEAD.match(cut)
    if head is None:
        return _CUT_HEAD.fullmatch(cut) is not None
    return int(head[1]) <= LONGEST and len(cut) <= len(head[0]) + int(head[1]) + len(_LINE_END)


def _by_size() -> tuple[Any, Any, Any]:
    """Of a string with head and line end, by how many bytes that are: its head as a number (the first byte is the
    lowest), the bits that such a number has, and the length of the head. Sizes that none has are like no head at all.
    """
    heads = {}
    for length in range(LONGEST + 1):
        head = b"$%d\r\n" % length
        heads[len(head) + length + len(_LINE_END)] = head
    of_all = [heads.get(size, b"") for size in range(max(heads) + 2)]
    words = [int.from_bytes(head, "little") for head in of_all]
    masks = [(1 << 8 * len(head)) - 1 if head else 2**64 - 1 for head in of_all]
    return np.array(words, np.uint64), np.array(masks, np.uint64), np.array(list(map(len, of_all)), np.int64)


_WORDS, _MASKS, _STARTS = _by_size()

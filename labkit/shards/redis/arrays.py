"""Parses arrays of many short strings (RESP2) without copying: the strings stay in the received bytes.

hiredis creates an object per string, which is half of the time for rows that numpy and Arrow will process. It still
parses everything else (nested, NULL or long elements) and reports malformed answers.

No server can make a read hold more bytes than `allow` permits, or block the event loop for long: arrays are parsed in
pieces as they arrive, and announced sizes are bounded.
Source of the format: Redis documentation, "Redis serialization protocol specification" (arrays, bulk strings).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError

from labkit.shards.redis.layouts.bulk import CHUNK, MAX_ONE_BY_ONE
from labkit.shards.redis.layouts.byte_strings import FRONT, TAIL, ByteStrings, Fronts, Many, Offsets, every
from labkit.tables import InvalidAnswer

__all__ = ["LONGEST", "LONGEST_TEXT", "NESTED", "ArrayReader", "Parser"]

LONGEST = 1_100
"""Most bytes of a string parsed here: a VARCHAR(255) in UTF-8, as JSON with the longest id, takes 1,045."""
LONGEST_TEXT = 1 << 24
"""Most bytes of any string, 16 MiB: copying and decoding a longer one would block the event loop."""
NESTED = 100_000
"""Most elements that nested arrays may announce: CLUSTER SLOTS of a thousand masters has some 20,000. More would slow
down Python's garbage collection."""
LOOK = 1 << 20
"""Unparsed bytes of an array from which on they are scanned even if it is incomplete: a millisecond or two."""
SLICE = 1 << 14
"""Bytes fed to hiredis at a time."""
HANDSHAKE = 1 << 20
"""Bytes allowed until the first call of `allow`."""
SLAB = 1 << 16
"""Bytes searched at a time, so that what is made of them stays in the processor's cache."""
OBJECT = 64
"""Approximate overhead of a Python object, in bytes."""

_ARRAY = re.compile(rb"\*([1-9][0-9]{0,17})\r\n")
_CUT = re.compile(rb"\*[0-9]{0,18}\r?")
_HEAD = re.compile(rb"\$([0-9]{1,4})\r\n")
_CUT_HEAD = re.compile(rb"\$[0-9]{0,4}\r?")
_ANNOUNCED = re.compile(rb"\n(?:\*([0-9]+)|\$([0-9]{8,}))\r")
_DOLLAR, _NEWLINE = b"$\n"
_LINE_END = b"\r\n"
_LEAST = 3
"""Bytes of the smallest RESP value."""

_Hiredis: Any = DefaultParser
Bytes: TypeAlias = npt.NDArray[np.uint8]
Strings: TypeAlias = "list[Any] | ByteStrings | Many"


class Parser(_Hiredis):  # type: ignore[misc]
    """redis-py's parser with an `ArrayReader` in front of hiredis; the `parser_class` of connections."""

    def on_connect(self, connection: Any) -> None:
        """Called by the connection whenever it is established."""
        super().on_connect(connection)
        self._reader: Any = ArrayReader(self._reader)
        self._stream.can_wait = self._reader.can_wait

    def allow(self, limit: int) -> None:
        """See `ArrayReader.allow`."""
        self._reader.allow(limit)

    async def read_many(self, count: int) -> list[Any]:
        """The next answers; a server's error is one of them, unless it says that the connection is unusable."""
        answers: list[Any] = []
        while len(answers) < count:
            answer = self._reader.gets()
            if answer is self._reader.nothing:
                await self.read_from_socket()
            elif isinstance(answer, RedisConnectionError):
                raise answer
            else:
                answers.append(answer)
        return answers

    @property
    def has_data(self) -> bool:
        """Whether there are bytes that no answer has taken."""
        return bool(self._reader.has_data()) or self._stream.has_data

    async def read_from_socket(self) -> bool:
        """Reads the next bytes, or only yields to the event loop while the bytes at hand take long to parse."""
        if self._reader.is_busy:
            await asyncio.sleep(0)
            return True
        for data in await self._stream.arrived():
            self._reader.feed(data)
        return True


class ArrayReader:
    """Like `hiredis.Reader`, around a new one: `feed` takes bytes, `gets` returns complete answers.

    An answer of more than `MAX_ONE_BY_ONE` strings, each of `LONGEST` bytes at most, is returned as `ByteStrings`, or
    as `Many` if it was parsed in pieces. Both methods raise `InvalidAnswer` for answers that exceed the allowed size,
    or announce to.
    """

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.nothing = reader.gets()
        """What hiredis returns while no answer is complete."""
        self._inside = False
        """Whether hiredis has the beginning of an answer, so that it must get the rest too."""
        self._begun = b""
        """The first line of an array, as far as received."""
        self._strings: _Strings | None = None
        self._announced = _Announced()
        self._slices: deque[bytes] = deque()
        """The next input for hiredis, in slices: it moves its whole buffer whenever it has parsed a part of it."""
        self.allow(HANDSHAKE)

    def allow(self, limit: int) -> None:
        """Limits the bytes of all further answers together."""
        self._limit = self._left = limit

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream, cut anywhere."""
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
        """The next answer, if complete; raises what hiredis raises."""
        if self._strings is not None:
            return self._array_whole()
        answer = self._reader.gets(*decoding)
        while answer is self.nothing and self._slices:
            self._feed_slice()
            answer = self._reader.gets(*decoding)
        if answer is not self.nothing:
            self._announced.begin_anew()
            self._inside = bool(self._slices) or self._reader.has_data()
        return answer

    def can_wait(self, size: int, last: bytes) -> bool:
        """Whether an answer stays incomplete when `size` more bytes are fed, which end with `last`."""
        strings = self._strings
        return strings is not None and not strings.odd and not strings.is_due(size, last)

    @property
    def is_busy(self) -> bool:
        """Whether `gets` must be called again before more is fed."""
        return self._strings is not None and bool(self._slices)

    def has_data(self) -> bool:
        """Whether there are unparsed bytes."""
        return self._strings is not None or bool(self._begun or self._slices) or bool(self._reader.has_data())

    def _array(self, data: bytes) -> _Strings | None:
        """A parser for the array that begins here; None if it is not an array, or a short one."""
        found = _ARRAY.match(data)
        if not found or int(found[1]) <= MAX_ONE_BY_ONE:
            return None
        count = int(found[1])
        if count * _LEAST > self._left:
            raise InvalidAnswer(f"an answer of {count} elements has more than {self._limit} bytes (answer_limit)")
        return _Strings(count, data, len(found[0]))

    def _array_whole(self) -> Any:
        """The array, once it is complete."""
        strings = self._strings
        assert strings is not None
        if not strings.odd and strings.look():
            self._pass_on(strings.rest)
        if strings.odd:
            self._one_by_one(strings)
        if strings.count:
            return self.nothing
        self._strings = None
        return strings.whole()

    def _one_by_one(self, strings: _Strings) -> None:
        """Takes the elements of the next slice from hiredis, each as a separate answer."""
        if self._slices:
            self._feed_slice()
        gets, nothing = self._reader.gets, self.nothing
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
    """The sizes that an answer announces, for which hiredis allocates."""

    def __init__(self) -> None:
        self._tail = b"\n"
        self._nested = 0

    def begin_anew(self) -> None:
        """An answer is complete; what follows belongs to the next one, to which a limit applies anew."""
        self._nested = 0

    def check(self, data: bytes) -> None:
        """Raises `InvalidAnswer` if the next bytes, cut anywhere, announce too much."""
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
    """The strings of an array: `count` are still to parse, in `data` from `begin` on and in the bytes that follow; the
    parsed ones are in pieces. Each piece but the last has an even number of strings, so that pairs stay together.

    A string has a head, with its length, and a line end. Every scan covers all unparsed bytes, so it is worthwhile only
    if they may be the last, or are many.
    """

    def __init__(self, count: int, data: bytes, begin: int) -> None:
        self.count, self._begin = count, begin
        self._parts = [data]
        self._size = len(data)
        self._enough = begin + _LEAST * count
        self._pieces: list[list[Any] | ByteStrings] = []
        self._loose: list[Any] = []
        self.odd = False
        """Whether something other than short strings was found, so that hiredis must parse the rest."""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._parts.append(data)
        self._size += len(data)

    def is_due(self, more: int, last: bytes) -> bool:
        """Whether parsing is worthwhile with so many more bytes than were fed."""
        return self._may_end(more, last) or self._size + more >= LOOK

    def _may_end(self, more: int, last: bytes) -> bool:
        return last.endswith(_LINE_END[-1:]) and self._size + more >= self._enough

    @property
    def rest(self) -> bytes:
        """The unparsed bytes."""
        return b"".join(self._parts)[self._begin :]

    def take(self, elements: list[Any]) -> None:
        """Takes elements parsed by hiredis."""
        self.count -= len(elements)
        self._loose += elements
        if len(self._loose) >= CHUNK:
            even = len(self._loose) // 2 * 2
            self._pieces.append(self._loose[:even])
            self._loose = self._loose[even:]

    def whole(self) -> Strings:
        """All elements."""
        pieces = [*self._pieces, self._loose] if self._loose else self._pieces
        if len(pieces) == 1:
            return pieces[0]
        return Many(pieces)

    def look(self) -> bool:
        """Parses the received bytes if it is worthwhile; returns `odd`."""
        if not self.is_due(0, self._parts[-1]):
            return False
        ended = self._may_end(0, self._parts[-1])
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
        """Makes a piece of the strings at `heads`, the last of which ends at `end`; False if one is not a string."""
        texts = _cut(data, heads, end)
        if texts is None:
            return False
        self.count -= len(heads)
        self._pieces.append(texts)
        self._parts = [b"\n" + data[end : self._size].tobytes()]  # each head follows a line end
        self._begin, self._size = 1, len(self._parts[0])
        self._enough = self._begin + _LEAST * self.count
        return True


def _heads(data: Bytes) -> Offsets:
    """The positions before each "$" that begins a line."""
    found = [np.flatnonzero(data[begin : begin + SLAB] == _DOLLAR) + begin for begin in range(1, len(data), SLAB)]
    places = np.concatenate(found or [np.zeros(0, np.int64)])
    places -= 1
    begins = data[places] == _NEWLINE
    return places if begins.all() else places[begins]


def _cut(data: Bytes, heads: Offsets, end: int) -> ByteStrings | None:
    """The strings at `heads`, the last of which ends at `end`; None if one's length does not match its extent."""
    sizes = np.empty(len(heads), np.int64)
    np.subtract(heads[1:], heads[:-1], out=sizes[:-1])
    sizes[-1:] = end - heads[-1:]
    windows = every(f"V{FRONT}", data)[heads]
    words = Fronts(windows, 0).field("<u8", 0) ^ _WORDS.take(sizes, mode="clip")
    least, length = _STARTS.take([sizes.min(), sizes.max()], mode="clip").tolist() if len(heads) else (0, 0)
    alike = least == length > 0
    words &= (1 << 8 * length) - 1 if alike else _MASKS.take(sizes, mode="clip")
    if words.any():
        return None
    starts = heads + (length if alike else _STARTS.take(sizes, mode="clip"))
    ends = heads + sizes
    ends -= len(_LINE_END)
    return ByteStrings(data, starts, ends, Fronts(windows, length) if alike else None)


def _may_be_string(cut: bytes) -> bool:
    """Whether this can be the beginning of a string."""
    head = _HEAD.match(cut)
    if head is None:
        return _CUT_HEAD.fullmatch(cut) is not None
    return int(head[1]) <= LONGEST and len(cut) <= len(head[0]) + int(head[1]) + len(_LINE_END)


def _by_size() -> tuple[Any, Any, Any]:
    """For each size of a string with head and line end: the head as a little-endian number, its bit mask and its
    length. For impossible sizes the head is empty.
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

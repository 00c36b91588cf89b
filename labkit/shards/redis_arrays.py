"""Arrays of many short strings, as Redis answers with, left in the bytes as they came, side by side (RESP2).

hiredis makes an object of every string: of rows that numpy and Arrow are to look at, that is half of the time. It
still reads all else, and says what is wrong with it: what is nested or NULL or long, and what is no answer.
Source of the format: Redis documentation, "Redis serialization protocol specification" (arrays, bulk strings).
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from redis.asyncio.connection import DefaultParser

from labkit.shards.layouts.bulk import CHUNK, FEW
from labkit.shards.layouts.texts import TAIL, Places, Texts, every

__all__ = ["LONGEST", "ArrayReader", "Parser"]

LONGEST = 1_100
"""Bytes of a string: a VARCHAR(255) in UTF-8, as JSON beside the longest id, takes 1,045."""

_ARRAY = re.compile(rb"\*([1-9][0-9]{0,4})\r\n")
_HEAD = re.compile(rb"\$([0-9]{1,4})\r\n")
_DOLLAR, _NEWLINE = b"$\n"
_LINE_END = b"\r\n"
_LEAST = 3
"""Bytes of the smallest answer there is."""

_Hiredis: Any = DefaultParser
Bytes: TypeAlias = npt.NDArray[np.uint8]


class Parser(_Hiredis):  # type: ignore[misc]
    """redis-py's parser, for the `parser_class` of its connections, with an `ArrayReader` before its hiredis."""

    def on_connect(self, connection: Any) -> None:
        """Called by the connection, each time that there is one."""
        super().on_connect(connection)
        self._reader: Any = ArrayReader(self._reader)

    def allow(self, limit: int) -> None:
        """See `ArrayReader.allow`."""


class ArrayReader:
    """As `hiredis.Reader`, of which `reader` is a new one: `feed` takes bytes, `gets` gives whole answers.

    An answer of more than `FEW` strings and at most `CHUNK`, each of `LONGEST` bytes at most, comes as `Texts`.
    """

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._nothing = reader.gets()
        """What hiredis says where no answer is whole."""
        self._inside = False
        """Whether hiredis has the beginning of an answer, so that the rest of it is for hiredis too."""
        self._strings: _Strings | None = None

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream; they may be cut anywhere."""
        if self._strings is None and not self._inside:
            self._strings = _begun(data)
        if self._strings is None:
            self._inside = True
            self._reader.feed(data)
        else:
            self._strings.feed(data)

    def gets(self, *decoding: bool) -> Any:
        """The next answer; raises what hiredis raises."""
        if self._strings is not None and self._strings.may_be_whole:
            texts = self._strings.texts()
            if texts is not None:
                self._strings = None
                return texts
            if self._strings.odd:
                self._inside = True
                self._reader.feed(self._strings.everything)
                self._strings = None
        answer = self._reader.gets(*decoding)
        if answer is not self._nothing:
            self._inside = self._reader.has_data()
        return answer

    def has_data(self) -> bool:
        """Whether there are bytes that no answer was made of."""
        return self._strings is not None or bool(self._reader.has_data())


class _Strings:
    """`count` strings as they come, behind `begin` other bytes: each with a head, that says its length, and a line end.

    A look at them goes over all that has come, so one is worth it only where they may be whole.
    """

    def __init__(self, count: int, begin: int) -> None:
        self._count, self._begin = count, begin
        self._parts: list[bytes] = []
        self._size = 0
        self._enough = begin + _LEAST * count
        self.odd = False
        """Whether it turned out that something else came."""

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._parts.append(data)
        self._size += len(data)

    @property
    def everything(self) -> bytes:
        """All bytes that came."""
        return b"".join(self._parts)

    @property
    def may_be_whole(self) -> bool:
        """Whether there are as many bytes as it takes, and a line has come to its end."""
        return self._size >= self._enough and self._parts[-1].endswith(_LINE_END[-1:])

    def texts(self) -> Texts | None:
        """All strings; None where they have not all come yet, or where it is `odd`."""
        data = np.frombuffer(b"".join([*self._parts, TAIL]), np.uint8)
        heads = _heads(data[self._begin - 1 : self._size]) + self._begin
        if not len(heads) or heads[0] != self._begin or len(heads) > self._count:
            self.odd = True
            return None
        if len(heads) == self._count:
            texts = _cut(data, heads, self._size)
            self.odd = texts is None
            return texts
        last = int(heads[-1])
        self.odd = _cut(data, heads[:-1], last) is None or not _may_be_string(data[last : self._size].tobytes())
        self._enough = self._size + _LEAST * (self._count - len(heads))
        return None


def _begun(data: bytes) -> _Strings | None:
    """What takes the array that begins there; None where it is none, or not one of many."""
    found = _ARRAY.match(data)
    return _Strings(int(found[1]), len(found[0])) if found and FEW < int(found[1]) <= CHUNK else None


def _heads(data: Bytes) -> Places:
    """Where a line begins with the sign of a string, less one."""
    found = data[:-1] == _NEWLINE
    found &= data[1:] == _DOLLAR
    places: Places = found.nonzero()[0]
    return places


def _cut(data: Bytes, heads: Places, end: int) -> Texts | None:
    """The strings that begin at `heads`, the last of which goes to `end`; None where one does not fill its place."""
    sizes = np.diff(heads, append=end)
    words = every("<u8", data)[heads]
    words ^= _WORDS.take(sizes, mode="clip")
    words &= _MASKS.take(sizes, mode="clip")
    if words.any():
        return None
    return Texts(data, heads + _STARTS.take(sizes, mode="clip"), heads + sizes - len(_LINE_END))


def _may_be_string(cut: bytes) -> bool:
    """Whether a string begins so, of which the rest may be still to come."""
    head = _HEAD.match(cut)
    return head is not None and int(head[1]) <= LONGEST and len(cut) <= len(head[0]) + int(head[1]) + len(_LINE_END)


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

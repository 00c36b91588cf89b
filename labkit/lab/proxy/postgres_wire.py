"""Questions and answers in Postgres' protocol.

A question is a simple query, or a sequence of extended messages up to Sync, with the data of a COPY that it begins; its
answer ends with ReadyForQuery. Source: PostgreSQL documentation, "Frontend/Backend Protocol".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from struct import Struct

from labkit.lab.proxy.questions import TEXT, Dialogue, Question, Run, Unclear

__all__ = ["MOST_NAMES", "PASSWORD", "PostgresAnswers", "PostgresQuestions", "Prepared", "begins"]

HEADER = Struct("!BI")
STARTUP = Struct("!II")
ENCRYPTION = (80877103, 80877104)
"""Codes of SSLRequest and GSSENCRequest. If the server agrees, what follows is not of this protocol."""
MOST_STARTUP = 10_000
MOST = 1 << 30
"""No message is longer, as in the server."""
SIMPLE = b"QF"
SEQUENCE = b"PBEDC"
PARSE, SYNC, PASSWORD = b"PSp"
COPIED = b"cf"
GOES_ON = b"dcfpH"
"""Copied data and its ends, passwords and Flush belong to what came before."""
GOODBYE = b"X"[0]
FROM_CLIENTS = frozenset(SIMPLE + SEQUENCE + GOES_ON + b"SX")
BEGINNINGS = frozenset(SIMPLE + SEQUENCE + b"Sp")
EXECUTES = SIMPLE + b"PBE"
TEXTS = {ord("Q"): 1, ord("P"): 2, ord("B"): 2, ord("E"): 1}
"""After how many zero bytes all is known that matters of a message: its text, or the name of a statement."""
MOST_NAMES = 4096
"""Statements, and portals, that are known of each connection."""
READY = b"Z"[0]
FROM_SERVERS = frozenset(b"RKSZTDCINEAGHVnst123vcd")
"""All but CopyBothResponse, with which replication begins."""
REMEMBERED = 65536
"""Bytes of statements that are remembered of each connection."""


def begins(data: bytes) -> bool:
    """Whether this looks like the first bytes that a client sends of a question, or of a password."""
    if len(data) < HEADER.size or data[0] not in BEGINNINGS or data[1]:
        return False
    following = 1 + HEADER.unpack_from(data)[1]
    return following >= HEADER.size and (following >= len(data) or data[following] in FROM_CLIENTS)


class Prepared:
    """The texts of a connection's named statements, for a toxic that comes later than they.

    Every chunk is searched for `MARK` first, so only a statement whose message begins in the first `SEARCHED` bytes is
    found: that takes less than a quarter of a microsecond.
    """

    MARK = re.compile(rb"P\0\0[\0-\xff]{2}[^\0]")
    """A Parse message with a name, of less than 64 KB."""
    SEARCHED = 2048

    def __init__(self) -> None:
        self.texts: dict[bytes, bytes] = {}
        self._size = 0

    def read(self, chunk: bytes) -> None:
        """Remembers what a chunk prepares."""
        at = 0
        while at + HEADER.size <= len(chunk) and chunk[at] in FROM_CLIENTS:
            kind, length = HEADER.unpack_from(chunk, at)
            content = chunk[at + HEADER.size : at + 1 + length]
            if not 4 <= length < REMEMBERED or len(content) < length - 4:
                return
            if kind == PARSE and content.count(0) > 1:
                name, text, _ = content.split(b"\0", 2)
                self._remember(name, text)
            at += 1 + length

    def _remember(self, name: bytes, text: bytes) -> None:
        if not name:
            return  # it is for one execution
        self._forget(name)
        self.texts[name] = text
        self._size += len(name) + len(text)
        while self._size > REMEMBERED:
            self._forget(next(iter(self.texts)))

    def _forget(self, name: bytes) -> None:
        if name in self.texts:
            self._size -= len(name) + len(self.texts.pop(name))


class PostgresQuestions:
    """What a client sends; `started` if not from the connection's first byte."""

    def __init__(self, dialogue: Dialogue, prepared: Mapping[bytes, bytes], *, started: bool) -> None:
        self._dialogue, self._rule, self._started = dialogue, dialogue.rule, started
        self._statements = {name: self._rule.matches(text) for name, text in prepared.items()}
        """Whether each statement's text matches."""
        self._portals: dict[bytes, bool] = {}
        self._question: Question | None = None
        self._counted = self._open = self._extended = self._copied = False
        self._part = b""
        """The beginning of a message's header."""
        self._kind = self._left = self._zeros = 0
        self._text: bytearray | None = None
        """What has come of a message that is being read."""
        self._untold = 0

    def feed(self, data: bytes) -> Iterator[Run]:
        """See `Reader`."""
        data, at = self._part + data, 0
        while True:
            if self._left:
                size = min(self._left, len(data) - at)
                self._left -= size
                if self._text is not None:
                    self._read(data[at : at + size])
                at += size
                self._untold += size
            header = HEADER if self._started else STARTUP
            if self._left or len(data) - at < header.size:
                break
            if self._started:
                kind, length = HEADER.unpack_from(data, at)
                if kind not in FROM_CLIENTS or not 4 <= length <= MOST:
                    raise Unclear
                if self._leads(kind):
                    if self._untold:
                        yield self._untold, self._question
                        self._untold = 0
                    self._question = None if kind == GOODBYE else Question()
                    self._counted = False
                    if self._question:
                        self._dialogue.asked(self._question)
                self._enter(kind, length - 4)
            else:
                self._start(*STARTUP.unpack_from(data, at))
            at += header.size
            self._untold += header.size
        self._part = data[at:]
        if self._text is None and self._untold:
            yield self._untold, self._question
            self._untold = 0

    def _start(self, length: int, code: int) -> None:
        if code in ENCRYPTION and length == STARTUP.size:
            self._dialogue.replies += 1
        elif code >> 16 == 3 and STARTUP.size < length <= MOST_STARTUP:
            self._started = True
            self._dialogue.asked(Question())
            self._kind, self._left, self._zeros, self._text = 0, length - STARTUP.size, length, bytearray()
        else:
            raise Unclear

    def _leads(self, kind: int) -> bool:
        """Whether a message of this kind begins a new question; notes what it changes."""
        if kind in GOES_ON:
            self._copied = self._copied or kind in COPIED
            return False
        # During COPY the server ignores Sync: one more follows the copied data.
        after_copy = kind == SYNC and self._extended and self._copied
        leads = not (self._open or after_copy)
        self._open, self._copied = kind in SEQUENCE, False
        self._extended = (self._extended and not leads) or kind in SEQUENCE
        return leads

    def _enter(self, kind: int, length: int) -> None:
        self._kind, self._left = kind, length
        if self._rule.reads and kind in TEXTS and length:
            self._zeros, self._text = TEXTS[kind], bytearray()
        elif not self._rule.reads and kind in EXECUTES:
            self._found(True)

    def _read(self, part: bytes) -> None:
        assert self._text is not None
        self._text += part[: TEXT - len(self._text)]
        self._zeros -= part.count(0)
        if self._left == 0 or self._zeros <= 0 or len(self._text) == TEXT:
            text, self._text = bytes(self._text), None
            self._understand(text)

    def _understand(self, text: bytes) -> None:
        first, _, rest = text.partition(b"\0")
        match chr(self._kind):
            case "Q":
                self._found(self._rule.matches(first))
            case "P":
                _put(self._statements, first, self._rule.matches(rest.partition(b"\0")[0]))
                self._found(self._statements[first])
            case "B":
                _put(self._portals, first, self._statements.get(rest.partition(b"\0")[0], False))
                self._found(self._portals[first])
            case "E":
                self._found(self._portals.get(first, False))
            case "\0":
                settings = text.split(b"\0")
                values = dict(zip(settings[::2], settings[1::2], strict=False))
                if values.get(b"replication", b"false").lower() not in (b"false", b"off", b"no", b"0"):
                    raise Unclear

    def _found(self, matches: bool) -> None:
        if matches and not self._counted and self._question:
            self._counted = True
            self._question.hit = self._rule.hits()


def _put(names: dict[bytes, bool], name: bytes, value: bool) -> None:
    """Notes a name as the newest one; drops the oldest of too many."""
    names.pop(name, None)
    names[name] = value
    if len(names) > MOST_NAMES:
        del names[next(iter(names))]


class PostgresAnswers:
    """What the server sends."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._question: Question | None = None
        self._begun = False
        """Whether the next header's first bytes have come."""
        self._part = b""
        self._left = 0

    def feed(self, data: bytes) -> Iterator[Run]:
        """See `Reader`; every byte is told."""
        told, data = len(self._part), self._part + data
        at, size, waiting = self._left, len(data), self._dialogue.waiting
        while at < size and self._dialogue.replies:
            self._dialogue.replies -= 1
            at += 1
        while at < size:
            if self._question is None and waiting and not self._begun:
                if at > told:
                    yield at - told, None
                    told = at
                self._question = waiting.popleft()
            self._begun = True
            if size - at < HEADER.size:
                break
            kind, length = HEADER.unpack_from(data, at)
            if kind == READY:
                if size - at < 6:
                    break
                at += 6
                yield at - told, self._question
                told, self._question = at, None
            elif kind in FROM_SERVERS and 4 <= length <= MOST:
                at += 1 + length
            else:
                raise Unclear
            self._begun = False
        self._part, self._left = data[at:], max(at - size, 0)
        if size > told:
            yield size - told, self._question

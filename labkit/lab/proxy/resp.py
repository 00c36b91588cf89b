"""Questions and answers in Redis' protocol, RESP2 and RESP3: commands, and one reply to each.

Source: Redis documentation, "Redis serialization protocol specification".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from labkit.lab.proxy.questions import TEXT, Dialogue, Question, Run, Unclear

__all__ = ["RedisAnswers", "RedisQuestions", "begins"]

FIRST = re.compile(rb"[*A-Za-z\r\n]")
BEGINNING = re.compile(rb"\*\d+\r\n\$\d|[A-Za-z][ -~]*\r?\n")
MOST_WORDS = 1 << 20
MOST_BYTES = 1 << 40
NAME = 64
"""Bytes of a command that say what it is."""
SETS_UP = frozenset({b"ASKING", b"AUTH", b"CLIENT", b"HELLO", b"READONLY", b"SELECT"})
"""What clients send when they connect: not a question, unless `when` asks for it."""
UNASKED = frozenset(
    {b"MONITOR", b"PSUBSCRIBE", b"PSYNC", b"PUNSUBSCRIBE", b"SSUBSCRIBE", b"SUBSCRIBE", b"SUNSUBSCRIBE", b"SYNC",
     b"UNSUBSCRIBE"}
)  # fmt: skip
"""After these the server speaks unasked."""
LINES, BLOBS, LISTS, PUSH, MAP, ATTRIBUTE = b"+-:_#,(", b"$!=", b"*~", b">"[0], b"%"[0], b"|"[0]


def begins(data: bytes, new: bool) -> bool:
    """Whether this looks like the first bytes that a client sends of a command, or of a `new` connection."""
    return (FIRST if new else BEGINNING).match(data) is not None


class RedisQuestions:
    """What a client sends."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue, self._rule = dialogue, dialogue.rule
        self._question: Question | None = None
        self._words = self._left = self._untold = 0
        self._part = b""
        """The beginning of a line."""
        self._text: bytearray | None = None
        """What has come of a command that is being read."""
        self._most = TEXT if self._rule.reads else NAME
        self._muted = self._skipped = False
        """By CLIENT REPLY: all replies, or the next one."""

    def feed(self, data: bytes) -> Iterator[Run]:
        """See `Reader`."""
        data, at = self._part + data, 0
        while True:
            if self._left:
                size = min(self._left, len(data) - at)
                if self._text is not None:
                    self._read(data[at : at + min(size, max(self._left - 2, 0))])
                self._left -= size
                at += size
                self._untold += size
                if self._left:
                    break
                self._words -= 1
                self._read(b" ")
            elif (end := data.find(b"\n", at)) < 0:
                if len(data) - at > TEXT or (not self._words and not _is_text(data[at:])):
                    raise Unclear
                break
            else:
                line = data[at:end].removesuffix(b"\r")
                if self._words:
                    self._left = 2 + _number(line, b"$", MOST_BYTES)
                else:
                    if self._untold:
                        yield self._untold, self._question
                        self._untold = 0
                    self._begin(line)
                self._untold += end + 1 - at
                at = end + 1
            if not self._words and self._text is not None:
                self._understand()
        self._part = data[at:]
        if self._text is None and self._untold:
            yield self._untold, self._question
            self._untold = 0

    def _begin(self, line: bytes) -> None:
        self._question, self._text = None, None
        if line.startswith(b"*"):
            self._words = 0 if line.startswith(b"*-") else _number(line, b"*", MOST_WORDS)
        elif not _is_text(line):
            raise Unclear
        if self._words or (line.strip(b" ") and not line.startswith(b"*")):
            self._question, self._text = Question(), bytearray() if self._words else bytearray(line[:TEXT])

    def _read(self, part: bytes) -> None:
        if self._text is not None:
            self._text += part[: self._most - len(self._text)]
            if len(self._text) == self._most:
                self._understand()

    def _understand(self) -> None:
        assert self._text is not None
        assert self._question is not None
        text, self._text = bytes(self._text), None
        words = [*text[:NAME].upper().split()[:3], b"", b"", b""]
        if self._rule.matches(text) if self._rule.reads else words[0] not in SETS_UP:
            self._question.hit = self._rule.hits()
        if words[0] in UNASKED:
            self._dialogue.unclear = True
        if words[:2] == [b"CLIENT", b"REPLY"]:
            self._muted, self._skipped = words[2] == b"OFF", words[2] == b"SKIP"
            replied = words[2] not in (b"OFF", b"SKIP")
        else:
            replied = not (self._muted or self._skipped)
            self._skipped = False
        if replied:
            self._dialogue.asked(self._question)


class RedisAnswers:
    """What the server sends."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._question: Question | None = None
        self._values = 0
        """How many values of the reply are still to begin."""
        self._part = b""
        self._left = 0

    def feed(self, data: bytes) -> Iterator[Run]:
        """See `Reader`; every byte is told."""
        told, data = len(self._part), self._part + data
        at, size, waiting = self._left, len(data), self._dialogue.waiting
        while at < size:
            kind = data[at]
            if not self._values:
                if at > told:
                    yield at - told, self._question
                    told = at
                self._question = waiting.popleft() if waiting and kind != PUSH else None
                self._values = 1
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > TEXT:
                    raise Unclear
                break
            if kind in LINES:
                self._values -= 1
                at = end + 2
                continue
            try:
                count = int(data[at + 1 : end])
            except ValueError:
                raise Unclear from None
            at = end + 2
            if kind in BLOBS:
                self._values -= 1
                at += count + 2 if count >= 0 else 0
            elif kind in LISTS or kind == PUSH:
                self._values += max(count, 0) - 1
            elif kind in (MAP, ATTRIBUTE):  # an attribute comes before its value
                self._values += 2 * max(count, 0) - (kind == MAP)
            else:
                raise Unclear
        self._part, self._left = data[at:], max(at - size, 0)
        if size > told:
            yield size - told, self._question


def _is_text(line: bytes) -> bool:
    return line.isascii() and b"\0" not in line


def _number(line: bytes, kind: bytes, most: int) -> int:
    """The number in a line of that kind."""
    digits = line.removeprefix(kind)
    if not line.startswith(kind) or not digits.isdigit() or len(digits) > len(str(most)) or int(digits) > most:
        raise Unclear
    return int(digits)

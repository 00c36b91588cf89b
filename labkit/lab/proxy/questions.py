"""Questions on the wire: which of them a toxic with conditions acts on, and what one connection has asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeAlias

from labkit.faults.network.toxic import Toxic

__all__ = ["TEXT", "Dialogue", "Question", "Reader", "Rule", "Run", "Unclear"]

TEXT = 65536
"""Bytes of a question's text that are searched; so many are held back until it is known whether it matches."""


class Unclear(Exception):
    """Raised where questions and answers cannot be told apart: in encrypted bytes, in another protocol, and where the
    server speaks unasked.
    """


@dataclass(eq=False, slots=True)
class Question:
    """One question of a connection. It may turn out to match while it passes."""

    hit: bool = False
    """Whether the toxic acts on it."""


Run: TypeAlias = "tuple[int, Question | None]"
"""A number of bytes, and the question that they belong to or answer, if any."""


class Reader(Protocol):
    """Tells the bytes of one direction apart."""

    def feed(self, data: bytes) -> Iterator[Run]:
        """The runs that follow those told before. The last bytes are not among them while it is unknown whether their
        question matches. Raises `Unclear`.
        """


class Rule:
    """The conditions of one toxic; counts the questions of all its connections."""

    def __init__(self, toxic: Toxic, seed: str) -> None:
        when = toxic.when or b""
        self._when = (when.encode("utf-8", "surrogateescape") if isinstance(when, str) else when).lower()
        self._nth = None if toxic.nth is None else {toxic.nth} if isinstance(toxic.nth, int) else set(toxic.nth)
        self._share = toxic.share
        self._random = Random(f"{seed}|{toxic!r}|questions")
        self._count = 0

    @property
    def reads(self) -> bool:
        """Whether it depends on what a question says."""
        return bool(self._when)

    def matches(self, text: bytes) -> bool:
        """Whether a question with this text matches `when`."""
        return self._when in text.lower()

    def hits(self) -> bool:
        """Counts one more matching question; whether the toxic acts on it."""
        self._count += 1
        drawn = self._random.random() < self._share  # for each question, so that `nth` does not change the draws
        return drawn and (self._nth is None or self._count in self._nth)


@dataclass(eq=False)
class Dialogue:
    """The questions of one connection that have no answer yet, the oldest first."""

    rule: Rule
    listens: bool
    """Whether somebody reads the answers."""
    waiting: deque[Question] = field(default_factory=deque)
    replies: int = 0
    """Single bytes that will answer a request for encryption."""
    answers: Reader | None = None
    """Of the protocol that the client speaks, once that is known."""
    unclear: bool = False
    """Whether answers can no longer be told apart."""

    def asked(self, question: Question) -> None:
        """An answer to it will come."""
        if self.listens and not self.unclear:
            self.waiting.append(question)

"""Toxics with conditions: pipes that find the questions to act on, or their answers, and leave the rest alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

from labkit.faults.network.pipe import End, Piece, Pipe
from labkit.lab.proxy import postgres_wire, resp
from labkit.lab.proxy.questions import Dialogue, Question, Reader, Rule, Run, Unclear

__all__ = ["conditional"]

TLS = range(0x14, 0x18)
"""First bytes of TLS records."""
REST = -1
"""In a run: all further bytes at hand."""


def conditional(
    stream: str, rule: Rule, make: Callable[[], Pipe], prepared: Mapping[bytes, bytes], *, new: bool
) -> dict[str, Pipe]:
    """The pipes of one connection, by stream; `make` makes the toxic's own pipe, anew for each question that is hit.

    A connection that is not `new` is understood from the first chunk on with which a question begins; what it has
    `prepared` by then is known by name and text.
    """
    dialogue = Dialogue(rule, listens=stream == "downstream")
    reader = _Client(dialogue, prepared, new)
    if not dialogue.listens:
        return {"upstream": _Questions(make, reader)}
    return {"upstream": _Listening(reader), "downstream": _Answers(make, dialogue)}


class _Client:
    """A `Reader` of what the client says, in the protocol that its first bytes are of."""

    def __init__(self, dialogue: Dialogue, prepared: Mapping[bytes, bytes], new: bool) -> None:
        self._dialogue, self._prepared, self._new = dialogue, prepared, new
        self._reader: Reader | None = None
        self._lost = False

    def feed(self, data: bytes) -> Iterator[Run]:
        """Never raises `Unclear`: then nothing belongs to a question any more."""
        try:
            if data and self._reader is None and not self._lost:
                self._recognise(data)
            yield from [(REST, None)] if self._reader is None else self._reader.feed(data)
        except Unclear:
            self._reader, self._lost, self._dialogue.unclear = None, True, True
            yield REST, None

    def _recognise(self, data: bytes) -> None:
        dialogue = self._dialogue
        if self._new and data[0] == 0:
            self._reader = postgres_wire.PostgresQuestions(dialogue, {}, started=False)
            dialogue.answers = postgres_wire.PostgresAnswers(dialogue)
        elif not self._new and postgres_wire.begins(data):
            if data[0] == postgres_wire.PASSWORD:
                dialogue.asked(Question())  # the login has one answer
            self._reader = postgres_wire.PostgresQuestions(dialogue, self._prepared, started=True)
            dialogue.answers = postgres_wire.PostgresAnswers(dialogue)
        elif resp.begins(data, self._new):
            self._reader = resp.RedisQuestions(dialogue)
            dialogue.answers = resp.RedisAnswers(dialogue)
        elif self._new or data[0] in TLS:
            raise Unclear


class _Acting(Pipe):
    """Acts on the bytes of questions that are hit, each with a new pipe of the toxic, and passes all others."""

    def __init__(self, make: Callable[[], Pipe]) -> None:
        self._make = make
        self._pipe: Pipe | None = None
        self._question: Question | None = None
        """The one that `_pipe` acts on."""
        self._owed: End | None = None
        """How the connection ends when the toxic is removed, since a question or answer lost bytes."""

    def takes_over(self, before: Pipe) -> None:
        if isinstance(before, _Acting):
            self._owed = before._owed
            before = before._pipe or self
        if before.over:
            self._pipe = self._make()
            self._pipe.takes_over(before)

    def opened(self, now: float) -> Iterable[Piece]:
        # Only after `takes_over`: what had ended or silenced the connection still does.
        return () if self._pipe is None else self._pipe.opened(now)

    def ended(self, piece: Piece) -> Iterable[Piece]:
        return (piece,) if self._pipe is None else self._pipe.ended(piece)

    def end_sent(self) -> None:
        if self._pipe is not None:
            self._pipe.end_sent()

    def removed(self, now: float) -> Iterable[Piece]:
        rest = self._finished(now)
        return rest if self._owed is None else [*rest, Piece(b"", now, self._owed)]

    def _split(self, piece: Piece, runs: Iterable[Run]) -> Generator[Piece, None, int]:
        """Passes on the bytes that runs tell of; returns their number."""
        start = at = 0
        current: Question | None = None
        for size, question in runs:
            acts_on = question if question is not None and question.hit else None
            if acts_on is not current and at > start:
                yield from self._run(_cut(piece, start, at), current)
                start = at
            current = acts_on
            at = at + size if size != REST else len(piece.data)
        if at > start:
            yield from self._run(_cut(piece, start, at), current)
        return at

    def _run(self, piece: Piece, question: Question | None) -> Iterator[Piece]:
        pipe = self._pipe
        if pipe is None or not (pipe.over or question is self._question):
            yield from self._finished(piece.due)
            if question is None:
                yield piece
                return
            pipe = self._pipe = self._make()
            self._question = question
            yield from pipe.opened(piece.due)
        yield from pipe.data(piece)

    def _finished(self, now: float) -> list[Piece]:
        """Takes leave of a question: what was held back follows, but no end before the toxic is removed."""
        pieces = [] if self._pipe is None else list(self._pipe.removed(now))
        self._pipe = self._question = None
        self._owed = next((piece.end for piece in pieces if piece.end), self._owed)
        return [piece for piece in pieces if not piece.end]


def _cut(piece: Piece, start: int, stop: int) -> Piece:
    return piece if stop - start == len(piece.data) else Piece(piece.data[start:stop], piece.due)


class _Questions(_Acting):
    """Upstream: acts on questions. Holds a question back while it is unknown whether it matches."""

    def __init__(self, make: Callable[[], Pipe], client: _Client) -> None:
        super().__init__(make)
        self._client = client
        self._held = b""

    def data(self, piece: Piece) -> Iterator[Piece]:
        whole = Piece(self._held + piece.data, piece.due) if self._held else piece
        told = yield from self._split(whole, self._client.feed(piece.data))
        self._held = whole.data[told:]

    def ended(self, piece: Piece) -> Iterator[Piece]:
        yield from self._let_go(piece.due)
        yield from super().ended(piece)

    def removed(self, now: float) -> Iterator[Piece]:
        yield from self._let_go(now)
        yield from super().removed(now)

    def _let_go(self, now: float) -> Iterator[Piece]:
        held, self._held = self._held, b""
        if held:
            yield from self._run(Piece(held, now), None)


class _Listening(Pipe):
    """Upstream: changes nothing."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def data(self, piece: Piece) -> Iterable[Piece]:
        for _ in self._client.feed(piece.data):
            pass
        return (piece,)


class _Answers(_Acting):
    """Downstream: acts on answers."""

    def __init__(self, make: Callable[[], Pipe], dialogue: Dialogue) -> None:
        super().__init__(make)
        self._dialogue = dialogue

    def data(self, piece: Piece) -> Iterator[Piece]:
        yield from self._split(piece, self._runs(piece.data))

    def _runs(self, data: bytes) -> Iterator[Run]:
        answers = None if self._dialogue.unclear else self._dialogue.answers
        try:
            yield from [(REST, None)] if answers is None else answers.feed(data)
        except Unclear:
            self._dialogue.unclear = True
            yield REST, None

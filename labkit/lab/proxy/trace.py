"""What a proxy saw of one connection, on its client's side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["Span", "Trace"]


@dataclass
class Span:
    """Bytes that passed in one direction. Times are of the machine's monotonic clock."""

    first: float | None = None
    last: float | None = None
    count: int = 0
    over: float | None = None
    """When the sender ended it."""

    def note(self, count: int, at: float) -> None:
        """That many bytes passed; 0 is the end, as with `recv`."""
        if not count:
            self.over = at
            return
        if self.first is None:
            self.first = at
        self.last = at
        self.count += count

    def taken(self) -> Span:
        """What is known; from now on, bytes are counted anew."""
        known = replace(self)
        self.first = self.last = None
        self.count = 0
        return known


@dataclass
class Trace:
    """One connection. The spans are from the client, as they arrived, and to it, as they were sent on after whatever
    the toxics did to them; `heard` is from the server.
    """

    client: int
    """The client's port."""
    opened: float
    closed: float | None = None
    closed_by: str = ""
    """ "client" or "server", whichever ended it first, else "proxy": a fault; "" while it is open."""
    asked: Span = field(default_factory=Span)
    answered: Span = field(default_factory=Span)
    heard: Span = field(default_factory=Span)

    def close(self, at: float, by: str) -> None:
        """Notes the end, and who caused it if neither side did before."""
        ends = [(span.over, who) for span, who in ((self.asked, "client"), (self.heard, "server")) if span.over]
        self.closed, self.closed_by = at, min(ends)[1] if ends else by

    def taken(self) -> Trace:
        """What is known; from now on, bytes are counted anew."""
        return replace(self, asked=self.asked.taken(), answered=self.answered.taken(), heard=self.heard.taken())

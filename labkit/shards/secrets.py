"""Masks secrets in what a server says: the one place for all code that repeats a server's words.

A server may repeat what it was sent, as Redis does with an unknown command: such an error has the password in it,
plain, cut short, quoted or encoded.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = ["LEAST", "LONGEST", "MASK", "NONE", "WITHHELD", "OneTime", "Secrets", "sent_to"]

_NO_DIGIT = re.compile(r"\\[xu]|0x|[^0-9a-f]")

MASK = "***"
WITHHELD = "the server's message is not shown: it contains part of the password"
LEAST = 4
"""Consecutive characters of a secret that are never shown."""
LEAST_ONE_TIME = 8
"""The same for a `OneTime` value."""
LONGEST = 1000
"""Characters of a server's message that are shown; the rest says little, and takes time to search."""


class OneTime(bytes):
    """A random value that is used once, such as the proof sent during a login. Four characters of it help nobody, but
    one message in a few thousand contains some four by chance, and would be withheld.
    """


class Secrets:
    """The secrets that one server was sent; None and empty values are ignored. `public` names, of a user or a database,
    are shown even where they contain a piece of a secret.

    A piece of a secret, of `LEAST` characters or more (of a `OneTime` value: `LEAST_ONE_TIME`), becomes `***` if it
    mixes letters and digits, since the words around it then do not reveal it. A piece that may be an ordinary word or
    number, such as the password "user" in "no such user", would be revealed by its very absence: then the whole text
    is withheld (`WITHHELD`). A secret shorter than `LEAST` is matched as a whole word only; inside words it could be
    anywhere.

    Matched plain and in any letter case; quoted and escaped as in URLs, JSON, HTML, Python and Redis; in Base64; in
    hexadecimal digits with anything between them; and whole, with any characters but letters and digits between its
    own. Other encodings are not detected.
    """

    def __init__(self, *values: str | bytes | None, public: Iterable[str | None] = ()) -> None:
        self._values: dict[str, int] = {}
        """Each secret, and how many of its consecutive characters are never shown."""
        for value in values:
            if value:
                text = value.decode(errors="replace") if isinstance(value, bytes) else value
                self._values.setdefault(text, LEAST_ONE_TIME if isinstance(value, OneTime) else LEAST)
        self._public = tuple(name for name in public if name)

    def __repr__(self) -> str:
        return "Secrets(…)"

    def plus(self, values: Iterable[str | bytes | None]) -> Secrets:
        """These secrets and more."""
        both = Secrets(public=self._public)
        both._values = {**Secrets(*values)._values, **self._values}
        return self if both._values == self._values else both

    def masked(self, text: str) -> str:
        """`text` without any piece of a secret, cut to `LONGEST` characters."""
        text, whole = text[: LONGEST + LEAST * 16], len(text) <= LONGEST
        if self._values:
            folded = _folded(text)
            runs = self._runs(folded)
            if self._is_ambiguous(folded, runs) or self._is_spread(_without(folded, runs)):
                return WITHHELD
            text = _without(text, runs)
        return text if whole or len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

    def scrub(self, error: BaseException, *spared: type[BaseException]) -> None:
        """Masks the texts of an exception and of all exceptions chained to it, which a log shows too.

        Types in `spared` are left as they are: the code that raised them masked the server's words.
        """
        for one in _chain(error) if self._values else ():
            if not isinstance(one, spared):
                with suppress(AttributeError, TypeError):  # what cannot be changed is not from a server
                    self._scrub(one)

    def _scrub(self, error: BaseException) -> None:
        error.args = tuple(self._scrubbed(value) for value in error.args)
        names = [*vars(error), "strerror", "object", "reason"]  # not in __dict__: of OSError and UnicodeError
        for name in names:
            value = getattr(error, name, None)
            if (clean := self._scrubbed(value)) != value:
                setattr(error, name, clean)

    def _scrubbed(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, bytes):
            text = value.decode(errors="backslashreplace")
            return value if self.masked(text) == text else self.masked(text).encode()
        if isinstance(value, tuple | list):
            return type(value)(self._scrubbed(one) for one in value)
        return value

    def _runs(self, folded: str) -> list[tuple[int, int]]:
        """The [start, end) positions of pieces of secrets, ascending, with adjacent ones merged."""
        found = sorted(
            (start, start + length)
            for length, pieces in self._pieces.items()
            for start in range(len(folded) - length + 1)
            if folded[start : start + length] in pieces
        )
        runs: list[tuple[int, int]] = []
        for start, end in found:
            if runs and start <= runs[-1][1]:
                runs[-1] = runs[-1][0], max(end, runs[-1][1])
            else:
                runs.append((start, end))
        return [run for run in runs if not self._is_public(folded, *run)]

    def _is_public(self, folded: str, start: int, end: int) -> bool:
        """Whether a piece, not a whole secret, lies within an occurrence of a public name."""
        if folded[start:end] in map(_folded, self._values):
            return False
        names = map(_folded, self._public)
        return any(folded.find(name, max(0, end - len(name)), start + len(name)) >= 0 for name in names)

    def _is_ambiguous(self, folded: str, runs: list[tuple[int, int]]) -> bool:
        """Whether some piece may be an ordinary word or number."""
        return any(not _is_mixed(folded[start:end]) for start, end in runs) or any(
            short.search(folded) for short in self._short
        )

    def _is_spread(self, folded: str) -> bool:
        """Whether the remaining text has a secret with other characters between its own."""
        bare, digits = _bare(folded), _NO_DIGIT.sub("", folded)
        if any(secret in bare for secret in self._bare):
            return True
        return any(
            digits[start : start + length] in pieces
            for length, pieces in self._digits.items()
            for start in range(len(digits) - length + 1)
        )

    @cached_property
    def _pieces(self) -> dict[int, frozenset[str]]:
        """What to match, by length: in each encoding of a secret, the pieces that are never shown."""
        found: dict[int, set[str]] = {}
        for secret, least in self._values.items():
            if len(secret) < least:
                continue
            for written in set(map(_folded, _ways(secret))):
                length = max(least, least * len(written) // len(secret))
                found.setdefault(length, set()).update(_cut([written], length))
        return {length: frozenset(pieces) for length, pieces in found.items()}

    @cached_property
    def _digits(self) -> dict[int, frozenset[str]]:
        """The same for its hexadecimal digits, in UTF-8 and UTF-16."""
        long = [secret for secret in self._values if len(secret) >= LEAST]
        kinds = {2 * LEAST: "utf-8", 4 * LEAST: "utf-16-be"}
        return {
            length: _cut((secret.encode(kind, "surrogatepass").hex() for secret in long), length)
            for length, kind in kinds.items()
        }

    @cached_property
    def _short(self) -> list[re.Pattern[str]]:
        short = [re.escape(_folded(secret)) for secret in self._values if len(secret) < LEAST]
        return [re.compile(rf"(?<!\w){secret}(?!\w)") for secret in short]

    @cached_property
    def _bare(self) -> list[str]:
        return [bare for secret in self._values if len(bare := _bare(_folded(secret))) >= LEAST]


NONE = Secrets()
"""For texts from a server that was sent no secrets."""


def sent_to(shard: object) -> Secrets:
    """The shard's `secrets`, to be masked in what its server says."""
    secrets = getattr(shard, "secrets", NONE)
    return secrets if isinstance(secrets, Secrets) else NONE


def _ways(secret: str) -> Iterator[str]:
    """The encodings that are matched."""
    raw = secret.encode(errors="surrogatepass")
    yield secret
    yield from (quote(raw, safe=""), quote(raw), quote_plus(raw), escape(secret))
    yield from (repr(secret)[1:-1], repr(raw)[2:-1])
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (secret.replace('"', '\\"'), secret.replace("'", "''"), secret.replace('"', '""'))
    yield from (raw.decode("latin-1"), raw.decode("ascii", errors="replace"))
    yield raw.hex()
    # Base64 depends on whether 0, 1 or 2 other bytes precede; digits that those bytes affect are left out.
    yield from (b64encode(bytes(skip) + raw).decode().rstrip("=")[2 * skip - skip // 2 : -1] for skip in range(3))


def _cut(texts: Iterable[str], length: int) -> frozenset[str]:
    return frozenset(text[end - length : end] for text in texts for end in range(length, len(text) + 1))


def _folded(text: str) -> str:
    """In lower case, with every character at its position."""
    return "".join(small if len(small := char.lower()) == 1 else char for char in text)


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _is_mixed(run: str) -> bool:
    return any(map(str.isalpha, run)) and any(map(str.isdigit, run))


def _without(text: str, runs: list[tuple[int, int]]) -> str:
    parts, done = [], 0
    for start, end in runs:
        parts += [text[done:start], MASK]
        done = end
    return "".join([*parts, text[done:]])


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, its causes and contexts, and the members of groups."""
    seen, left = {id(error)}, [error]
    while left:
        one = left.pop()
        yield one
        linked = [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        for other in linked:
            if isinstance(other, BaseException) and id(other) not in seen:
                seen.add(id(other))
                left.append(other)

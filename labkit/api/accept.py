"""Which of two representations a client wants: the Accept header, by RFC 9110, section 12.5.1."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

__all__ = ["choose"]

LONGEST = 8_192
"""Characters that are looked at; what follows is passed over, as what is malformed is."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word, no secret
_RANGE = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*")
_PARAMETER = re.compile(rf'\s*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*+")\s*')
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
# Linear in what a client sends: a quoted string that nobody closes takes all that is left, and is never tried again.
_PIECE = re.compile(r'(?s:"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[^",;]++|[,;])')


def choose(accept: str | None, offers: Sequence[str]) -> str | None:
    """The media type of `offers` that `accept` likes best, None where it allows none of them.

    No header, and an empty one, allow all. Between equals the one that is named more exactly wins, then the
    earlier offer. Elements that are malformed are passed over. Takes time in proportion to the header's length.
    """
    if accept is None or not accept.strip():
        return offers[0]
    ranges = list(_ranges(accept))
    best: tuple[float, int] = (0.0, 0)
    chosen = None
    for offer in offers:
        quality, precision = _rating(offer, ranges)
        if quality > 0 and (quality, precision) > best:
            best, chosen = (quality, precision), offer
    return chosen


def _rating(offer: str, ranges: Sequence[tuple[str, str, float]]) -> tuple[float, int]:
    """(quality, precision) that the most precise of the ranges gives to the offer; (0, 0) where none matches."""
    kind, _, subtype = offer.partition("/")
    found = (0, 0.0)
    for wanted_kind, wanted_subtype, quality in ranges:
        if (wanted_kind, wanted_subtype) == (kind, subtype):
            found = max(found, (3, quality))
        elif (wanted_kind, wanted_subtype) == (kind, "*"):
            found = max(found, (2, quality))
        elif (wanted_kind, wanted_subtype) == ("*", "*"):
            found = max(found, (1, quality))
    precision, quality = found
    return quality, precision


def _ranges(accept: str) -> Iterator[tuple[str, str, float]]:
    """(type, subtype, quality) of each well-formed element."""
    for element in _split(accept[:LONGEST], ","):
        head, *parameters = _split(element, ";") if ";" in element else [element]
        media = _RANGE.fullmatch(head)
        quality = _quality(parameters)
        if media and quality is not None:
            yield media[1].lower(), media[2].lower(), quality


def _quality(parameters: Sequence[str]) -> float | None:
    """The weight; 1 where there is none, None where a parameter is malformed."""
    quality = 1.0
    for parameter in parameters:
        pair = _PARAMETER.fullmatch(parameter)
        if pair is None:
            return None
        if pair[1].lower() == "q":
            if not _QUALITY.fullmatch(pair[2]):
                return None
            quality = float(pair[2])
    return quality


def _split(text: str, separator: str) -> list[str]:
    """`text` split at a separator that does not stand in a quoted string."""
    parts: list[list[str]] = [[]]
    for piece in _PIECE.findall(text):
        if piece == separator:
            if parts[-1]:  # an empty element says nothing
                parts.append([])
        else:
            parts[-1].append(piece)
    return ["".join(part) for part in parts]

"""Content negotiation by the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["choose"]

_MAX_LENGTH = 8_192
"""Characters of the header that are read; the rest is ignored."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's term, not a secret
_RANGE = re.compile(rf"\s*({_TOKEN}/{_TOKEN})\s*")
_PARAMETER = re.compile(rf'\s*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*+")\s*')
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
# Linear time: an unclosed quoted string matches to the end of the header and is never retried.
_PIECE = re.compile(r'(?s:"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[^",;]++|[,;])')


def choose(accept: str | None, offers: Sequence[str]) -> str | None:
    """The media type of `offers` that `accept` rates highest; None if it allows none of them.

    A missing or empty header allows all. Ties go to the more specific range, then to the earlier offer. Malformed
    elements are ignored. Takes time linear in the length of the header.
    """
    if accept is None or not accept.strip():
        return offers[0]
    qualities = _qualities(accept)
    best = max(offers, key=lambda offer: _rating(offer, qualities))
    return best if _rating(best, qualities)[0] else None


def _rating(offer: str, qualities: Mapping[str, float]) -> tuple[float, int]:
    """(quality, specificity) of the most specific matching range; (0, 0) if none matches."""
    for specificity, media_range in ((3, offer), (2, f"{offer.partition('/')[0]}/*"), (1, "*/*")):
        if media_range in qualities:
            return qualities[media_range], specificity
    return 0.0, 0


def _qualities(accept: str) -> dict[str, float]:
    """The quality of each well-formed media range, in lower case."""
    qualities: dict[str, float] = {}
    for element in _split(accept[:_MAX_LENGTH], ","):
        head, *parameters = _split(element, ";")
        media_range = _RANGE.fullmatch(head)
        quality = _quality(parameters)
        if media_range and quality is not None:
            name = media_range[1].lower()
            qualities[name] = max(quality, qualities.get(name, 0.0))
    return qualities


def _quality(parameters: Sequence[str]) -> float | None:
    """The weight; 1 without a `q`, None if any parameter is malformed."""
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
    """`text` split at separators outside quoted strings, without empty elements before a separator."""
    parts: list[list[str]] = [[]]
    for piece in _PIECE.findall(text):
        if piece == separator:
            if parts[-1]:
                parts.append([])
        else:
            parts[-1].append(piece)
    return ["".join(part) for part in parts]

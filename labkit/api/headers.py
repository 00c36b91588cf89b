"""Headers of answers: how long they may be kept, what they lack, and where the next page is."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from fastapi import Request

from labkit._types import Ranges
from labkit.result import ReadResult

__all__ = ["NEVER_STORED", "RETRY", "for_result", "next_page"]

NEVER_STORED = {"Cache-Control": "no-store"}
"""For what may be another thing in the next moment."""
RETRY = {**NEVER_STORED, "Retry-After": "1"}
"""For what is worth asking again: circuits and connections come back within about a second."""
LONGEST = 500
"""Characters that gaps take up in a header at the most; many servers and proxies refuse headers of some thousand."""


def for_result(result: ReadResult) -> dict[str, str]:
    """A complete answer may be stored and is asked for again each time; a partial one says so and is never stored."""
    if result.complete:
        return {"Cache-Control": "no-cache"}
    return {**NEVER_STORED, "Labkit-Missing": _gaps(result.missing)}


def next_page(request: Request, after: int) -> dict[str, str]:
    """The link to the page that begins after `after` (RFC 8288), the other parameters as they were."""
    parameters = [(name, value) for name, value in request.query_params.multi_items() if name != "after"]
    return {"Link": f'<{quote(request.scope["path"])}?{urlencode([*parameters, ("after", after)])}>; rel="next"'}


def _gaps(missing: Ranges) -> str:
    """`11-20, 41-50`; cut after a whole gap where it would be too long, and then it ends with `...`."""
    text = ""
    for low, high in missing:
        gap = f"{low}-{high}"
        if len(text) + len(gap) > LONGEST:
            return f"{text}, ..."
        text += f", {gap}" if text else gap
    return text

"""What a notebook shows where its outputs are compared: nothing that differs from one run to the next."""

from __future__ import annotations

import re
import sys
from typing import Any

__all__ = ["HIDDEN", "MASKS", "Urls", "replaying", "steady"]

HIDDEN = "…"
"""Stands for what differs from run to run."""
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
MASKS = {
    rf"\b{_NUMBER} ?(?:ns|µs|us|ms|s|sec|seconds)\b": f"{HIDDEN} s",
    rf"\b(elapsed|started|ended)(=|\W{{1,3}}){_NUMBER}\b": rf"\1\2{HIDDEN}",
    r"\b\d{2}:\d{2}:(?!00\b)\d{2}(?:[.,]\d+)?\b": HIDDEN,
    r"(\w://[^\s:@/]*:)[^\s@/]+(?=@)": rf"\1{HIDDEN}",
    r"\b(\d{1,3}(?:\.\d{1,3}){3}|localhost):\d{2,5}\b": rf"\1:{HIDDEN}",
    r"(?i)\b(port|pid|process)( |=)\d{2,}\b": rf"\1\2{HIDDEN}",
    r"\b0x[0-9a-f]{6,}": HIDDEN,
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": HIDDEN,
    r"\b(?=\d*[a-f])(?=[a-f]*\d)(?:[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})\b": HIDDEN,
    r"(?<![\w.:/])/(?:dev/shm|home|opt|private|root|tmp|usr|var|work|Users)(?:/[\w.@%+~-]+)+": HIDDEN,
    r"(?i)(?<![^\W_])(postgresql|postgres|redis|redis-server|valkey|python|numpy|pandas|labkit|version)"
    r"([ '\"_:=v/]{1,4})\d+(?:\.\d+)+\w*": rf"\1\2{HIDDEN}",
}
"""Measured times (a whole minute is data: a clock hardly shows one), passwords in URLs, ports, process IDs, identities,
files, and versions, as regular expressions with their replacements.
"""
_MASKS = [(re.compile(pattern), replacement) for pattern, replacement in MASKS.items()]


def steady(text: str) -> str:
    """`text` with `HIDDEN` for what differs from run to run, as far as `MASKS` know it."""
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text


def replaying() -> bool:
    """Whether the running cell was not sent by a person, but to compare its outputs.

    Such a request is not kept in the kernel's history: nbval's are not, nor those of `labkit notebook`.
    """
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    shell: Any = get_ipython()
    if shell is None or not shell.has_trait("kernel"):
        return False
    try:
        request = shell.kernel.get_parent() or {}
    except LookupError:  # older kernels do not know it in other threads
        return False
    return request.get("content", {}).get("store_history") is False


class Urls(dict[Any, str]):
    """Each shard's URL or address. A notebook shows them without ports and passwords where outputs are compared."""

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What IPython shows."""
        shown = replaying()
        printer.pretty({shard: steady(url) if shown else url for shard, url in self.items()})

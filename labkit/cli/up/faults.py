"""A fault as it is typed: `Latency`, `Latency(200)` or `Latency latency=200 stream=upstream`."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

from labkit import faults
from labkit._checks import shown, unknown
from labkit.errors import UsageError
from labkit.show.format import plain

__all__ = ["fault_of"]

WORDS = re.compile(r"(\w*)\s*(.*)", re.DOTALL)


def fault_of(text: str) -> faults.Fault:
    """The fault that a text names, in any capitalisation; parameters that are left out have their defaults.

    Raises `UsageError` for an unknown fault, for parameters that it does not have, and for values that it refuses.
    """
    found = WORDS.fullmatch(text.strip())
    name, rest = found.groups() if found else ("", "")
    by_name = {known.lower(): known for known in faults.ALL}
    if name.lower() not in by_name:
        raise UsageError(unknown("fault", plain(name), faults.ALL))
    kind = faults.ALL[by_name[name.lower()]].kind
    try:
        values, named = _call(rest) if rest.startswith("(") else ([], _pairs(rest))
    except (ValueError, SyntaxError):
        raise UsageError(
            f"{shown(plain(rest))} is not readable: write {kind.__name__}(…) with numbers and quoted text, "
            f"or {kind.__name__} name=value"
        ) from None
    try:
        inspect.signature(kind).bind(*values, **named)
    except TypeError as error:
        takes = ", ".join(faults.ALL[kind.__name__].parameters) or "none"
        raise UsageError(f"{kind.__name__}: {error}; its parameters: {takes}") from None
    return kind(*values, **named)


def _call(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The values in `(200, stream='upstream')`."""
    call = ast.parse(f"f{text}", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(text)
    named = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    if len(named) < len(call.keywords):
        raise ValueError(text)
    return [ast.literal_eval(value) for value in call.args], named


def _pairs(text: str) -> dict[str, Any]:
    """The values in `latency=200 stream=upstream`; what is not a literal is text."""
    pairs = [word.partition("=") for word in text.split()]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError(text)
    return {name: _literal(value) for name, _, value in pairs}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

"""Replies and failures as text: like redis-cli for people, JSON for machines."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from labkit.cli.call.ask import NodeReply
from labkit.cli.call.failures import said
from labkit.shards.secrets import NONE

__all__ = ["as_json", "as_text", "failures", "in_blocks", "is_text"]

STATUSES = (b"OK", b"PONG", b"QUEUED")
"""Written without quotes; redis-py does not distinguish them from strings, so a string of the same text is too."""
TEXTS = {
    ("INFO",), ("LOLWUT",), ("CLUSTER", "INFO"), ("CLUSTER", "NODES"), ("CLIENT", "INFO"), ("CLIENT", "LIST"),
    ("LATENCY", "DOCTOR"), ("LATENCY", "GRAPH"), ("MEMORY", "DOCTOR"), ("MEMORY", "MALLOC-STATS"),
}  # fmt: skip
"""Commands whose reply is text for people, which redis-cli prints unquoted."""
ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b"}


def is_text(words: Sequence[bytes]) -> bool:
    """Whether the command's reply is text for people."""
    upper = tuple(word.decode(errors="replace").upper() for word in words[:2])
    return upper in TEXTS or upper[:1] in TEXTS


def as_text(reply: Any, *, text: bool = False) -> str:
    """A reply as redis-cli prints it on a terminal, but with non-ASCII letters kept; unquoted if `text`."""
    if reply is None:
        return "(nil)"
    if isinstance(reply, RedisError):
        return f"(error) {_visible(said(reply, NONE))}"
    if isinstance(reply, list):
        return _numbered([as_text(item) for item in reply])
    if not isinstance(reply, bytes):
        return f"(integer) {reply}"
    if text:
        return "\n".join(_visible(line) for line in _decoded(reply).splitlines())
    return _decoded(reply) if reply in STATUSES else f'"{_visible(_decoded(reply), ESCAPES)}"'


def in_blocks(outcomes: Sequence[NodeReply], *, text: bool = False) -> str:
    """The nodes that answered: address, role and reply, on one line; lists and several lines below."""
    names = [_visible(outcome.name) for outcome in outcomes]
    named = max(map(len, names), default=0)
    blocks = []
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.failure is None:
            shown = as_text(outcome.reply, text=text)
            head = f"{name:<{named}}  {outcome.role}".rstrip()
            long = "\n" in shown or (outcome.reply and isinstance(outcome.reply, list))
            blocks.append("\n  ".join([head, *shown.split("\n")]) if long else f"{_padded(head, outcome)}  {shown}")
    return "\n".join(blocks)


def failures(outcomes: Sequence[NodeReply]) -> list[str]:
    """One line per node that failed, aligned with `in_blocks`."""
    named = max((len(_visible(outcome.name)) for outcome in outcomes), default=0)
    return [f"{_visible(one.name):<{named}}  {_visible(str(one.failure))}" for one in outcomes if one.failure]


def as_json(outcomes: Sequence[NodeReply]) -> str:
    """`{"answers": {node: reply}, "failures": {node: {"status": …, "cause": …}}}`; see `_jsonable` for replies."""
    answers = {one.name: _jsonable(one.reply) for one in outcomes if one.failure is None}
    failed = {
        one.name: {"status": one.failure.status, "cause": one.failure.cause}
        for one in outcomes
        if one.failure is not None
    }
    return json.dumps({"answers": answers, "failures": failed}, ensure_ascii=False)


def _jsonable(reply: Any) -> Any:
    """null, numbers, strings and lists; bytes that are not UTF-8 are {"base64": …}, an error in a list {"error": …}."""
    if isinstance(reply, list):
        return [_jsonable(item) for item in reply]
    if isinstance(reply, RedisError):
        return {"error": said(reply, NONE)}
    if not isinstance(reply, bytes):
        return reply
    try:
        return reply.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(reply).decode()}


def _numbered(items: list[str]) -> str:
    width = len(str(len(items)))
    below = "\n" + " " * (width + 2)
    lines = [f"{number:>{width}}) {item.replace(chr(10), below)}" for number, item in enumerate(items, 1)]
    return "\n".join(lines) or "(empty array)"


def _padded(head: str, outcome: NodeReply) -> str:
    return f"{head:<{len(head) + len('replica') - len(outcome.role)}}" if outcome.role else head


def _decoded(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def _visible(text: str, escapes: dict[str, str] | None = None) -> str:
    """Control characters, and bytes that are not UTF-8, become \\x…"""
    return "".join((escapes or {}).get(char) or (char if char.isprintable() else _hex(char)) for char in text)


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors="surrogateescape"))

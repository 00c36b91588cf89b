"""How a shard's rows are stored in Redis: one module per layout, chosen by name."""

from __future__ import annotations

from labkit.errors import UsageError
from labkit.shards.redis.layouts.base import Capabilities, Layout, Run
from labkit.shards.redis.layouts.hash import Hash
from labkit.shards.redis.layouts.rows import member
from labkit.shards.redis.layouts.sorted_set import SortedSet
from labkit.shards.redis.layouts.strings import Strings

__all__ = ["LAYOUTS", "Capabilities", "Layout", "Run", "layout", "member"]

_ALL: dict[str, Layout] = {one.name: one for one in (SortedSet(), Hash(), Strings())}
LAYOUTS = tuple(_ALL)
"""Their names; the first is the default."""


def layout(name: str) -> Layout:
    """The layout of that name; `UsageError` if unknown."""
    if not isinstance(name, str) or name not in _ALL:
        raise UsageError(f"unknown layout {name!r}: write one of {', '.join(LAYOUTS)}")
    return _ALL[name]

"""How the rows of a shard lie in Redis: one module a layout, chosen by name."""

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
"""The names of all of them; the first is what a shard has that names none."""


def layout(name: str) -> Layout:
    """The layout of that name; `UsageError` for one that there is not."""
    if not isinstance(name, str) or name not in _ALL:
        raise UsageError(f"unknown layout {name!r}: write one of {', '.join(LAYOUTS)}")
    return _ALL[name]

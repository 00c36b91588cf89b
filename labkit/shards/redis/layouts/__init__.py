"""How a shard's rows are stored in Redis: one module per layout, chosen by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from labkit.errors import UsageError
from labkit.shards.redis.layouts.base import Capabilities, Layout, Run
from labkit.shards.redis.layouts.hash import Hash
from labkit.shards.redis.layouts.hashes import Hashes
from labkit.shards.redis.layouts.rows import member
from labkit.shards.redis.layouts.sorted_set import SortedSet
from labkit.shards.redis.layouts.strings import Strings
from labkit.shards.redis.layouts.writing import members
from labkit.shards.schemas import declared

__all__ = ["LAYOUTS", "Capabilities", "Layout", "Run", "layout", "member", "members"]

_ALL: dict[str, Callable[[pa.Schema | None], Layout]] = {one.name: one for one in (SortedSet, Hash, Strings, Hashes)}
LAYOUTS = tuple(_ALL)
"""Their names; the first is the default."""


def layout(name: str, schema: Any = None) -> Layout:
    """The layout of that name, for rows of `schema` (None is id and name); `UsageError` if it is unknown, and for what
    is not a schema, see `labkit.shards.schemas.declared`.
    """
    if not isinstance(name, str) or name not in _ALL:
        raise UsageError(f"unknown layout {name!r}: write one of {', '.join(LAYOUTS)}")
    return _ALL[name](None if schema is None else declared(schema))

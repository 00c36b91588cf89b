"""Which master has which slots, and hash tags that put a shard's rows on its own master.

`{1}`, `{2}` and `{3}` are no such tags: with three masters two of them are on the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

from labkit._types import ShardKey
from labkit.errors import UsageError
from labkit.shards.redis.cluster.slots import SLOTS, key_slot

__all__ = ["MOST", "even_slots", "tagged"]

MOST = 10_000
"""Tags that are tried: with 1,000 masters each tag is right with a chance of 1 in 1,000."""


def even_slots(masters: int) -> list[range]:
    """The slots of each of so many masters, as even as can be, in the order of the masters."""
    bounds = [SLOTS * i // masters for i in range(masters + 1)]
    return [range(bounds[i], bounds[i + 1]) for i in range(masters)]


def tagged(shard: ShardKey, slots: range) -> str:
    """The key of a shard's rows, with the first of the tags {1}, {1a}, {1b}, … (for shard 1) that is in these slots.

    Raises `UsageError` for a shard whose name has braces, so that no tag of ours counts.
    """
    for tag in islice(_tags(str(shard)), MOST):
        key = f"data_{shard}:{{{tag}}}"
        if key_slot(key) in slots:
            return key
    raise UsageError(f"shard {shard!r} cannot have a hash tag: leave braces out of its name")


def _tags(name: str) -> Iterator[str]:
    yield name
    for number in count():
        yield name + _letters(number)


def _letters(number: int) -> str:
    """0 is a, 25 is z, 26 is aa."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters

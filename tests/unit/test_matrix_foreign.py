"""Somebody else's reader: what is taken for one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from labkit.errors import UsageError
from labkit.matrix.foreign import found, named, takes_tables

ROWS = [(1, "one"), (2, None), (3, "")]


async def reading(urls: dict[int, str]) -> Any:
    return ROWS


async def told(urls: dict[int, str], tables: dict[int, str]) -> Any:
    return ROWS


class Callable:
    async def __call__(self, urls: dict[int, str]) -> Any:
        return ROWS


def test_what_can_be_awaited_is_taken_as_it_is():
    """A coroutine function, a partial one, an object that is called like one."""
    for reader in (reading, partial(reading), Callable()):
        assert found(reader) is reader
        assert isinstance(named(reader), str)


@pytest.mark.parametrize("reader", [print, len, "builtins:print", lambda urls: []])
def test_what_cannot_be_awaited_is_refused(reader):
    """One line with the name and the fix."""
    with pytest.raises(UsageError, match=r"is no coroutine function: write `async def` and take \{shard: url\}"):
        found(reader)


def test_a_second_parameter_is_for_the_tables():
    """One that may be left out counts."""
    assert [takes_tables(reader) for reader in (reading, told, partial(told, tables={}), Callable())] == [
        False, True, False, False,
    ]  # fmt: skip

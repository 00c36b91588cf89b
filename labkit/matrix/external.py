"""Somebody else's reader: what it is, and how it is found by its name."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any, TypeAlias

from labkit.errors import UsageError

__all__ = ["Foreign", "found", "named", "takes_tables"]

Foreign: TypeAlias = "Callable[..., Awaitable[Any]]"
"""Takes {shard: url}, and {shard: table or key} if it has a second parameter; returns rows, `{"rows": …, "missing":
[[low, high], …]}`, a pair (rows, missing) or a `ReadResult`. Rows are (id, name) pairs, mappings with id and name, or a
DataFrame."""


def found(reader: str | Foreign) -> Foreign:
    """The reader "module:function", looked for in the current directory as well; a callable is taken as it is.

    `UsageError` in one line for what cannot be imported or is no coroutine function.
    """
    function: Any = _imported(reader) if isinstance(reader, str) else reader
    if not any(inspect.iscoroutinefunction(what) for what in (function, getattr(function, "__call__", None))):  # noqa: B004
        what = f"reader {named(reader)!r} is no coroutine function"
        raise UsageError(f"{what}: write `async def` and take {{shard: url}}")
    return function  # type: ignore[no-any-return]


def takes_tables(reader: Foreign) -> bool:
    """Whether it takes two arguments, so that it is told the tables; else it must know that they are data_N."""
    try:
        inspect.signature(reader).bind({}, {})
    except (TypeError, ValueError):
        return False
    return True


def named(reader: str | Foreign) -> str:
    """How it is called in reports."""
    return reader if isinstance(reader, str) else getattr(reader, "__name__", type(reader).__name__)


def check_spelling(spec: str) -> None:
    """`UsageError` for what does not look like "module:function"; nothing is imported."""
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise UsageError(f"reader {spec!r} is not module:function, as in mine.reading:read_all")


def _imported(spec: str) -> Any:
    check_spelling(spec)
    module, _, name = spec.partition(":")
    try:
        _from_here(module.partition(".")[0])
        function: Any = import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"reader {spec!r} cannot be imported ({type(error).__name__}: {error})") from error
    for part in name.split("."):
        if not hasattr(function, part):
            raise UsageError(f"reader {spec!r}: module {module!r} has no {name!r}; check the name after the colon")
        function = getattr(function, part)
    return function


def _from_here(name: str) -> None:
    """Imports the reader's own module, or package, where the working folder has it. Other modules of that folder come
    after all that are found without it: a `random.py` there is not taken for Python's.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
        spec = PathFinder.find_spec(name, [here])
        if spec is not None and spec.origin is not None and spec.loader is not None and name not in sys.modules:
            sys.modules[name] = module = module_from_spec(spec)
            spec.loader.exec_module(module)

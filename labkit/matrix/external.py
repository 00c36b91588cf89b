"""An external reader in Python: what it must be, and how it is found by name."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any, TypeAlias

from labkit.errors import UsageError

__all__ = ["ExternalReader", "found", "is_async", "named", "takes_tables"]

ExternalReader: TypeAlias = Callable[..., Any]
"""A function, async or not. It takes {shard: url}, and {shard: table or key} if it has a second parameter; it returns
rows, `{"rows": …, "missing": [[low, high], …]}`, a pair (rows, missing) or a `ReadResult`. Rows are tuples of the
table's values, such as (id, name), mappings from its names, or a DataFrame."""


def found(reader: str | ExternalReader) -> ExternalReader:
    """The reader "module:function", also from the current directory; a callable is returned as it is.

    `UsageError` in one line if it cannot be imported or is not a function.
    """
    function: Any = _imported(reader) if isinstance(reader, str) else reader
    if not callable(function):
        raise UsageError(
            f"reader {named(reader)!r} is not a function: write `def` or `async def`, and take {{shard: url}}"
        )
    return function  # type: ignore[no-any-return]


def is_async(reader: ExternalReader) -> bool:
    """Whether it is called on the event loop; others are called in a thread, as they may block."""
    return any(inspect.iscoroutinefunction(what) for what in (reader, getattr(reader, "__call__", None)))  # noqa: B004


def takes_tables(reader: ExternalReader) -> bool:
    """Whether it takes a second argument, the tables; otherwise it assumes data_N."""
    try:
        inspect.signature(reader).bind({}, {})
    except (TypeError, ValueError):
        return False
    return True


def named(reader: str | ExternalReader) -> str:
    """Its name in reports."""
    return reader if isinstance(reader, str) else getattr(reader, "__name__", type(reader).__name__)


def _imported(spec: str) -> Any:
    module, _, name = spec.partition(":")
    if not (module and name):
        raise UsageError(f"reader {spec!r} is not module:function, as in mine.reading:read_all")
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
    """Imports the reader's own module or package from the working folder, if it is there. That folder's other modules
    come last in the search: a `random.py` there does not shadow Python's.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
        spec = PathFinder.find_spec(name, [here])
        if spec is not None and spec.origin is not None and spec.loader is not None and name not in sys.modules:
            sys.modules[name] = module = module_from_spec(spec)
            spec.loader.exec_module(module)

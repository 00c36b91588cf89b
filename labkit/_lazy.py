"""Public names that load their module on first use (PEP 562), so that `import labkit` stays cheap."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["load"]


def load(package: str, home: Mapping[str, str], name: str) -> Any:
    """The object `name` of `package`, imported from its module in `home` (the module itself where they are one)."""
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module = import_module(home[name])
    value = module if home[name] == f"{package}.{name}" else getattr(module, name)
    setattr(sys.modules[package], name, value)
    return value

"""Runs in a kernel once the cells have run: what is left of labs and proxies, and which faults never fired."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit._types import ShardKey
    from labkit.faults.base import Fault
    from labkit.lab.injecting import Injecting

__all__ = ["report"]


def report() -> str:
    """JSON: `left` and `unfired`, each a list of texts. Without labs and proxies it loads nothing."""
    labs: list[Any] = []
    left: list[str] = []
    if "labkit.lab" in sys.modules:
        from labkit.lab.injecting import Injecting

        labs = [thing for thing in gc.get_objects() if issubclass(type(thing), Injecting)]
        left = [*(item for lab in labs for item in lab.leftovers()), *_keepers()]
    unfired = [text for lab in labs for text in _unfired(lab)]
    return json.dumps({"left": list(dict.fromkeys(left)), "unfired": unfired})


def _keepers() -> Iterator[str]:
    """All keepers that this process started: also those that nothing refers to any more."""
    import psutil

    from labkit.lab.keeper.client import REAPER

    for child in psutil.Process(os.getpid()).children():
        try:
            if str(REAPER) in child.cmdline():
                yield f"keeper process {child.pid}"
        except psutil.Error:
            continue  # it has just ended


def _unfired(lab: Injecting) -> Iterator[str]:
    """The faults that lasted until the lab was stopped without ever having fired. Of others the lab has warned."""
    lasting: list[tuple[ShardKey, Fault]] = []
    for event in lab.events:
        if event.kind in ("start", "stop"):
            same = [(event.shard, event.fault)]
            lasting = lasting + same if event.kind == "start" else [one for one in lasting if one not in same]
    fired = [(event.shard, event.fault) for event in lab.events if event.kind == "fired"]
    for shard, fault in lasting:
        if (shard, fault) not in fired:
            yield f"{fault!r} never fired on shard {shard!r}: it tests nothing; read while it lasts, or remove it"

"""The URLs of shards, as a lab and proxies tell them."""

from __future__ import annotations

from typing import Any

from labkit._replay import replaying, steady

__all__ = ["Urls"]


class Urls(dict[Any, str]):
    """Each shard's URL or address. A notebook shows them without ports and passwords where outputs are compared."""

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What IPython shows."""
        shown = replaying()
        printer.pretty({shard: steady(url) if shown else url for shard, url in self.items()})

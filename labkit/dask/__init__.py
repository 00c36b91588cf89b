"""The table as a Dask DataFrame, for more rows than one machine holds. Needs the extra `dask`.

>>> frame = labkit.dask.read("topology.toml")  # doctest: +SKIP
>>> frame.loc[1000:2000].compute()  # doctest: +SKIP
"""

from __future__ import annotations

from labkit._imports import need

need("dask")

from labkit.dask.collections import read  # noqa: E402 - it imports dask, which is checked for above

__all__ = ["read"]

"""The table as a Dask DataFrame, for more rows than one machine holds. Needs the extra `dask`.

>>> frame = labkit.dask.read("topology.toml")  # doctest: +SKIP
>>> frame.loc[1000:2000].compute()  # doctest: +SKIP
"""

from __future__ import annotations

try:
    import dask.dataframe  # noqa: F401 - looked for here, so that there is one error and not a chain of them
except ModuleNotFoundError as error:
    name = (error.name or "dask").partition(".")[0]
    raise ModuleNotFoundError(
        f"there is no {name} here, which labkit.dask needs: pip install 'labkit[dask]'", name=name
    ) from None

from labkit.dask.collections import read

__all__ = ["read"]

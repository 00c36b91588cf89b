"""The environment in which the keeper and the servers of a lab run."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["absolute", "environment"]

FOREIGN = ("PG", "REDIS")
"""Variables that would change how servers are set up and how programs of Postgres and Redis behave."""
ROOT = str(Path(__file__).parents[3])


def environment() -> dict[str, str]:
    """This process's, without what is meant for other servers, and in which nothing of the working folder is found:
    that may be somebody else's. labkit can be imported from it as here.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join(filter(None, [ROOT, absolute(os.environ.get("PYTHONPATH", ""))]))
    search = absolute(os.environ.get("PATH", os.defpath))
    return {**kept, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PATH": search}


def absolute(path: str) -> str:
    """A search path without its entries that mean the working folder, or lie in it; one that is empty is such."""
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if os.path.isabs(entry))

"""The environment in which the keeper and the servers of a lab run."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["environment"]

FOREIGN = ("PG", "REDIS")
"""Variables that would change how servers are set up and how programs of Postgres and Redis behave."""
ROOT = str(Path(__file__).parents[3])


def environment() -> dict[str, str]:
    """This process's, without what is meant for other servers; labkit can be imported from it as here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path}

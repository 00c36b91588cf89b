"""Makes a notebook from the template."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from labkit.errors import LabkitError, UsageError

__all__ = ["new"]

SUFFIX = ".ipynb"


def new(name: str) -> Path:
    """Writes NAME.ipynb, titled as it is named, and returns its path.

    Raises `UsageError` if the file exists or its folder does not, `LabkitError` if the system refuses to write it.
    """
    path = Path(name if name.endswith(SUFFIX) else f"{name}{SUFFIX}")
    title = path.name.removesuffix(SUFFIX).replace("_", " ").replace("-", " ").strip()
    if not title or not title.isprintable():
        raise UsageError(f"{name!r} is not a name for a notebook: use letters, such as frozen_shard")
    if not path.parent.is_dir():
        raise UsageError(f"the directory {str(path.parent)!r} does not exist: create it, or choose another")
    template = (files("labkit.notebook") / "template.ipynb").read_text(encoding="utf-8")
    heading = (title[0].upper() + title[1:]).replace("\\", "\\\\").replace('"', '\\"')
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template.replace("TITLE", heading, 1))
    except FileExistsError:
        raise UsageError(f"{str(path)!r} exists, and is not overwritten: choose another name") from None
    except OSError as error:
        raise LabkitError(f"{str(path)!r} was not written: {(error.strerror or str(error)).lower()}") from None
    return path

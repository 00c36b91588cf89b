"""External readers: what is accepted as one."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import UsageError
from labkit.matrix.external import found, is_async, named, takes_tables

ROWS = [(1, "one"), (2, None), (3, "")]


async def reading(urls: dict[int, str]) -> Any:
    return ROWS


async def told(urls: dict[int, str], tables: dict[int, str]) -> Any:
    return ROWS


class Callable:
    async def __call__(self, urls: dict[int, str]) -> Any:
        return ROWS


def test_what_can_be_called_is_taken_as_it_is():
    """A function, a partial of one, or an object with `__call__` is used as it is; some of them are async."""
    for reader in (reading, partial(reading), Callable(), print, lambda urls: []):
        assert found(reader) is reader
        assert isinstance(named(reader), str)
    assert all(map(is_async, (reading, partial(reading), Callable())))
    assert not any(map(is_async, (print, lambda urls: [], partial(print))))


@pytest.mark.parametrize("reader", [7, [], "builtins:__name__"])
def test_what_cannot_be_called_is_refused(reader):
    """The error is one line with the name and the fix."""
    fix = r"is not a function: write `def` or `async def`, and take \{shard: url\}"
    with pytest.raises(UsageError, match=fix):
        found(reader)


def test_a_second_parameter_is_for_the_tables():
    """A second positional parameter gets the tables, unless it is bound already."""
    assert [takes_tables(reader) for reader in (reading, told, partial(told, tables={}), Callable())] == [
        False, True, False, False,
    ]  # fmt: skip


LOOK = """
import sys
from labkit.matrix.external import found
print(found("mine:read").__module__, sys.modules["mine"].random.__file__)
"""


def test_only_the_readers_own_module_comes_before_all_others(tmp_path: Path) -> None:
    """A `random.py` beside the reader does not replace Python's; modules found only in the folder are importable."""
    (tmp_path / "mine.py").write_text("import beside, random\n\nasync def read(urls):\n    return []\n")
    (tmp_path / "beside.py").touch()
    (tmp_path / "random.py").write_text("raise SystemExit('not this one')\n")
    done = subprocess.run([sys.executable, "-P", "-c", LOOK], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    module, file = done.stdout.split()
    assert module == "mine"
    assert Path(file).parent != tmp_path


def test_a_readers_module_may_have_the_name_of_another(tmp_path: Path) -> None:
    """The module or package in the working folder takes precedence."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import random\nfrom mine.inner import read\n")
    (tmp_path / "mine" / "inner.py").write_text("async def read(urls):\n    return []\n")
    (tmp_path / "this.py").write_text("import random\nfrom mine.inner import read\n")
    for name in ("mine", "this"):
        look = LOOK.replace("mine", name)
        done = subprocess.run(
            [sys.executable, "-P", "-c", look], cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert done.stdout.startswith("mine.inner "), done.stderr

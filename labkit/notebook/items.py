"""nbval's notebooks and cells, with labkit's comparison and guards: the only module that imports nbval."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import nbval.kernel
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from labkit.notebook.book import Book
from labkit.notebook.guards import leftover, never_fired, recorded
from labkit.notebook.kernels import QUESTION, SocketKernelManager, answer
from labkit.notebook.outputs import difference

__all__ = ["pytest_collect_file"]


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(parent: pytest.Collector) -> Generator[None, list[pytest.Collector], list[Any]]:
    """Has labkit's notebooks in the place of nbval's."""
    found = yield
    return [_Notebook.from_parent(parent, path=one.path) if type(one) is IPyNbFile else one for one in found]


class _Notebook(IPyNbFile):  # type: ignore[misc]
    """A notebook: what is wrong with it as it is stored, its cells, and what is left of its labs."""

    def collect(self) -> Iterator[pytest.Item]:
        yield _Recorded.from_parent(self, name="as recorded")
        for cell in super().collect():
            yield _Cell.from_parent(self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options)
        yield _NothingLeft.from_parent(self, name="nothing left")

    def setup(self) -> None:
        with pytest.MonkeyPatch.context() as patch:  # nbval takes no options for its kernels
            patch.setattr(nbval.kernel, "KernelManager", SocketKernelManager)
            super().setup()


class _Cell(IPyNbCell):  # type: ignore[misc]
    """A cell, compared as `labkit notebook check` does; a fault in it that never fires is a failure."""

    def compare_outputs(self, test: Any, ref: Any, skip_compare: Any = None) -> bool:
        told = difference(self.sanitize_outputs(ref), self.sanitize_outputs(test))
        self.comparison_traceback = [f"it {told}"] if told else []
        return told is None

    def runtest(self) -> None:
        super().runtest()
        for text in never_fired(self.test_outputs or ()):
            self.raise_cell_error(text)


class _Guard(pytest.Item):
    """What concerns the whole notebook."""

    def reportinfo(self) -> tuple[Any, int, str]:
        return self.path, 0, f"{self.path.name}::{self.name}"


class _Recorded(_Guard):
    def runtest(self) -> None:
        _fail([str(problem) for problem in recorded(Book(self.path))])


class _NothingLeft(_Guard):
    def runtest(self) -> None:
        notebook: Any = self.parent
        if notebook.timed_out or not notebook.kernel.is_alive():
            return  # its last cell has failed
        told = answer(notebook.kernel.kc.execute("", silent=True, user_expressions=QUESTION, reply=True, timeout=60))
        _fail([*told["unfired"], *([leftover(told["left"])] if told["left"] else [])])


def _fail(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)

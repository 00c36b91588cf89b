"""The hooks and the fixture. Whatever is heavy is loaded when a test first asks for a lab."""

from __future__ import annotations

import inspect
import sys
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from labkit._imports import need
from labkit.errors import LabkitError, NeverFired

if TYPE_CHECKING:
    from labkit.lab.lab import Lab
    from labkit.lab.sync import SyncLab
    from labkit.pytest.borrowed import Borrowed
    from labkit.pytest.pool import Pool

__all__ = [
    "lab",
    "pytest_addoption",
    "pytest_configure",
    "pytest_pyfunc_call",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_teardown",
]

MOST = "labkit_labs"
MARKS = (
    "lab(backend, *, shards=3, router=None, rows=None, key='id', table=None, launcher='auto', timeout=2.0, seed=0, "
    "masters=None, replicas=0): the lab that the fixture `lab` is: labkit.Lab of these arguments, or of so many shards "
    "instead of a router. Backends: 'postgres', 'redis', 'redis-cluster'.",
    "fault(shard, *faults): what acts on a shard of the fixture `lab` while the test's function runs, such as "
    "fault(2, faults.Pause()), or on several: fault({2: faults.Pause(), 3: [faults.Latency(50), faults.Slicer()]}). "
    "May be repeated. A fault that never fired fails the test.",
)
NO_PLUGIN = (
    "{name} is async, and no plugin runs it: install pytest-asyncio and mark it with pytest.mark.asyncio (or set "
    "asyncio_mode = auto), or mark it with pytest.mark.anyio; in a test without async, lab has the same methods, "
    "which wait"
)
UNSUPPORTED = ("natively supported", "no async plugin")
"""What pytest says where it fails such a test, and before 8.4, where it skips it."""
_pool: pytest.StashKey[Pool] = pytest.StashKey()
_borrowed: pytest.StashKey[Borrowed] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the limit of labs that run at once."""
    parser.addini(MOST, "how many labs of labkit may run at once, in each process of pytest-xdist", default="4")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marks."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab | SyncLab]:
    """Real shards to read, break and heal: a running labkit.Lab as `@pytest.mark.lab("postgres")` says, complete and
    without faults. In a test without async its methods wait instead of being awaited (`Lab.sync()`).

    Tests with the same mark share a lab, which is reset before each of them.
    """
    item = request.node
    with _one_line():
        need("lab")
        from labkit.pytest.borrowed import Borrowed

        if "anyio_backend" in item.fixturenames and _is_async(item):
            _check_backend(request.getfixturevalue("anyio_backend"))
        borrowed = Borrowed(item, _pool_of(request.config), plain=not _is_async(item))
    item.stash[_borrowed] = borrowed
    yield borrowed.lab
    del item.stash[_borrowed]
    left = borrowed.give_back()
    if left:
        pytest.fail(left, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Runs the test's function while its faults act, and then undoes everything that it left."""
    borrowed = item.stash.get(_borrowed, None)
    if borrowed is None:
        _refuse_lost_marks(item)
        return (yield)
    with _one_line():
        borrowed.begin()
    try:
        with _strictly(item):
            result = yield
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | SystemExit | pytest.exit.Exception):
            borrowed.observe()
        wrong = borrowed.end()
        if isinstance(error, NeverFired):
            told = f"NeverFired: {error}"
            wrong = [told + _where(error, item), *(line for line in wrong if line != told)]
        else:
            if not isinstance(error, pytest.skip.Exception | pytest.xfail.Exception):
                borrowed.notes += wrong
            raise
    else:
        wrong = borrowed.end()
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Faults of fixtures, too, must have fired."""
    if _borrowed not in item.stash:
        return (yield)
    try:
        with _strictly(item):
            return (yield)
    except NeverFired as error:
        raise pytest.fail.Exception(f"NeverFired: {error}{_where(error, item)}", pytrace=False) from None


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Says in one line what an async test needs, where pytest finds no plugin that runs it."""
    try:
        return (yield)
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        if _borrowed not in pyfuncitem.stash or not any(words in str(error) for words in UNSUPPORTED):
            raise
    pytest.fail(NO_PLUGIN.format(name=pyfuncitem.name), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to the report of a failed test what its lab saw."""
    report = yield
    borrowed = item.stash.get(_borrowed, None)
    if borrowed is not None and report.failed and report.when == "call":
        report.sections += borrowed.sections()
    return report


def _pool_of(config: pytest.Config) -> Pool:
    """The session's labs; they stop when pytest is done, whatever ends it."""
    from labkit.pytest.pool import Pool, checked_most

    if _pool not in config.stash:
        config.stash[_pool] = Pool(checked_most(config.getini(MOST)))
        config.add_cleanup(config.stash[_pool].stop)
    return config.stash[_pool]


@contextmanager
def _one_line() -> Iterator[None]:
    """An error of labkit's is the whole report."""
    try:
        yield
    except LabkitError as error:
        raise pytest.fail.Exception(f"{type(error).__name__}: {error}", pytrace=False) from None


def _is_async(item: pytest.Item) -> bool:
    function = getattr(item, "function", None)
    function = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(function)


def _check_backend(backend: Any) -> None:
    name = backend if isinstance(backend, str) else backend[0]
    if name != "asyncio":
        fix = "a fixture anyio_backend that returns 'asyncio'"
        pytest.fail(f"a lab needs an event loop of asyncio, and this test runs on {name}: define {fix}", pytrace=False)


def _refuse_lost_marks(item: pytest.Item) -> None:
    """Fails a test whose faults would not act, since no lab is there; another plugin's marks of that name may."""
    base = sys.modules.get("labkit.faults.base")
    if base is None:
        return
    for mark in item.iter_markers("fault"):
        given = [one for arg in mark.args for one in (arg.values() if isinstance(arg, dict) else [arg])]
        if any(isinstance(one, base.Fault) for one in given):
            pytest.fail(f"{item.name} has the mark fault, and does not use labkit's fixture lab", pytrace=False)


def _where(error: BaseException, item: pytest.Item) -> str:
    """The line of the test that an error passed."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(item.path)]
    return f" ({item.path.name}:{lines[-1]})" if lines else ""


@contextmanager
def _strictly(item: pytest.Item) -> Iterator[None]:
    """A fault that never fired is an error, unless the warning is filtered in another way."""
    with warnings.catch_warnings():
        if not _is_filtered(item):
            warnings.simplefilter("error", NeverFired)
        yield


def _is_filtered(item: pytest.Item) -> bool:
    """Whether somebody has said what becomes of the warning."""
    told = [arg for mark in item.iter_markers("filterwarnings") for arg in mark.args]
    return any("NeverFired" in line for line in [*told, *item.config.getini("filterwarnings")])

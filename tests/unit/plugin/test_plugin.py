"""The plugin in a suite that has nothing to do with labkit, and what it says of marks that make no sense."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook

from labkit import CLASSIC, faults
from labkit.errors import LabError, LabkitError, UsageError
from labkit.pytest import pool
from labkit.pytest.marks import Wanted, faults_of, wanted_by
from tests.support.inner import ANYIO, ASYNCIO, run

ROOT = Path(__file__).parents[3]


def test_it_is_found_by_its_entry_point(request: pytest.FixtureRequest) -> None:
    """Where labkit is installed, pytest loads the plugin by itself: this run has it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"labkit": "labkit.pytest"}
    assert request.config.pluginmanager.hasplugin("labkit"), "reinstall: pip install -e ."


def test_it_loads_nothing_that_is_heavy() -> None:
    """It loads in every run of everybody who has labkit: it brings three modules besides labkit's smallest ones."""
    code = (
        "import sys, pytest; before = set(sys.modules); import labkit.pytest; "
        "print(*sorted({name for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == [
        "labkit", "labkit._imports", "labkit._version", "labkit.errors", "labkit.pytest", "labkit.pytest.plugin",
    ]  # fmt: skip


def test_a_program_may_import_labkit_and_then_run_pytest(request: pytest.FixtureRequest) -> None:
    """Where labkit is installed from a wheel, pytest wants to rewrite its asserts, and warns if it comes too late."""
    hook = AssertionRewritingHook(request.config)
    with pytest.raises(pytest.PytestAssertRewriteWarning):
        hook.mark_rewrite("asyncpg")
    hook.mark_rewrite("labkit")


@pytest.mark.slow
def test_a_suite_without_labkit_is_left_alone(pytester: pytest.Pytester) -> None:
    """Strict, with warnings as errors, it runs as ever, also with marks and fixtures of its own by the same names; and
    none of labkit's libraries is loaded.
    """
    code = """
        import sys
        import pytest

        @pytest.fixture
        def lab():
            return "a dog"

        @pytest.mark.lab("black")
        @pytest.mark.fault("mine", 1, {"a": "b"})
        def test_own_names(lab):
            assert lab == "a dog"

        async def test_async():
            assert "labkit.pytest" in sys.modules
            assert not {"pandas", "pyarrow", "numpy", "redis", "anyio", "rich", "labkit.lab"} & set(sys.modules)

        def test_fails():
            assert False
    """
    shown = run(pytester, code, *ASYNCIO, passed=2, failed=1)
    assert "labkit:" not in shown


@pytest.mark.slow
def test_its_marks_fixture_and_setting_explain_themselves(pytester: pytest.Pytester) -> None:
    """`pytest --markers`, `--fixtures` and `--help` say what there is."""
    markers = run(pytester, "", "--markers")
    assert "@pytest.mark.lab(backend, *, shards=3, router=None, rows=None, key='id'," in markers
    assert "@pytest.mark.fault(shard, *faults): what acts on a shard of the fixture `lab` while" in markers
    fixtures = run(pytester, "", "--fixtures")
    assert (
        'Real shards to read, break and heal: a running labkit.Lab as `@pytest.mark.lab("postgres")` says' in fixtures
    )
    assert "labkit_labs (string): how many labs of labkit may run at once" in run(pytester, "", "--help")


@pytest.mark.slow
def test_what_is_wrong_is_one_line(pytester: pytest.Pytester) -> None:
    """A mark that says what no lab can be, and a missing library, are lines that name the value and the fix."""
    code = """
        import pytest
        from labkit import faults

        def test_unsaid(lab): ...

        @pytest.mark.lab("postgress")
        def test_backend(lab): ...

        @pytest.mark.lab("redis", shard=2)
        def test_option(lab): ...

        @pytest.mark.lab("redis", launcher="podman")
        def test_launcher(lab): ...

        @pytest.mark.fault(2, faults.Pause())
        def test_lost(): ...

        @pytest.mark.lab("redis")
        @pytest.mark.fault(faults.Pause())
        def test_nowhere(lab): ...

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        @pytest.mark.lab("redis")
        async def test_trio(lab): ...

        @pytest.mark.lab("redis")
        def test_without_extra(lab): ...
    """
    hides = """
        import sys
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_setup(item):
            if item.name == "test_without_extra":
                sys.modules["psutil"] = None
    """
    shown = run(pytester, code, *ANYIO, conftest=hides, errors=7, failed=1)
    for name, line in {
        "test_unsaid": "UsageError: test_unsaid does not say which lab: "
        'mark it with pytest.mark.lab("postgres"), or "redis", …',
        "test_backend": "UsageError: unknown backend 'postgress': choose one of postgres, redis, redis-cluster",
        "test_option": "UsageError: the mark lab: unknown option 'shard'; did you mean shards?",
        "test_launcher": "UsageError: unknown launcher 'podman': choose one of auto, docker, embedded",
        "test_nowhere": "UsageError: no fault for shard Pause(): pass one such as faults.Pause()",
        "test_without_extra": "MissingExtra: the extra 'lab' is not installed (no psutil): "
        "pip install 'sharded-read-lab[lab]'",
        "test_trio": "a lab needs an event loop of asyncio, and this test runs on trio: "
        "define a fixture anyio_backend that returns 'asyncio'",
        "test_lost": "test_lost has the mark fault, and does not use labkit's fixture lab",
    }.items():
        where = name if name == "test_lost" else f"ERROR at setup of {name}"
        assert f"\n{where}\n{line}\n" in shown, shown
    assert "During handling" not in shown
    assert "Traceback" not in shown


def marked(request: pytest.FixtureRequest, *marks: pytest.MarkDecorator) -> pytest.Item:
    """This test as if it had these marks."""
    for mark in marks:
        request.node.add_marker(mark)
    return request.node


FRAME = {"id": range(1, 61), "name": [f"name {i}" for i in range(1, 61)]}


@pytest.mark.parametrize(
    "same",
    [
        [{}, {"shards": 3}, {"router": CLASSIC}, {"shards": np.int64(3)}],
        [{"rows": pd.DataFrame(FRAME)}, {"rows": pd.DataFrame(FRAME)}, {"rows": zip(*FRAME.values(), strict=True)}],
        [{"rows": [(1, "one")], "timeout": 0.5}, {"rows": iter([(1, "one")]), "timeout": 0.5}],
    ],
)
def test_marks_of_the_same_content_share_a_lab(request: pytest.FixtureRequest, same: list[dict[str, Any]]) -> None:
    """Rows count by what they hold, also those of an iterator, which each further test finds used up."""
    identities, held = set(), []
    for options in [*same, *same]:
        wanted = wanted_by(marked(request, pytest.mark.lab("postgres", **options)))
        identities.add(wanted.identity)
        held.append(wanted.arguments["rows"])
        request.node.own_markers.clear()
    assert len(identities) == 1
    assert all(rows is None or rows.equals(held[0]) for rows in held)


def test_marks_of_other_content_do_not(request: pytest.FixtureRequest) -> None:
    """Each parameter tells labs apart."""
    options: list[dict[str, Any]] = [
        {}, {"shards": 2}, {"rows": [(1, "one")]}, {"rows": [(1, "two")]}, {"table": "other"}, {"timeout": 1.0},
        {"seed": 1}, {"rows": pd.DataFrame({"key": [1], "x": [1.5]}), "key": "key"},
    ]  # fmt: skip
    identities = set()
    for backend in ("postgres", "redis"):
        for option in options:
            identities.add(wanted_by(marked(request, pytest.mark.lab(backend, **option))).identity)
            request.node.own_markers.clear()
    assert len(identities) == 2 * len(options)


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_as_many_shards_as_wanted(request: pytest.FixtureRequest, shards: int) -> None:
    """Each shard has two ranges of ten IDs, one after the other: with three, those of the classic router."""
    router = wanted_by(marked(request, pytest.mark.lab("redis", shards=shards))).arguments["router"]
    assert router.shards == tuple(range(1, shards + 1))
    assert router.count == 20 * shards
    assert router.divisions == (*range(1, 20 * shards, 10), 20 * shards)
    assert (router == CLASSIC) == (shards == 3)


@pytest.mark.parametrize(
    ("mark", "error"),
    [
        (pytest.mark.lab(), "takes a backend"),
        (pytest.mark.lab("redis", "postgres"), "takes a backend"),
        (pytest.mark.lab("redis", backend="redis"), "takes a backend"),
        (pytest.mark.lab("redis", shards=0), "must be a positive integer, not 0"),
        (pytest.mark.lab("redis", shards=True), "must be a positive integer, not True"),
        (pytest.mark.lab("redis", shards=3, router=CLASSIC), "shards= or router=, not both"),
        (pytest.mark.lab("redis", router={1: [(1, 10)]}), "router must be a RangeRouter, not {1"),
        (pytest.mark.lab("redis", rows=5), "rows of a lab are"),
        (pytest.mark.lab("redis", rows=[(99, "x")]), "no shard owns id 99"),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused(
    request: pytest.FixtureRequest, mark: pytest.MarkDecorator, error: str
) -> None:
    """One line names the value and the fix."""
    with pytest.raises(UsageError, match=error):
        wanted_by(marked(request, mark))


def test_faults_of_all_marks_add_up(request: pytest.FixtureRequest) -> None:
    """The outermost mark's faults start first, several on one shard too."""
    item = marked(
        request,
        pytest.mark.fault(1, faults.Pause()),
        pytest.mark.fault({2: faults.Kill(), 3: [faults.Latency(5), faults.Slicer()]}),
    )
    assert faults_of(item) == [
        (2, faults.Kill()), (3, faults.Latency(5)), (3, faults.Slicer()), (1, faults.Pause()),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="takes a shard and faults"):
        faults_of(marked(request, pytest.mark.fault(shard=2)))


class FakeLab:
    """Stands for a lab, and for its `sync()`."""

    def __init__(self, name: str, log: list[str], failing: dict[str, Exception]) -> None:
        self.name, self._log, self._failing = name, log, failing

    def _did(self, what: str) -> None:
        self._log.append(f"{what} {self.name}")
        if error := self._failing.get(self._log[-1]):
            raise error

    def sync(self) -> FakeLab:
        return self

    def start(self) -> FakeLab:
        self._did("start")
        return self

    def reset(self) -> None:
        self._did("reset")

    def stop(self) -> None:
        self._did("stop")


class World:
    """A pool of fake labs; `log` has what was done to them, `failing` what fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.log: list[str] = []
        self.failing: dict[str, Exception] = {}
        monkeypatch.setattr(pool, "Lab", lambda name: FakeLab(name, self.log, self.failing))
        self.pool = pool.Pool(most)

    def take(self, *names: str) -> list[str]:
        """Takes labs by these names, one after the other; returns what was done."""
        for name in names:
            self.pool.take(Wanted({"name": name}, name))
        done, self.log[:] = self.log[:], []
        return done


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], World]:
    """Makes a pool of at most so many labs."""
    return lambda most: World(monkeypatch, most)


def test_the_lab_that_was_not_used_for_longest_makes_room(world: Callable[[int], World]) -> None:
    """A lab is started once, then reset; beyond the limit the least recently used one stops first."""
    labs = world(2)
    assert labs.take("a", "b", "a") == ["start a", "start b", "reset a"]
    assert labs.take("c", "a", "b") == ["stop b", "start c", "reset a", "stop c", "start b"]
    labs.pool.stop()
    labs.pool.stop()
    assert labs.take() == ["stop b", "stop a"]


def test_a_lab_that_cannot_be_reset_is_replaced(world: Callable[[int], World]) -> None:
    """A test may have stopped it, or broken it for good: the next one gets another."""
    labs = world(2)
    labs.take("a")
    labs.failing |= {"reset a": LabError("shard 2 does not answer")}
    assert labs.take("a") == ["reset a", "stop a", "start a"]
    labs.pool.discard(labs.pool.take(Wanted({"name": "b"}, "b")))
    labs.failing.clear()
    assert labs.take("b", "a") == ["start b", "stop b", "start b", "reset a"]


def test_a_lab_that_does_not_start_is_not_tried_again(world: Callable[[int], World]) -> None:
    """Each of its tests fails with the same line, at once."""
    labs = world(2)
    labs.failing |= {"start a": LabError("no server programs")}
    for _ in range(2):
        with pytest.raises(LabkitError, match=r"^no server programs$"):
            labs.take("a")
    assert labs.log == ["start a"]


def test_all_labs_stop_even_if_one_does_not(world: Callable[[int], World]) -> None:
    """The first error is raised once that was tried with each."""
    labs = world(2)
    labs.take("a", "b")
    labs.failing |= {"stop b": OSError("no")}
    with pytest.raises(OSError, match="no"):
        labs.pool.stop()
    assert labs.log == ["stop b", "stop a"]


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_a_limit_that_is_no_number_of_labs_is_refused(text: str) -> None:
    """The error names the setting."""
    assert pool.checked_most("4") == 4
    with pytest.raises(UsageError, match="labkit_labs must be a positive number of labs"):
        pool.checked_most(text)

"""The plugin for pytest with real shards: each run of pytest is a process of its own."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inner import ANYIO, ASYNCIO, XDIST, run
from tests.support.watching import becomes_true, folders, marked

README = (Path(__file__).parents[2] / "labkit/pytest/README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """Whatever ends the inner run, no lab of it is left."""
    yield
    assert becomes_true(lambda: not folders() and not marked()), (folders(), marked())


def test_the_examples_of_the_readme_pass(pytester: pytest.Pytester) -> None:
    """The lines that a user starts from run as they are, and so does the test for several backends."""
    first, second = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    assert len([line for line in first.splitlines() if line]) == 10
    run(pytester, first + second, *ASYNCIO, passed=4)


EVERY_WAY = """
    import pytest
    from labkit import faults

    pytestmark = pytest.mark.lab("redis", timeout=0.3)
    {loops}

    {fixture}
    async def broken(lab):
        async with lab.fault(3, faults.Down()):
            yield (await lab.read()).missing

    {marks}
    @pytest.mark.fault(2, faults.Pause())
    async def test_async(lab, scope):
        await lab.put(1, "changed")
        assert (await lab.read()).missing == ((11, 20), (41, 50))
        assert [event.kind for event in await lab.record()] == ["start", "fired"]

    {marks}
    async def test_fixture(lab, broken, scope):
        assert broken == (await lab.read()).missing == ((21, 30), (51, 60))
        assert await lab.reader.get(1) == {{"id": 1, "name": "Test 1"}}

    @pytest.mark.fault(2, faults.Down())
    def test_plain(lab):
        assert lab.read().missing == ((11, 20), (41, 50))
        assert lab.call(lab.reader.get, 1) == {{"id": 1, "name": "Test 1"}}
"""
LOOPS = """LOOPS = [
        pytest.param(scope, marks=pytest.mark.asyncio(loop_scope=scope)) for scope in ("session", "module", "function")
    ]"""
OVER_LOOPS = '@pytest.mark.parametrize("scope", LOOPS)'
AUTO = EVERY_WAY.format(loops=LOOPS, fixture="@pytest.fixture", marks=OVER_LOOPS)
STRICT = EVERY_WAY.format(
    loops=f"import pytest_asyncio\n    {LOOPS}", fixture="@pytest_asyncio.fixture", marks=OVER_LOOPS
)
WITH_ANYIO = EVERY_WAY.format(
    loops="async def test_not_marked(lab): ...",
    fixture="@pytest.fixture",
    marks='@pytest.mark.anyio\n    @pytest.mark.parametrize("scope", [1, 2, 3])',
)
FOR_ANYIO = "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'"


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (AUTO, [*ASYNCIO, "-o", "asyncio_default_fixture_loop_scope=session"]),
        (STRICT, [*ASYNCIO[:2], "-o", "asyncio_mode=strict"]),
    ],
    ids=["auto", "strict"],
)
def test_it_works_with_pytest_asyncio(pytester: pytest.Pytester, code: str, options: list[str]) -> None:
    """In both modes and all loop scopes, async tests and fixtures get the lab, plain tests its sync facade; each finds
    the rows and the events of a new lab.
    """
    run(pytester, code, *options, passed=7)


def test_it_works_with_anyio(pytester: pytest.Pytester) -> None:
    """The same with anyio's plugin; an async test that it does not run, for want of a mark, is told so in one line."""
    shown = run(pytester, WITH_ANYIO, *ANYIO, conftest=FOR_ANYIO, passed=7, failed=1)
    line = "test_not_marked is async, and no plugin runs it: install pytest-asyncio and mark it with"
    assert f"\ntest_not_marked\n{line}" in shown


FAILURES = """
    import pytest
    from labkit import errors, faults

    pytestmark = pytest.mark.lab("redis", timeout=0.2)

    @pytest.mark.fault(2, faults.Latency(5))
    def test_unfired(lab): ...

    @pytest.mark.fault(3, faults.MaxClients())
    async def test_never_met(lab):
        await lab.heal()

    def test_unfired_block(lab):
        with lab.fault(2, faults.Latency(5)):
            pass

    def test_unfired_as_expected(lab):
        with pytest.warns(errors.NeverFired), lab.fault(2, faults.Latency(5)):
            pass

    @pytest.mark.filterwarnings("ignore::labkit.errors.NeverFired")
    def test_unfired_and_ignored(lab):
        with lab.fault(2, faults.Latency(5)):
            pass

    def test_unhealed(lab):
        lab.inject({1: faults.Down(), 2: faults.Pause()})

    async def test_unhealed_and_failed(lab):
        await lab.inject(2, faults.Pause())
        assert (await lab.read()).complete

    @pytest.mark.fault(2, faults.Down())
    @pytest.mark.fault(1, faults.Latency(5))
    def test_failed(lab):
        lab.read(21, 30)
        assert lab.read().missing == ()

    @pytest.mark.fault(2, faults.Down())
    def test_skipped(lab):
        pytest.skip("for a reason")

    @pytest.fixture
    def forgetful(lab):
        lab.inject(1, faults.Down())

    def test_forgetful(forgetful, lab):
        assert lab.read().missing == ((1, 10), (31, 40))

    @pytest.fixture
    def idle(lab):
        with lab.fault(1, faults.Latency(5)):
            yield

    def test_idle(idle, lab): ...

    @pytest.mark.fault(9, faults.Pause())
    def test_unknown(lab): ...

    @pytest.mark.fault(2, faults.Latency(5))
    async def test_stopped(lab):
        await lab.stop()

    def test_replaced(lab):
        assert lab.read().complete
        assert lab.events == []
"""


def test_every_failure_is_one_line_and_the_report_says_what_the_lab_saw(pytester: pytest.Pytester) -> None:
    """Faults that never fired, or were not undone, fail their test; the next one has a healthy lab. A report has the
    timeline of the failed read, and the faults.
    """
    shown = run(pytester, FAILURES, *ASYNCIO, passed=6, failed=7, errors=2, skipped=1)
    for name, line in {
        "test_unfired": "NeverFired: Latency(5) never fired on shard 2: no client met it",
        "test_never_met": "NeverFired: MaxClients() never fired on shard 3: no client met it (test_inner.py:11)",
        "test_unfired_block": "NeverFired: Latency(5) never fired on shard 2: no client met it (test_inner.py:14)",
        "test_unhealed": "the test left Down() on shard 1, Pause() on shard 2: "
        "use `with lab.fault(…)`, or call lab.heal(); it is healed now",
        "test_unknown": "UsageError: unknown shard 9: choose one of [1, 2, 3]",
        "ERROR at teardown of test_forgetful": "a fixture left Down() on shard 1: "
        "use `with lab.fault(…)`, or call lab.heal(); it is healed now",
        "ERROR at teardown of test_idle": "NeverFired: Latency(5) never fired on shard 1: no client met it "
        "(test_inner.py:52)",
    }.items():
        assert f"\n{name}\n{line}\n" in shown, (name, shown)
    assert "labkit: also\nthe test left Pause() on shard 2: use" in shown
    failed = shown.partition("\ntest_failed\n")[2]
    assert re.search(
        r"labkit: the last incomplete read, from \d+\.\d{3} s to \d+\.\d{3} s\n"
        r"incomplete: 40 rows, missing 11–20, 41–50 \(20 IDs\)\n"
        r"shard  status +rows +time  │ deadline 0\.2 s\n"
        r"1 +ok +20 .*\n2 +unreachable .*\n +connection refused\n3 +ok +20 .*\n"
        r"labkit: faults\n( +\d+\.\d{3} s  (start|fired|stop)  +(Latency\(5\)|Down\(\)) on shard [12]\n){6}"
        r"labkit: connections, as the proxies saw them\n"
        r"shard 1: connected .*, asked \d.* bytes\), answered \d.* bytes\), open\n"
        r"shard 2: (no connection|idle connections only)\n"
        r"shard 3: connected .*, asked \d.* bytes\), answered \d.* bytes\), open\n",
        failed,
    ), failed


SHARED = """
    import pytest
    import redis

    seen = []
    LAB, OTHER = pytest.mark.lab("redis"), pytest.mark.lab("redis", rows=[(1, "one"), (12, None)])

    @pytest.mark.parametrize("number", [pytest.param(i, marks=mark) for i, mark in enumerate([LAB, LAB, OTHER])])
    def test_it(lab, number):
        assert lab.read().raise_for_missing().frame.equals(lab.rows)
        assert len(lab.rows) == (2 if number == 2 else 60)
        with redis.Redis.from_url(lab.urls[2]) as client:
            client.delete("data_2")
        seen.append(lab.urls[1])

    @LAB
    def test_after(lab):
        assert seen[0] == seen[1] != seen[2]
        assert lab.urls[1] not in seen
        assert len(lab.read().frame) == 60
"""


INTERRUPTED = f"""
    import os
    import threading
    from labkit import faults

    @pytest.mark.lab("redis", timeout=30.0)
    @pytest.mark.fault(2, faults.Pause())
    def test_hangs(lab):
        lab.inject(3, faults.Down())
        threading.Timer(0.1, os.kill, (os.getpid(), {int(signal.SIGINT)})).start()
        lab.read()
"""


def test_tests_of_the_same_mark_share_a_lab_that_stops_with_the_run(pytester: pytest.Pytester) -> None:
    """It starts once and has its rows back for each test; another one takes its place if only one may run. Ctrl-C while
    a test reads a frozen shard, with a fault of its own besides, leaves nothing.
    """
    shown = run(pytester, SHARED + INTERRUPTED, "-o", "labkit_labs=1", passed=4)
    assert "KeyboardInterrupt" in shown
    assert "INTERNALERROR" not in shown


def test_each_worker_of_xdist_has_its_own_labs(pytester: pytest.Pytester) -> None:
    """Two workers run tests of the same mark at the same time; one crashes, and its lab ends too."""
    code = """
        import os
        import pytest
        from labkit import faults

        pytestmark = pytest.mark.lab("redis", timeout=0.3)

        @pytest.mark.parametrize("number", range(4))
        @pytest.mark.fault(2, faults.Pause())
        def test_it(lab, number, worker_id):
            assert worker_id in ("gw0", "gw1")
            assert lab.read().missing == ((11, 20), (41, 50))

        def test_crash(lab):
            os._exit(3)
    """
    shown = run(pytester, code, *XDIST, "-n", "2", "--max-worker-restart", "0", passed=4, failed=1)
    assert "crashed while running" in shown

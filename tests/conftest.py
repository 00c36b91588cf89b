"""What all tests share: labs are embedded unless a test says otherwise, and some tests need more than a machine has."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import lateness
from tests.support.containers import NEEDED, why_no_compose, why_not
from tests.support.pooler import PROGRAM

for deaf in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(deaf) is signal.SIG_IGN:
        # In the background of a shell. What tests start would inherit it, and not hear the signals that are tested;
        # a handler, even one that does nothing, is not inherited.
        signal.signal(deaf, lambda *_: None)
# A machine that is busy with something else is no failure: pytest-timeout ends what hangs.
settings.register_profile("labkit", deadline=None)
settings.load_profile("labkit")
os.environ.setdefault("LABKIT_LAUNCHER", "embedded")  # "auto" is to be tested where a test says so


def why_no_chromium() -> str | None:
    """Why no page can be looked at here, None where it can."""
    from tests.support import browsing  # which loads Playwright

    return browsing.why_no_chromium()


def why_no_redis_benchmark() -> str | None:
    """Why Redis's own load generator cannot run here, None where it can."""
    return None if shutil.which("redis-benchmark") else "no redis-benchmark on PATH: it comes with Debian's redis-tools"


def why_no_shellcheck() -> str | None:
    """Why shell scripts cannot be checked here, None where they can."""
    return None if shutil.which("shellcheck") else "no shellcheck on PATH: Debian's package shellcheck brings it"


def why_no_jdbc() -> str | None:
    """Why no Java program can dial Postgres here, None where one can."""
    if not shutil.which("java"):
        return "no java on PATH: Debian's default-jdk-headless brings it"
    jar = Path("/usr/share/java/postgresql.jar")
    return None if jar.exists() else f"no {jar}: Debian's libpostgresql-jdbc-java brings it"


def why_no_pgbouncer() -> str | None:
    """Why there can be no pooler in front of a Postgres, None where there can."""
    return None if PROGRAM else "no pgbouncer on PATH or in /usr/sbin: Debian's package pgbouncer brings it"


def why_no_namespaces() -> str | None:
    """Why a test cannot have a network and mounts of its own here, None where it can."""
    words = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    try:
        made = subprocess.run(words, capture_output=True, text=True).returncode == 0
    except OSError:
        made = False
    return None if made else "no namespaces: they take root, unshare and ip (Debian's util-linux and iproute2)"


NEEDS: dict[str, Callable[[], str | None]] = {
    "docker": why_not,
    "compose": why_no_compose,
    "redis_benchmark": why_no_redis_benchmark,
    "shellcheck": why_no_shellcheck,
    "pgbouncer": why_no_pgbouncer,
    "chromium": why_no_chromium,
    "jdbc": why_no_jdbc,
    "namespaces": why_no_namespaces,
}
"""Marks of tests that need something of the machine, and why it is not here (None: it is)."""

MARK = pytest.StashKey[str]()
_left_out: dict[str, int] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Marks what this process starts: its children inherit TMPDIR, a folder for temporary files of its own. So tests
    look for leftovers of their own only, and can run side by side.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where pytest's own are kept
    config.stash[MARK] = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="t")
    os.chmod(os.environ["TMPDIR"], 0o1777)  # as /tmp is: servers run as other users
    tempfile.tempdir = None  # to be looked up again


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[MARK], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes out the tests that cannot run here, which are named at the end; where LABKIT_TEST_DOCKER=require says that
    they must run, that is an error. Tests that share a lab stay together.
    """
    for mark, why in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        reason = why() if marked else None
        if reason is None:
            continue
        if NEEDED:
            raise pytest.UsageError(f"the tests marked {mark!r} must run and cannot: {reason}")
        _left_out[reason] = len(marked)
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]
    for item in items:
        if shared := _shared(item):
            item.add_marker(pytest.mark.xdist_group(shared))


def _shared(item: pytest.Item) -> str:
    """What this test shares with others of its module, "" for nothing: those that share a lab run in one process."""
    info, call = getattr(item, "_fixtureinfo", None), getattr(item, "callspec", None)
    defined = info.name2fixturedefs.items() if info else ()
    names = [name for name, made in defined if made[-1].scope == "module" and not name.startswith("_")]
    params = call.params if call else {}
    return "-".join([item.path.stem, *(f"{name}={params.get(name)}" for name in sorted(names))]) if names else ""


def pytest_collection_finish() -> None:
    """What was loaded until now is not looked through by garbage collections: one took 0.1 s, and made a read late."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """From here on it counts how long a test waits for a processor."""
    lateness.begin()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says plainly what did not run, and how to get it."""
    if _left_out:
        terminalreporter.section("NOT RUN: tests that need what is not here", sep="=", yellow=True, bold=True)
        for reason, number in _left_out.items():
            terminalreporter.write_line(f"{number} tests did not run: {reason}")
        terminalreporter.write_line(
            "All others ran. With a Docker engine that has the images (see README), redis-benchmark, shellcheck, "
            "pgbouncer, Chromium and JDBC, so do these."
        )

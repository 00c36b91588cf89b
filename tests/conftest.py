"""Setup shared by all tests: labs are embedded by default, and tests whose tools are missing do not run."""

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

from labkit.lab.keeper.folders import data_folder
from tests.support import lateness
from tests.support.containers import NEEDED, why_no_compose, why_not
from tests.support.pooler import PROGRAM

pytest_plugins = ("pytester",)  # runs pytest in pytest, to test labkit's plugin

for deaf in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(deaf) is signal.SIG_IGN:
        # Started in the background of a shell, where these signals are ignored. Child processes would inherit that and
        # miss the signals under test; a handler, even one that does nothing, is not inherited.
        signal.signal(deaf, lambda *_: None)
# A busy machine is not a failure: pytest-timeout ends what hangs.
settings.register_profile("labkit", deadline=None)
settings.load_profile("labkit")
os.environ.setdefault("LABKIT_LAUNCHER", "embedded")  # "auto" is tested only where a test asks for it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # starting more takes a fifth of the time to import pandas


def why_no_chromium() -> str | None:
    """Why no page can be opened in a browser here; None if one can."""
    from tests.support import browsing  # loads Playwright

    return browsing.why_no_chromium()


def why_no_redis_benchmark() -> str | None:
    """Why Redis's own load generator cannot run here; None if it can."""
    return None if shutil.which("redis-benchmark") else "no redis-benchmark on PATH: install Debian's redis-tools"


def why_no_shellcheck() -> str | None:
    """Why shell scripts cannot be checked here; None if they can."""
    return None if shutil.which("shellcheck") else "no shellcheck on PATH: install Debian's shellcheck"


def why_no_jdbc() -> str | None:
    """Why no Java program can connect to Postgres here; None if one can."""
    if not shutil.which("java"):
        return "no java on PATH: install Debian's default-jdk-headless"
    jar = Path("/usr/share/java/postgresql.jar")
    return None if jar.exists() else f"no {jar}: install Debian's libpostgresql-jdbc-java"


def why_no_pgbouncer() -> str | None:
    """Why no pooler can run in front of Postgres here; None if one can."""
    return None if PROGRAM else "no pgbouncer on PATH or in /usr/sbin: install Debian's pgbouncer"


def why_no_namespaces() -> str | None:
    """Why a test cannot have its own network and mounts here; None if it can."""
    words = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    try:
        made = subprocess.run(words, capture_output=True, text=True).returncode == 0
    except OSError:
        made = False
    return None if made else "no namespaces: they need root, unshare and ip (Debian's util-linux and iproute2)"


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
"""Marks of tests with special requirements, each with a function that says why they are not met (None: they are)."""

MARK = pytest.StashKey[str]()
_left_out: dict[str, int] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Gives this process its own folder for temporary files, inherited by child processes as TMPDIR: tests then find
    only their own leftovers and can run side by side.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where pytest keeps its own
    config.stash[MARK] = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="t", dir=_memory())
    os.chmod(os.environ["TMPDIR"], 0o1777)  # as /tmp is: servers run as other users
    tempfile.tempdir = None  # forces a new look-up


def _memory() -> str | None:
    """Where labs put their data, which is in memory if there is plenty, if programs may run from it too."""
    room = os.statvfs(where := data_folder())
    fit = room.f_bavail * room.f_frsize >= 4 * 2**30 and not room.f_flag & getattr(os, "ST_NOEXEC", 0)
    return where if fit else None


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[MARK], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the tests that cannot run here and lists them at the end; with LABKIT_TEST_DOCKER=require that is an
    error. Tests that share a lab stay together, and tests in containers come first: they take longest.
    """
    for mark, why in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        reason = why() if marked else None
        if reason is None:
            continue
        if NEEDED:
            raise pytest.UsageError(f"the tests marked {mark!r} must run but cannot: {reason}")
        _left_out[reason] = len(marked)
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]
    items.sort(key=lambda item: item.get_closest_marker("docker") is None)
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(150))  # nbval ends a cell after 120 s
        if shared := _shared(item):
            item.add_marker(pytest.mark.xdist_group(shared))


def _shared(item: pytest.Item) -> str:
    """What this test shares with others ("" for nothing), which then run in one process: a notebook's kernel, or what
    a fixture makes once for a module, or for each of its parameters. Tests in containers share the engine: where many
    containers start at once, all of them, and other tests too, are late.
    """
    if item.path.suffix == ".ipynb":
        return item.path.stem
    if item.get_closest_marker("docker"):
        return f"containers of {item.path.parent.name}"
    info, call = getattr(item, "_fixtureinfo", None), getattr(item, "callspec", None)
    defined = info.name2fixturedefs.items() if info else ()
    names = [name for name, made in defined if made[-1].scope == "module" and not name.startswith("_")]
    params = call.params if call else {}
    shared = [f"{name}={params.get(name)}" for name in sorted(names)]
    return "-".join([item.path.stem, *(shared if all(name in params for name in names) else [])]) if shared else ""


def pytest_collection_finish() -> None:
    """Exempts everything loaded so far from garbage collection: one collection took 0.1 s and made a read late."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Starts counting how long the test waits for a processor."""
    lateness.begin()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Reports which tests did not run, and what they need."""
    if _left_out:
        terminalreporter.section("NOT RUN: tests with unmet requirements", sep="=", yellow=True, bold=True)
        for reason, number in _left_out.items():
            terminalreporter.write_line(f"{number} tests did not run: {reason}")
        terminalreporter.write_line(
            "All others ran. To run these as well, provide a Docker engine with the images (see README), "
            "redis-benchmark, shellcheck, pgbouncer, Chromium and JDBC."
        )

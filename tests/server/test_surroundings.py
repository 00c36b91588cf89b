"""A lab copes with the environment it is started in: variables, folders, streams, users, limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from labkit import Lab
from labkit.lab.keeper.keeper import Keeper
from tests.support.watching import comes_true, keepers

BACKENDS = pytest.mark.parametrize("backend", ["postgres", "redis"])
FOREIGN = {
    "PGDATESTYLE": "x",
    "PGTARGETSESSIONATTRS": "standby",
    "PGOPTIONS": "-x",
    "PGHOST": "elsewhere",
    "PGPORT": "1",
    "PGUSER": "somebody",
    "PGDATABASE": "other",
    "PGSERVICE": "none",
    "PGSSLMODE": "require",
    "PGSSLNEGOTIATION": "direct",
    "PGGSSLIB": "x",
    "PGDATA": "/nowhere",
    "PGTZ": "x",
    "REDISCLI_AUTH": "x",
}
ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def demo(backend: str, prefix: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the demo with these variables, its command preceded by `prefix`."""
    command = [*prefix, sys.executable, "-m", "labkit", "demo", "--backend", backend, "--timeout", "1"]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, errors="replace", timeout=50
    )


def is_right(played: subprocess.CompletedProcess[str]) -> None:
    assert (played.returncode, played.stderr) == (0, "")
    assert "All four reads returned exactly what they should" in played.stdout


@BACKENDS
def test_variables_meant_for_other_servers_change_nothing(backend: str) -> None:
    """Variables for libpq and redis-cli affect neither the servers nor the administrator's connections."""
    is_right(demo(backend, **FOREIGN))


@pytest.mark.parametrize(("backend", "variables"), [("redis", ASCII), ("postgres", C_LOCALE)], ids=["ascii", "C"])
def test_a_stdout_that_is_not_utf_8_is_no_error(backend: str, variables: dict[str, str]) -> None:
    """A stdout that is not UTF-8 gets replacements for characters it cannot encode, without an error."""
    is_right(demo(backend, **variables))


@pytest.mark.parametrize(("backend", "closed"), [("redis", "2>&-"), ("redis", "2>&- 0<&-"), ("postgres", "2>&- 0<&-")])
def test_streams_may_be_closed(backend: str, closed: str) -> None:
    """The demo works with closed streams, as daemons have: sys.stderr is None, and its descriptor may be reused."""
    played = demo(backend, ("bash", "-c", f'exec {closed}; exec "$@"', "closed"))
    assert "All four reads returned exactly what they should" in played.stdout, played.returncode


@BACKENDS
def test_tmpdir_may_have_any_name(backend: str) -> None:
    """TMPDIR may be relative and contain characters that end a word or a list for server programs."""
    folder = Path(os.environ.get("TMPDIR", "/tmp"), 'a b, "ü"')
    folder.mkdir(exist_ok=True)
    folder.chmod(0o1777)
    is_right(demo(backend, TMPDIR=os.path.relpath(folder)))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("backend", "name"), [("redis", "nowhere"), ("postgres", "file")])
def test_a_tmpdir_that_cannot_be_used_is_one_clear_error(backend: str, name: str, tmp_path: Path) -> None:
    """An unusable TMPDIR is one clear error; no other folder is silently used instead."""
    (tmp_path / "file").touch()
    played = demo(backend, TMPDIR=str(tmp_path / name))
    assert played.returncode == 1
    assert played.stderr.startswith(f"labkit: TMPDIR is {str(tmp_path / name)!r}, which is not a writable folder")
    assert played.stderr.count("\n") == 1


HOSTILE = "import os, sys\nopen('mark', 'a').write(f'{sys.argv}')\nraise SystemExit(f'imported {__name__}')\n"


@pytest.mark.parametrize("variable", [{}, {"PYTHONPATH": ""}, {"PYTHONPATH": ":.:"}])
def test_nothing_of_the_working_folder_is_imported(variable: dict[str, str], tmp_path: Path) -> None:
    """No process of a lab imports from the working folder, which may be somebody else's or shadow Python's modules."""
    for name in ("json", "random", "psutil", "labkit", "sitecustomize", "signal"):
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    # -P keeps the owner itself from importing there; the variables are set only afterwards, for the lab's processes.
    begin = f"import os, sys; os.environ.update({variable!r}); from labkit.cli.group import main; main()"
    command = [sys.executable, "-P", "-c", begin, "demo", "--backend", "redis", "--timeout", "1"]
    is_right(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50))
    assert not (tmp_path / "mark").exists()


OWN_TOXIC = """
import asyncio
from labkit import Lab
from mine.toxics import Swallows

async def main():
    async with Lab("redis", timeout=0.3) as lab, lab.fault(2, Swallows()):
        print((await lab.read()).missing)

asyncio.run(main())
"""
SWALLOWS = """
from dataclasses import dataclass
from labkit.faults import Pipe, Toxic

@dataclass(frozen=True)
class Swallows(Toxic):
    def pipe(self, flow):
        return Nothing(flow)
    @classmethod
    def samples(cls, timeout):
        return []

class Nothing(Pipe):
    def __init__(self, flow):
        self.flow = flow
    def data(self, piece):
        self.flow.fired()
        return []
"""


def test_a_toxic_of_ones_own_is_found_where_its_owner_has_it(tmp_path: Path) -> None:
    """A custom toxic is found beside its script, which is neither installed nor on PYTHONPATH."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "toxics.py").write_text(SWALLOWS)
    (tmp_path / "script.py").write_text(OWN_TOXIC)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], cwd=tmp_path.parent, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout) == (0, "((11, 20), (41, 50))\n"), done.stderr


async def test_a_request_to_the_keeper_may_be_of_any_size() -> None:
    """A request to the keeper may be larger than asyncio's default limit, and its failure does not harm the next."""
    async with Lab("redis") as lab:
        keeper, name = lab._shards[1]._keeper, "x" * 3_000_000
        with pytest.raises(Exception, match="x"):
            await keeper.ask(Keeper.log, name)
        assert await keeper.ask(Keeper.log, "1") is not None
        assert (await lab.read()).complete


async def test_a_keeper_out_of_files_rests_and_goes_on() -> None:
    """A keeper out of file descriptors leaves connections waiting, uses no CPU, and serves once there is room."""
    import resource

    async with Lab("redis", timeout=0.3) as lab:
        [keeper] = keepers(psutil.Process().children())
        had = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)
        files = keeper.num_fds()
        resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (files, had[1]))
        try:
            assert not (await lab.read()).complete
            before = keeper.cpu_times()
            assert not (await lab.read()).complete
            assert not (await lab.read()).complete
            after = keeper.cpu_times()
            assert after.user + after.system - before.user - before.system < 0.2
        finally:
            resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, had)
        assert await comes_true(lambda: keeper.num_fds() <= files + 20)
        assert (await lab.read()).complete

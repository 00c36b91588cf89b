"""Other users of the machine: without a lab's password they get no row, command or file; with it, only rows."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from labkit import Lab, ShardReader, errors, faults
from labkit.lab.access import ADMIN, Access
from labkit.lab.backends.postgres import CLERK
from tests.support.containers import LAUNCHERS

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRANGERS = (54_321, 65_534)
"""An arbitrary user, and nobody, as whom root's servers may run."""
LABS = [
    pytest.param((backend, *launcher.values), id=f"{backend}-{launcher.values[0]}", marks=launcher.marks)
    for launcher in LAUNCHERS
    for backend in ("postgres", "redis", "redis-cluster")
]
NO_RETRY: Any = {"retry": None, "protocol": 2}
"""A refused client must not retry."""
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=LABS)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A lab of each backend, with each launcher."""
    backend, launcher = request.param
    more = {"replicas": 1} if backend == "redis-cluster" else {}
    async with Lab(backend, launcher=launcher, **more) as running:
        yield running


def only(*backends: str) -> pytest.MarkDecorator:
    labs = [param for param in LABS if param.values[0][0] in backends]  # type: ignore[index]
    return pytest.mark.parametrize("lab", labs, indirect=True, scope="module")


def places(lab: Lab) -> list[tuple[str, int]]:
    """The TCP addresses of a lab: its proxies, and its servers if they listen on TCP."""
    servers = [(str(place[0]), int(place[1])) for node in lab._nodes.values() if isinstance(place := node.place, tuple)]
    proxies = [("127.0.0.1", node.port) for node in lab._nodes.values()]
    assert len(proxies) >= 3
    return proxies + servers


def access(lab: Lab) -> Access:
    found: Access = lab._backend.access  # type: ignore[attr-defined]
    return found


def secrets(lab: Lab) -> list[str]:
    words = list(vars(access(lab)).values())
    assert len(set(words)) == 3
    return words


def as_somebody_else(user: int, work: Callable[[], Any]) -> Any:
    """The result of `work()` in a process of that user, who is only in a group of the same number."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            with open(writing, "wb") as pipe:
                pickle.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(told)


# without the password


@only("postgres")
@pytest.mark.parametrize("user", ["labkit", ADMIN, CLERK, "postgres"])
@pytest.mark.parametrize("password", [None, "", "labkit", "labkit-admin"])
async def test_no_password_no_row_of_postgres(lab: Lab, user: str, password: str | None) -> None:
    """Without its password, no user can log in to Postgres."""
    for host, port in places(lab):
        for database in ("postgres", "template1"):
            with pytest.raises((asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InterfaceError)):
                await asyncpg.connect(
                    host=host,
                    port=port,
                    user=user,
                    password=password,
                    database=database,
                    ssl=False,
                    passfile=f"{os.devnull}/none",
                )


@only("postgres")
async def test_the_clients_password_is_nobody_elses(lab: Lab) -> None:
    """The clients' password does not log in the administrator or the clerk."""
    host, port = places(lab)[0]
    for user in (ADMIN, CLERK):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host=host, port=port, user=user, password=access(lab).client, ssl=False)


@only("redis", "redis-cluster")
@pytest.mark.parametrize("told", [{}, {"password": "labkit-admin"}, {"username": ADMIN, "password": "labkit-admin"}])
async def test_no_password_no_command_of_redis(lab: Lab, told: dict[str, str]) -> None:
    """Without the password, every command on every node fails authentication, through the proxies and past them."""
    for host, port in places(lab):
        for words in ("PING", "ZRANGE data_1 0 -1", "CONFIG SET dir /tmp", "SAVE", "CLUSTER NODES", "PSYNC ? -1"):
            async with Redis(host=host, port=port, **NO_RETRY, **told) as client:  # type: ignore[arg-type]
                with pytest.raises(AuthenticationError):
                    await client.execute_command(*words.split())


@only("redis", "redis-cluster")
async def test_the_clients_password_is_not_the_administrators(lab: Lab) -> None:
    """The clients' password does not log in the administrator or the replication user."""
    for user in (ADMIN, "labkit_replica"):
        async with Redis(**NO_RETRY, port=places(lab)[0][1], username=user, password=access(lab).client) as client:
            with pytest.raises(AuthenticationError):
                await client.ping()


# with the password


@only("postgres")
async def test_a_client_of_postgres_is_no_superuser(lab: Lab) -> None:
    """A client of Postgres cannot run programs, make the server read or write files, or become another user."""
    target = Path(tempfile.gettempdir(), "labkit_written_by_a_client")
    connection = await asyncpg.connect(lab.urls[2])
    try:
        assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        for words in (
            f"COPY (SELECT 1) TO PROGRAM 'touch {target}'", "COPY data_2 FROM PROGRAM 'id'",
            f"COPY data_2 TO '{target}'", "COPY data_2 FROM '/etc/passwd'", "SELECT pg_read_file('/etc/passwd')",
            "SELECT pg_ls_dir('/')", "SELECT pg_stat_file('/etc/passwd')", "SELECT lo_import('/etc/passwd')",
            f"SELECT lo_export(lo_from_bytea(0, 'x'), '{target}')", "CREATE EXTENSION file_fdw", "LOAD '/etc/passwd'",
            "ALTER SYSTEM SET archive_command = 'id'", f"SET ROLE {ADMIN}", f"SET SESSION AUTHORIZATION {ADMIN}",
            "CREATE ROLE another SUPERUSER", "ALTER ROLE labkit SUPERUSER", f"GRANT {ADMIN} TO labkit",
            "GRANT pg_execute_server_program TO labkit", "SELECT * FROM pg_authid", "SELECT pg_reload_conf()",
        ):  # fmt: skip
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)):
                await connection.execute(words)
        assert target.name not in os.listdir(target.parent)
    finally:
        connection.terminate()


@only("postgres")
async def test_a_client_of_postgres_has_all_that_reading_and_watching_take(lab: Lab) -> None:
    """A client may use its rows, its own tables, schemas and triggers, LISTEN and NOTIFY, and end its own sessions."""
    heard = asyncio.Event()
    one, other = await asyncpg.connect(lab.urls[2]), await asyncpg.connect(lab.urls[2])
    try:
        await one.add_listener("labkit_changes", lambda *_: heard.set())
        await other.execute("UPDATE data_2 SET name = name WHERE id = 12")
        await asyncio.wait_for(heard.wait(), 10)
        await other.execute("BEGIN; INSERT INTO data_2 VALUES (13000, 'x'); TRUNCATE data_2; ROLLBACK")
        await other.execute("CREATE SCHEMA own CREATE TABLE things (id INT PRIMARY KEY); DROP SCHEMA own CASCADE")
        await other.execute(
            "CREATE TEMP TABLE t (id INT); CREATE TABLE u (id INT); ALTER TABLE u ADD n TEXT; DROP TABLE u"
        )
        await other.execute("ALTER TABLE data_2 DISABLE TRIGGER labkit_changes")
        await other.execute("ALTER TABLE data_2 ENABLE TRIGGER labkit_changes; NOTIFY labkit_changes")
        assert await other.fetchval("SELECT pg_terminate_backend($1)", one.get_server_pid())
    finally:
        one.terminate()
        other.terminate()


TROJAN = """
CREATE TABLE caught (who TEXT, super BOOL);
CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RESET ROLE;
    INSERT INTO caught SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user;
    RETURN NEW;
END $$;
CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON data_3 FOR EACH ROW EXECUTE FUNCTION spring();
GRANT ALL ON caught TO PUBLIC;
"""
UNDO = "DROP TRIGGER trap ON data_3; DROP FUNCTION spring; DROP TABLE caught"


@only("postgres")
async def test_what_a_client_made_does_not_run_as_the_administrator(lab: Lab) -> None:
    """A client's trigger on a table that the lab writes to does not run as the administrator."""
    connection = await asyncpg.connect(lab.urls[3])
    try:
        await connection.execute(TROJAN)
        name = (await lab.reader.get(23) or {})["name"]
        await lab.put(23, "sprung")
        await lab.put(23, name)
        seen = await connection.fetch("SELECT * FROM caught")
        assert seen
        assert not [row for row in seen if row["super"] or row["who"] == ADMIN]
        await connection.execute(UNDO)
        async with lab.fault(3, faults.MissingRows()):
            assert (await lab.read()).complete
    finally:
        connection.terminate()


@only("redis", "redis-cluster")
async def test_a_client_of_redis_has_data_and_no_settings(lab: Lab) -> None:
    """On no node can a client of Redis write files, change settings, open connections or stop the server."""
    for port in [node.port for node in lab._nodes.values()]:
        async with Redis(**NO_RETRY, port=port, password=access(lab).client) as client:
            assert await client.ping()
            for words in (
                "CONFIG SET dir /tmp", "CONFIG GET masterauth", "CONFIG REWRITE", "SAVE", "BGSAVE", "BGREWRITEAOF",
                "SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "MODULE LOAD /tmp/x.so", "REPLICAOF 127.0.0.1 1", "MONITOR",
                "SLAVEOF 127.0.0.1 1", "ACL SETUSER default nopass", "ACL LIST", "MIGRATE 127.0.0.1 1 a 0 1",
                "RESTORE a 0 a", "PSYNC ? -1", "SYNC", "REPLCONF ACK 0", "CLIENT LIST", "CLIENT PAUSE 1", "SLOWLOG GET",
                "CLUSTER MEET 127.0.0.1 1", "CLUSTER RESET", "CLUSTER FORGET x", "FAILOVER", "LATENCY RESET",
            ):  # fmt: skip
                with pytest.raises((NoPermissionError, RedisError)) as caught:
                    await client.execute_command(*words.split())
                said = str(caught.value)  # Redis 6 lacks some of them, 7 has some disabled for everyone
                refused = type(caught.value) is NoPermissionError or "command not allowed" in said
                assert refused or "unknown command" in said, words


@only("redis-cluster")
async def test_replicas_copy_by_a_password_that_does_nothing_else(lab: Lab) -> None:
    """The password for replication allows no commands that read data or settings."""
    async with Redis(
        **NO_RETRY, port=places(lab)[0][1], username="labkit_replica", password=access(lab).replica
    ) as client:
        for words in ("ZRANGE data_1 0 -1", "CONFIG GET *", "KEYS *"):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*words.split())


async def test_the_administrator_may_what_clients_may_not(lab: Lab) -> None:
    """`lab.admin` and `lab.cluster.admin` open an administrator's connection; an unknown name is one clear error."""
    with pytest.raises(errors.UsageError, match="unknown shard 9"):
        await lab.admin(9)
    admin = await lab.admin(2)
    if lab.backend == "postgres":
        assert await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        admin.terminate()
    else:
        async with admin:
            assert await admin.config_get("appendonly") == {"appendonly": "yes"}
    if lab.backend == "redis-cluster":
        async with await lab.cluster.admin("2 replica") as node:
            assert (await node.info("replication"))["role"] == "slave"
        with pytest.raises(errors.UsageError, match="unknown node 'moon'"):
            await lab.cluster.admin("moon")


# as another user


def _readable_files(folder: str) -> list[str]:
    found = []
    for at, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError), open(os.path.join(at, name), "rb"):
                found.append(os.path.join(at, name))
    return found


def _visible_parts(pid: int) -> list[str]:
    """What this process can see of another beyond its command line."""
    found = []
    for what in ("environ", "maps", "io"):
        with suppress(OSError), open(f"/proc/{pid}/{what}", "rb") as file:
            file.read(1)
            found.append(file.name)
    for link in ("cwd", "root", "exe", "fd/0", "fd/1", "fd/3", "fd/4", "fd/5"):
        with suppress(OSError):
            os.readlink(f"/proc/{pid}/{link}")
            found.append(link)
    return found


def _command_lines() -> str:
    found = b""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as line:
            found += line.read() + b"\n"
    return found.decode(errors="replace")


@root
@pytest.mark.parametrize("user", STRANGERS)
async def test_another_user_sees_no_file_of_a_lab(lab: Lab, user: int) -> None:
    """Another user, even the one that servers run as, sees no file in a lab's folder or through its processes."""
    folder, below = str(lab.folder), psutil.Process().children(recursive=True)
    pids = [process.pid for process in below if process.status() != psutil.STATUS_ZOMBIE]
    assert len(pids) >= 2
    assert all(_visible_parts(pid) or not psutil.pid_exists(pid) for pid in pids)
    assert _readable_files(folder)
    assert as_somebody_else(user, lambda: _readable_files(folder)) == []
    with pytest.raises(FileNotFoundError):  # not even the existence of a path in it can be seen
        raise as_somebody_else(user, lambda: _stat_error(f"{folder}/1"))
    assert as_somebody_else(user, lambda: [path for pid in pids for path in _visible_parts(pid)]) == []


def _stat_error(path: str) -> Exception:
    try:
        os.stat(path)
    except PermissionError:
        return FileNotFoundError(path)
    except OSError as error:
        return error
    return AssertionError(f"{path} can be seen")


async def test_no_command_line_has_a_password(lab: Lab) -> None:
    """No command line on this machine, of processes or containers, has a password of the lab."""
    lines = _command_lines()
    assert str(os.getpid()) in lines
    for secret in secrets(lab):
        assert secret not in lines


# what is shown


async def test_no_password_shows(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """No password appears in the text of a lab, its shards, results, events or errors, or in a DEBUG log."""
    for name in ("", "asyncio", "asyncpg", "sqlalchemy", "redis", "labkit", "docker", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    caplog.clear()
    said: list[Any] = []
    async with ShardReader(lab.router, lab.sources(), timeout=2.0) as cold:
        async with lab.fault(2, faults.WrongPassword()):
            said.append(await cold.read())
            for ask in (lab.put(12, "no"), lab.fault(2, faults.Kill()).__aenter__()):
                with suppress(errors.LabkitError):
                    said.append(await ask)
            await lab.heal()
        assert any("rejected" in str(report.status) for report in said[0].reports.values())
        said += [cold, *cold.shards.values(), await cold.read(), await lab.read()]
    said += [lab, lab.events, lab._backend, *lab._nodes.values(), access(lab)]
    with pytest.raises(errors.UsageError) as unknown:
        lab.dsn(2, "no such driver")
    said.append(unknown.value)
    texts = [f"{thing!r} {thing}" for thing in said]
    texts += [str(vars(record)) for record in caplog.records]
    for text in texts:
        for secret in secrets(lab):
            assert secret not in text


async def test_a_server_that_does_not_start_tells_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a server that does not start has no password, although the server echoes lines it rejects."""
    from labkit.lab.backends.redis import RedisBackend

    real = RedisBackend.credentials.fget
    assert real is not None
    monkeypatch.setattr(RedisBackend, "credentials", property(lambda self: real(self) + "no-such-thing at all\n"))
    lab = Lab("redis", launcher="embedded")
    with pytest.raises(errors.LabError, match="a server did not start") as caught:
        await lab.start()
    for secret in secrets(lab):
        assert secret not in str(caught.value)


async def test_passwords_are_new_for_each_lab() -> None:
    """Every lab has new passwords, too long to guess, of which no piece is a word or a number."""
    found = [word for _ in range(3) for word in vars(Access()).values()]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("([b-df-hj-np-tv-xz][0-9]){16}", word) for word in found)


async def test_the_urls_of_a_lab_have_its_password(lab: Lab) -> None:
    """A lab's URLs contain the clients' password, so they work as they are."""
    for url in (*lab.urls.values(), *lab.source_urls.values()):
        assert urlsplit(url).password == access(lab).client


# what others plant where labs keep their folders


@pytest.fixture
def shared_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like /tmp but not /tmp, so that other labs on this machine do not meet the planted files."""
    place = Path(tempfile.mkdtemp(prefix="t"))
    place.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(place))
    yield place
    shutil.rmtree(place)


def plant_traps(place: Path, treasure: Path) -> None:
    """Plants everything that a sweep of old folders could open, follow, wait for or believe; run as another user."""
    for name in ("fifo", "link", "loop", "open", "pid"):
        (place / f"labkit-{name}").mkdir(mode=0o777)
    os.mkfifo(place / "labkit-fifo" / "keeper.lock")
    os.mkfifo(place / "labkit-as-a-fifo")
    (place / "labkit-link" / "keeper.lock").symlink_to(treasure / "file")
    (place / "labkit-loop" / "keeper.lock").symlink_to("keeper.lock")
    (place / "labkit-to-elsewhere").symlink_to(treasure)
    (place / "labkit-open" / "keeper.lock").touch()
    (place / "labkit-pid" / "1").mkdir()
    (place / "labkit-pid" / "keeper.lock").touch()
    (place / "labkit-pid" / "1" / "postmaster.pid").write_text("1\n2\n3\n4\n5\n6\n       1        0\n")
    (place / "labkit-as-a-file").write_text("mine")


def _entries(place: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in place.rglob("*"))


@root
@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_labs_start_as_ever_beside_what_others_planted(backend: str, shared_place: Path, tmp_path: Path) -> None:
    """Labs start as usual beside whatever other users planted, and touch none of it."""
    treasure = tmp_path / "labkit-treasure"
    treasure.mkdir()
    for name in ("file", "keeper.lock"):
        (treasure / name).write_text("dear")
    as_somebody_else(STRANGERS[0], lambda: plant_traps(shared_place, treasure))
    before = _entries(shared_place)
    assert len(before) == 15
    async with asyncio.timeout(30), Lab(backend, launcher="embedded") as lab:
        assert lab.folder.parent == shared_place
        assert (await lab.read()).complete
    assert _entries(shared_place) == before
    assert sorted(os.listdir(treasure)) == ["file", "keeper.lock"]

"""`cluster/create-cluster`: any user gets one cluster from any folder, even twice or after a crash, and then none."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.retry import Retry

from labkit.lab.access import CLIENTS_OF_REDIS
from labkit.lab.launchers.binaries import redis_server
from tests.support.watching import becomes_true, freeze, running

SCRIPT = Path(__file__).parents[2] / "cluster/create-cluster"
NOBODY = 65534
"""A user other than root."""
PORTS = range(10_000, 22_000)
"""Ports for nodes: their bus, 10000 higher, is still below the range for outgoing connections."""
ONCE = Retry(NoBackoff(), 0)
"""No retries: otherwise a refused client would try again for half a minute."""
SECONDS = 50
"""The most that a run of the script may take."""


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports whose bus ports are free too."""
    while True:
        first = random.choice(PORTS)
        with ExitStack() as held, suppress(OSError):
            for port in [first + i + bus for i in range(count) for bus in (0, 10_000)]:
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class Cluster:
    """A cluster made by the script, with its own folder and ports."""

    def __init__(self, folder: Path, count: int = 3, script: Path = SCRIPT, **more: str) -> None:
        self.folder, self.script = folder, script
        self.ports = list(range(first := free_ports(count), first + count))
        known = {name: value for name, value in os.environ.items() if not name.startswith("LABKIT_CLUSTER_")}
        own = {"LABKIT_CLUSTER_DIR": str(folder), "LABKIT_CLUSTER_PORT": str(first)}
        self.environment = known | own | more

    def run(self, *words: str, code: int = 0, **more: Any) -> str:
        """Its stdout; if `code` is not 0, its one line of stderr."""
        run = subprocess.run([self.script, *words], **self.how(timeout=SECONDS, **more))
        assert run.returncode == code, (words, run.returncode, run.stdout, run.stderr)
        if code == 0:
            assert not run.stderr
            return str(run.stdout)
        assert run.stderr.count("\n") == 1
        return str(run.stderr).removeprefix("create-cluster: ").rstrip()

    def how(self, **more: Any) -> dict[str, Any]:
        return {"env": self.environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more

    def begin(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([self.script, *words], **self.how(**more))

    def nodes(self) -> list[list[str]]:
        """Port, PID, role, slots and state of each node."""
        return [re.split(r" {2,}", line) for line in self.run("nodes").splitlines()]

    def roles(self) -> list[list[str]]:
        """`nodes()` without port and PID."""
        return [node[2:] for node in self.nodes()]

    def processes(self) -> list[psutil.Process]:
        """All processes that run in its folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if Path(process.cwd()).is_relative_to(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        """Sends SIGKILL to all nodes and polls until they are gone, since they are not our children."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert becomes_true(lambda: not self.processes())

    def client(self) -> RedisCluster:
        return RedisCluster(host="127.0.0.1", port=self.ports[0], decode_responses=True)

    def end(self) -> None:
        """Removes whatever a test has left."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster without nodes, whose folder does not exist yet."""
    one = Cluster(tmp_path / "not there" / "a cluster")
    yield one
    one.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("shared") / "cluster")
    yield one
    one.end()


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Three running masters with a key on each."""
    if len(shared.processes()) < 3:
        shared.run("start", cwd="/")
        shared.run("create", cwd="/")
        with shared.client() as client:
            for key in "abc":  # 15495, 3300 and 7365: a slot of each master
                client.set(key, f"value of {key}")
    return shared


def values(cluster: Cluster) -> list[str]:
    with cluster.client() as client:
        return [client.get(key) for key in "abc"]


VALUES = ["value of a", "value of b", "value of c"]
THREE = [["master", "0-5460", "ok"], ["master", "5461-10922", "ok"], ["master", "10923-16383", "ok"]]


@pytest.mark.shellcheck
def test_shellcheck_is_silent() -> None:
    """shellcheck with its default checks finds nothing in the scripts of `cluster/` and CI."""
    scripts = [SCRIPT, SCRIPT.parent / "images/build", *sorted((SCRIPT.parents[1] / ".ci").iterdir())]
    run = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_help_has_each_verb(fresh: Cluster) -> None:
    """--help lists every verb, and every option with its variable; without a verb it goes to stderr with exit 2."""
    told = fresh.run("--help")
    verbs = ["start", "create", "stop", "restart", "nodes", "watch", "tail", "tailall", "call", "clean", "clean-logs"]
    assert [line.split()[0] for line in told.splitlines() if re.match(r"  [a-z]", line)][: len(verbs)] == verbs
    for option in ("port", "nodes", "replicas", "timeout", "options", "dir"):
        assert f"--{option} " in told
        assert f"_{option.upper()}" in told
    assert "Example" in told
    run = subprocess.run([SCRIPT], **fresh.how())
    assert (run.returncode, run.stdout, run.stderr) == (2, "", told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["strat"], "unknown verb 'strat': start, create, stop"),
        (["start", "--prot", "1"], "unknown option '--prot'"),
        (["start", "--port"], "--port needs a value"),
        (["start", "--port", "0x5"], "--port is not a number: '0x5'"),
        (
            ["start", "--port=55534"],
            "port 55534 is out of range: nodes use 1024 to 55535, since their bus is at the port + 10000",
        ),
        (["start", "--port", "80"], "port 80 is out of range"),
        (["start", "--nodes", "three"], "--nodes is not a number: 'three'"),
        (["start", "--nodes", "2"], "2 nodes are too few: a cluster has at least 3 masters"),
        (
            ["start", "--nodes", "5", "--replicas", "1"],
            "5 nodes are too few with 1 replicas per master: 3 masters need 6",
        ),
        (["start", "--nodes", "3000"], "3000 nodes are too many"),
        (["start", "--timeout", "1"], "--timeout is out of range: 1"),
        (["start", "--options", "save 60"], "redis-server options begin with --: 'save'"),
        (["start", "--options", "--maxmemory 1gb --BIND 0.0.0.0"], "the redis-server option '--BIND' is set by"),
        (["start", "again"], "start takes no arguments: 'again'"),
        (["start", "--dir="], "--dir is empty"),
        (["tail"], "tail needs the number of a node"),
        (["call"], "call needs a command"),
    ],
)
def test_wrong_use_is_one_line(fresh: Cluster, words: list[str], told: str) -> None:
    """Wrong use is one line that names the value, with exit 2, and creates nothing."""
    assert told in fresh.run(*words, code=2)
    assert not fresh.folder.parent.exists()


def test_a_wrong_variable_is_named(fresh: Cluster) -> None:
    """The error names the variable rather than the option, and an option overrides the variable."""
    fresh.environment["LABKIT_CLUSTER_NODES"] = "many"
    assert "$LABKIT_CLUSTER_NODES is not a number: 'many'" in fresh.run("start", code=2)
    assert fresh.run("stop", "--nodes", "3") == f"not running: no nodes in {fresh.folder}\n"


def test_verbs_without_nodes(fresh: Cluster) -> None:
    """Without nodes, verbs that stop or clean succeed at once, and verbs that need nodes say how to create them."""
    for verb in ("stop", "clean", "clean-logs"):
        fresh.run(verb)
    for words in (["create"], ["nodes"], ["watch"], ["tail", "1"], ["tailall"], ["call", "PING"]):
        assert fresh.run(*words, code=1) == f"no nodes in {fresh.folder}: create them with 'create-cluster start'"


def test_twice_in_a_row(cluster: Cluster) -> None:
    """A second start and a second create report that it exists already, and change nothing."""
    before = cluster.nodes()
    assert [node[2:] for node in before] == THREE
    assert cluster.run("start") == f"already running: 3 nodes at 127.0.0.1:{cluster.ports[0]} to {cluster.ports[2]}\n"
    assert cluster.run("create", "-f") == "the cluster exists already: 3 masters, 0 replicas\n"
    assert cluster.nodes() == before


def test_all_is_as_in_a_lab(cluster: Cluster) -> None:
    """Its servers have the same settings as those of a lab."""
    wanted = {
        "cluster-node-timeout": "2000",
        "cluster-require-full-coverage": "no",
        "cluster-allow-reads-when-down": "yes",
        "appendonly": "yes",
        "save": "",
    }
    for port in cluster.ports:
        with Redis(port=port, decode_responses=True) as client:
            assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_loopback_only(cluster: Cluster) -> None:
    """Each node listens on its client and bus ports on 127.0.0.1, and nowhere else."""
    found = []
    for process in cluster.processes():  # not in the order of their ports
        heard = {c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert {address.ip for address in heard} == {"127.0.0.1"}
        assert len(heard) == 2
        found += {address.port % 10_000 for address in heard}
    assert sorted(found) == sorted(port % 10_000 for port in cluster.ports)


def test_other_settings_than_those_of_start(cluster: Cluster) -> None:
    """Verbs with settings that differ from those of the running cluster are refused."""
    assert f"the cluster in {cluster.folder} has nodes 3, not 5 (--nodes)" in cluster.run(
        "stop", "--nodes", "5", code=1
    )
    assert "has port" in cluster.run("start", "--port", "20000", code=1)
    assert "3 nodes are too few with 1 replicas" in cluster.run("create", "--replicas", "1", code=2)
    assert "restart applies the new ones" in cluster.run("start", "--timeout", "5000", code=1)
    assert cluster.roles() == THREE


def test_after_a_kill_of_all_nodes(cluster: Cluster) -> None:
    """Killed nodes are listed as down; start brings cluster and data back, and create has nothing to do."""
    cluster.kill()
    assert [node[1:] for node in cluster.nodes()] == [["not running", "-", "-", "down"]] * 3
    assert f"node {cluster.ports[0]} is not running" in cluster.run("create", code=1)
    assert cluster.run("start").endswith("the cluster is back\n")
    assert cluster.run("create").startswith("the cluster exists already")
    assert values(cluster) == VALUES


def test_restart_keeps_cluster_and_data(cluster: Cluster) -> None:
    """restart, even with a frozen node, starts new processes with the new timeout and keeps cluster and data."""
    before = cluster.processes()
    freeze(before[1])
    assert ["-", "-", "no answer"] in cluster.roles()
    cluster.run("restart", "--timeout", "3000")
    assert not running(before)
    assert cluster.roles() == THREE
    assert values(cluster) == VALUES
    with Redis(port=cluster.ports[1], decode_responses=True) as client:
        assert client.config_get("cluster-node-timeout") == {"cluster-node-timeout": "3000"}


def test_watch_shows_the_nodes_until_it_is_interrupted(cluster: Cluster) -> None:
    """watch repeats its output until Ctrl-C, and then exits 0."""
    with cluster.begin("watch", start_new_session=True) as watch:
        assert watch.stdout is not None
        lines = [watch.stdout.readline() for _ in range(10)]
        os.killpg(watch.pid, signal.SIGINT)
        _, complaint = watch.communicate(timeout=SECONDS)
    assert lines.count(f"as node {cluster.ports[0]} sees it:\n") == 2
    assert sum("myself,master" in line for line in lines) == 2
    assert (watch.returncode, complaint) == (0, "")


def test_tail_follows_a_log(cluster: Cluster) -> None:
    """tail follows the log of a node, given by number or port; tailall follows all; clean-logs empties them."""
    for words, logs in (["tail", "2"], 1), (["tail", str(cluster.ports[1])], 1), (["tailall"], 3):
        with cluster.begin(*words) as tail:
            assert tail.stdout is not None
            found = 0
            while found < logs:
                found += "Ready to accept connections" in tail.stdout.readline()
            tail.terminate()
    assert "no node '4': nodes are 1 to 3" in cluster.run("tail", "4", code=2)
    cluster.run("clean-logs")
    assert [log.read_text() for log in cluster.folder.glob("*/redis.log")] == [""] * 3


def test_call_asks_all_nodes(cluster: Cluster) -> None:
    """call passes its arguments to `labkit call`; without a labkit, one line says so."""
    told = cluster.run("call", "KEYS", "*")
    assert [f"127.0.0.1:{port}" in told for port in cluster.ports] == [True] * 3
    assert re.findall(r'"(.)"', told) == ["b", "c", "a"]
    nowhere = cluster.environment | {"LABKIT": "/nowhere/labkit"}
    assert "$LABKIT is not a labkit that user" in cluster.run("call", "PING", env=nowhere, code=1)


def test_stop_then_clean_leave_nothing(cluster: Cluster) -> None:
    """stop, then clean, leave no process, file or folder, even with a frozen node; both may be repeated."""
    freeze(cluster.processes()[0])
    assert re.search(r"node \d+ runs \(PID \d+\): stop before clean", cluster.run("clean", code=1))
    assert cluster.run("stop") == f"stopped: nodes {' '.join(map(str, cluster.ports))}\n"
    assert not cluster.processes()
    assert all(log.read_text().endswith("bye bye...\n") for log in cluster.folder.glob("*/redis.log"))
    assert cluster.run("stop") == f"not running: 3 nodes in {cluster.folder}\n"
    for _ in range(2):
        cluster.run("clean")
        assert list(cluster.folder.parent.iterdir()) == []


def test_as_in_the_notes(fresh: Cluster, tmp_path: Path) -> None:
    """Sourced through a link with only the port set, its folder is below HOME; clean removes the parents too."""
    (tmp_path / "create-cluster.sh").symlink_to(SCRIPT)
    (tmp_path / "home").mkdir()
    fresh.folder = tmp_path / "home/.local/state/labkit-cluster"
    fresh.environment |= {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": ""}
    del fresh.environment["LABKIT_CLUSTER_DIR"]
    script = " && ".join(f". ../create-cluster.sh {verb}" for verb in ("start", "stop", "clean", "clean-logs"))
    run = subprocess.run(["bash", "-c", f"{script}; echo $-"], **fresh.how(cwd=tmp_path / "home", timeout=SECONDS))
    assert (run.returncode, run.stderr) == (0, "")
    assert f"data in {fresh.folder};" in run.stdout
    assert "e" not in run.stdout.splitlines()[-1], "the shell has set -e now"
    assert list((tmp_path / "home").iterdir()) == fresh.processes() == []


def test_replicas(tmp_path: Path) -> None:
    """Each master gets a replica, synced when create returns; replicas may be requested as late as at create."""
    cluster = Cluster(tmp_path / "cluster", count=6)
    try:
        cluster.run("start", "--nodes", "6")
        assert cluster.roles() == [["master", "-", "not joined"]] * 6
        assert cluster.run("create", "--replicas", "1") == "the cluster is ready: 3 masters, 3 replicas\n"
        assert cluster.roles() == [*THREE, *([f"replica of {port}", "-", "ok"] for port in cluster.ports[:3])]
        assert "with 1 replicas per master, not 0" in cluster.run("create", "--replicas", "0", code=1)
    finally:
        cluster.end()


def test_five_masters_of_another_user() -> None:
    """A user who can write neither at home nor here gets a cluster in a temporary folder, and later removes it."""
    other: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    uid = NOBODY if other else os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o777)
        cli = shutil.which("redis-cli") or redis_server().with_name("redis-cli")
        script, server, client = (Path(shutil.copy(program, place)) for program in (SCRIPT, redis_server(), cli))
        places = {"HOME": "/proc", "XDG_STATE_HOME": "", "TMPDIR": name, "LABKIT_CLUSTER_DIR": ""}
        programs = {"REDIS_SERVER": str(server), "REDIS_CLI": str(client)}
        cluster = Cluster(place / f"labkit-cluster-{uid}", 5, script, **places, **programs)
        try:
            assert f"data in {cluster.folder};" in cluster.run("start", "--nodes", "5", cwd="/", **other)
            assert [process.uids().real for process in cluster.processes()] == [uid] * 5
            assert cluster.run("create", cwd="/", **other) == "the cluster is ready: 5 masters, 0 replicas\n"
            slots = re.findall(r"(\S+) +ok", cluster.run("nodes", cwd="/", **other))
            assert slots == ["0-3276", "3277-6553", "6554-9829", "9830-13106", "13107-16383"]  # as Redis divides them
            cluster.run("stop", cwd="/", **other)
            cluster.run("clean", cwd="/", **other)
            assert not cluster.folder.exists()
            assert not cluster.processes()
            server.chmod(0o600)
            told = cluster.run("start", code=1, cwd="/", **other)
            assert re.fullmatch(rf"\$REDIS_SERVER is not a redis-server that user \S+ can run: '{server}'", told)
        finally:
            cluster.end()


def test_no_server_program(fresh: Cluster, tmp_path: Path) -> None:
    """Without redis-server, one line says where it was searched for and what to set."""
    (tmp_path / "cluster").mkdir()
    fresh.script = Path(shutil.copy(SCRIPT, tmp_path / "cluster"))
    (tmp_path / "bin").mkdir()
    for program in ("bash", "dirname", "id", "tr", "sed", "python3"):
        (tmp_path / "bin" / program).symlink_to("/bin/false" if program == "python3" else str(shutil.which(program)))
    fresh.environment["PATH"] = str(tmp_path / "bin")
    told = fresh.run("start", code=1)
    assert told.startswith("no redis-server that user")
    assert f"in {tmp_path}/.venv" in told
    assert told.endswith("set REDIS_SERVER to the path of one that this user may read and run")


def test_by_labkit_cluster(tmp_path: Path) -> None:
    """`labkit cluster` does the same, with the server program that a lab would find; Ctrl-C reaches the script."""
    wrapper = tmp_path / "labkit-cluster"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m labkit cluster "$@"\n')
    wrapper.chmod(0o755)
    beside = sorted(SCRIPT.parent.rglob("*"))
    cluster = Cluster(tmp_path / "cluster", script=wrapper, PATH="/usr/bin:/bin")
    try:
        assert cluster.run("start").rstrip().endswith(f"data in {cluster.folder}; next: labkit cluster create")
        assert cluster.run("create") == "the cluster is ready: 3 masters, 0 replicas\n"
        assert cluster.run("call", "DBSIZE").count("(integer) 0") == 3
        with cluster.begin("watch", start_new_session=True) as watch:
            assert watch.stdout is not None
            assert "as node" in watch.stdout.readline()
            os.killpg(watch.pid, signal.SIGINT)
            assert watch.wait(SECONDS) == 0
        cluster.run("stop")
        assert cluster.run("create", code=1) == (
            f"labkit cluster: node {cluster.ports[0]} is not running: start it with 'labkit cluster start'"
        )
        cluster.run("clean")
        assert not cluster.folder.exists()
        assert sorted(SCRIPT.parent.rglob("*")) == beside
    finally:
        cluster.end()


@pytest.mark.parametrize("taken", [1, 10_002], ids=["a port", "a bus port"])
def test_a_port_that_somebody_uses(fresh: Cluster, taken: int) -> None:
    """A port in use is named, and neither nodes nor folder remain."""
    with socket.create_server(("127.0.0.1", fresh.ports[0] + taken)):
        told = fresh.run("start", code=1)
    assert told == f"port {fresh.ports[0] + taken} is in use by another process: nothing was started"
    assert not fresh.processes()
    assert not fresh.folder.parent.exists()


def test_options_that_redis_refuses(fresh: Cluster) -> None:
    """Options that Redis refuses are reported with its message, and the next start does not reuse them."""
    assert "maxmemory" in fresh.run("start", "--options", "--maxmemory much", code=1)
    assert not fresh.folder.parent.exists()
    fresh.run("start", "--options", "--maxmemory 50mb --maxclients 100")
    with Redis(port=fresh.ports[2], decode_responses=True) as client:
        assert client.config_get("max*")["maxclients"] == "100"
    fresh.run("stop")
    assert "much" in fresh.run("start", "--options", "--maxmemory much", code=1)
    assert "started node" in fresh.run("start")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_has_said_so_is_not_interrupted(fresh: Cluster, how: signal.Signals) -> None:
    """Once a start names its nodes, a signal comes too late: it exits 0, and the nodes run."""
    with fresh.begin("start", start_new_session=True) as start:
        assert start.stdout is not None
        assert "started node" in start.stdout.readline()
        os.killpg(start.pid, how)
        start.communicate(timeout=SECONDS)
    assert (start.returncode, len(fresh.processes())) == (0, 3)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_start_that_is_interrupted(fresh: Cluster, how: signal.Signals) -> None:
    """An interrupted start leaves nothing (unless by SIGKILL), and the next start, stop and clean work as usual."""
    with fresh.begin("start", start_new_session=True) as start:
        # The script itself runs processes in the folder: the servers start once the settings exist.
        assert becomes_true(lambda: (fresh.folder / "settings").exists() and bool(fresh.processes()))
        os.killpg(start.pid, how)
        start.communicate(timeout=SECONDS)
    if how != signal.SIGKILL and start.returncode != 0:
        assert not fresh.processes()
        assert not fresh.folder.parent.exists()
    fresh.run("start")
    assert len(fresh.processes()) == 3
    fresh.run("stop")
    fresh.run("clean")
    assert not fresh.processes()
    assert not fresh.folder.parent.exists()


def test_a_stale_pid_harms_nobody(fresh: Cluster, tmp_path: Path) -> None:
    """A program that now has a dead node's PID is not taken for a node, even with the same folder or port."""
    fresh.run("start")
    fresh.kill()
    files = [fresh.folder / f"{port}/redis.pid" for port in fresh.ports]
    waiting, port = [sys.executable, "-c", "input()"], str(fresh.ports[1])
    with (
        subprocess.Popen(waiting, cwd=files[0].parent, stdin=subprocess.PIPE) as there,
        subprocess.Popen([*waiting, "--port", port, "x"], cwd=tmp_path, stdin=subprocess.PIPE) as elsewhere,
    ):
        for file, pid in zip(files, (there.pid, elsewhere.pid, -1), strict=True):
            file.write_text(f"{pid}\n")
        assert [state[1] for state in fresh.nodes()] == ["not running"] * 3
        assert fresh.run("stop").startswith("not running")
        for other in (there, elsewhere):
            assert other.poll() is None
            other.communicate(b"\n", timeout=SECONDS)
            assert other.returncode == 0


def test_starts_at_once(fresh: Cluster) -> None:
    """Of four concurrent starts one starts the nodes; the others wait and find them running."""
    with ExitStack() as begun:
        starts = [begun.enter_context(fresh.begin("start")) for _ in range(4)]
        told = [start.communicate(timeout=SECONDS) for start in starts]
    assert [start.returncode for start in starts] == [0] * 4, told
    assert sorted(out.startswith("already running") for out, _ in told) == [False, True, True, True]
    assert len(fresh.processes()) == 3


def test_a_folder_with_other_things(fresh: Cluster) -> None:
    """A folder that contains something else is refused and left alone."""
    fresh.folder.mkdir(parents=True)
    (fresh.folder / "notes").write_text("mine")
    for verb in ("start", "stop", "clean"):
        assert f"{fresh.folder} contains something other than a cluster" in fresh.run(verb, code=1)
    assert (fresh.folder / "notes").read_text() == "mine"


# with a password


@pytest.fixture
def secured(fresh: Cluster) -> Cluster:
    """A cluster with a generated password."""
    fresh.run("start", "--password")
    fresh.run("create")
    return fresh


def password_of(cluster: Cluster) -> str:
    return (cluster.folder / "password").read_text().rstrip("\n")


def refused(client: Redis, *words: str) -> bool:
    """Whether the server denies this user the command."""
    with pytest.raises(ResponseError) as caught:
        client.execute_command(*words)
    return type(caught.value) is NoPermissionError or "command not allowed" in str(caught.value)  # Redis 7 on DEBUG


def test_without_the_password_nobody_gets_in(secured: Cluster) -> None:
    """Without the password, every command on every node fails authentication."""
    for port in secured.ports:
        for words in (["PING"], ["GET", "a"], ["CONFIG", "SET", "dir", "/tmp"], ["SAVE"], ["CLUSTER", "NODES"]):
            with Redis(port=port, retry=ONCE) as client, pytest.raises(AuthenticationError):
                client.execute_command(*words)
        with Redis(port=port, password="labkit", retry=ONCE) as client, pytest.raises(AuthenticationError):
            client.ping()


def test_with_it_one_reads_and_writes_and_no_more(secured: Cluster) -> None:
    """With the password any cluster client reads and writes, but cannot write files, dial out or stop servers."""
    with RedisCluster(host="127.0.0.1", port=secured.ports[0], password=password_of(secured)) as client:
        for key in "abc":
            client.set(key, key)
        assert [client.get(key) for key in "abc"] == [b"a", b"b", b"c"]
    with Redis(port=secured.ports[0], password=password_of(secured)) as client:
        for words in (
            "CONFIG SET dir /tmp", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN", "DEBUG SLEEP 0", "MODULE LIST",
            "MONITOR", "REPLICAOF 127.0.0.1 1", "MIGRATE 127.0.0.1 1 a 0 1", "ACL LIST", "CLUSTER MEET 127.0.0.1 1",
            "CLIENT LIST", "CLUSTER RESET", "PSYNC ? -1", "RESTORE a 0 a",
        ):  # fmt: skip
            assert refused(client, *words.split()), words


def test_no_password_can_be_seen(secured: Cluster) -> None:
    """Passwords appear in no command line, environment or log, and only in files that other users cannot read."""
    secrets = [password_of(secured), *(secured.folder / "admin").read_text().split()]
    assert len(set(secrets)) == 3
    assert all(len(secret) >= 32 for secret in secrets)
    assert secured.folder.stat().st_mode & 0o777 == 0o700
    lines = [word for process in secured.processes() for word in process.cmdline()]
    assert len(lines) >= 3
    for path in filter(Path.is_file, secured.folder.rglob("*")):
        if any(secret.encode() in path.read_bytes() for secret in secrets):
            assert path.name in ("password", "admin")
        assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0
    for secret in secrets:
        assert secret not in " ".join(lines)
        for process in secured.processes():
            assert secret not in str(process.environ())


def test_the_password_stays(secured: Cluster) -> None:
    """The password survives restarts, the script's verbs find it themselves, and clean removes it."""
    secured.environment |= {"LABKIT": str(Path(sys.executable).with_name("labkit"))}
    had = password_of(secured)
    assert "the cluster is back" in secured.run("restart")
    assert secured.run("start", "--password").startswith("already running")
    assert password_of(secured) == had
    assert [node[2:] for node in secured.nodes()] == THREE
    assert secured.run("call", "DBSIZE").count("(integer) 0") == 3
    secured.environment["LABKIT_CLUSTER_PASSWORD"] = "another-one-of-16-letters"
    assert "is not $LABKIT_CLUSTER_PASSWORD: unset it" in secured.run("start", code=1)
    secured.run("stop")
    secured.run("clean")
    assert not secured.folder.exists()


def test_a_password_of_ones_own(fresh: Cluster) -> None:
    """A chosen password is taken from the environment, not the command line; a weak one is refused and not shown."""
    assert "set LABKIT_CLUSTER_PASSWORD" in fresh.run("start", "--password=secret", code=2)
    for weak in ("short", "spaces are not for URLs", "x" * 200):
        fresh.environment["LABKIT_CLUSTER_PASSWORD"] = weak
        told = fresh.run("start", code=2)
        assert "$LABKIT_CLUSTER_PASSWORD must be 16 to 128 letters" in told
        assert weak not in told
        assert not fresh.folder.exists()
    fresh.environment["LABKIT_CLUSTER_PASSWORD"] = "my-own.password_of~16"
    fresh.run("start")
    with Redis(port=fresh.ports[1], password="my-own.password_of~16") as client:
        assert client.ping()


def test_an_open_cluster_is_given_a_password(cluster: Cluster) -> None:
    """restart gives all nodes a password at once and keeps the data; start refuses while nodes run without one."""
    assert re.search(
        r"node \d+ runs without a password: restart --password", cluster.run("start", "--password", code=1)
    )
    assert not (cluster.folder / "password").exists()
    try:
        assert "the cluster is back" in cluster.run("restart", "--password")
        with pytest.raises(AuthenticationError), Redis(port=cluster.ports[0], retry=ONCE) as client:
            client.ping()
        with RedisCluster(host="127.0.0.1", port=cluster.ports[0], password=password_of(cluster)) as client:
            assert client.get("a") == b"value of a"
    finally:
        cluster.end()


def test_replicas_of_a_cluster_with_a_password(tmp_path: Path) -> None:
    """Replicas sync as a user that may do nothing else."""
    cluster = Cluster(tmp_path / "cluster", count=6)
    try:
        cluster.run("start", "--replicas", "1", "--password")
        assert cluster.run("create") == "the cluster is ready: 3 masters, 3 replicas\n"
        replica = (cluster.folder / "admin").read_text().split()[1]
        with Redis(port=cluster.ports[0], username="labkit_replica", password=replica) as client:
            assert refused(client, "GET", "a")
    finally:
        cluster.end()


def test_help_says_what_an_open_cluster_means(fresh: Cluster) -> None:
    """--help warns what a cluster without a password exposes."""
    told = " ".join(fresh.run("--help").split())
    assert "Without --password it is open to all users of the machine" in told
    assert "write files as user" in told


def test_clients_may_do_the_same_as_those_of_a_lab() -> None:
    """The script and the lab allow clients the same commands."""
    script = re.sub(r"\\\n", "", SCRIPT.read_text())
    assert f'readonly CLIENTS="{CLIENTS_OF_REDIS}"' in script

"""A resolver that never answers: reads, commands and servers still end in time, and good names are found.

This is the system's real resolver in private namespaces, where the only name server is a silent socket.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.namespaces

INSIDE = """
set -e
ip link set lo up
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/hosts" /etc/hosts
exec "$2" "$1/program.py"
"""
FIRST = """
import asyncio, json, os, signal, socket, subprocess, sys, time, urllib.request
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
folder = os.path.dirname(__file__)
sys.path.insert(0, os.getcwd())
from tests.support.lateness import pressed
labkit = [sys.executable, "-m", "labkit"]
def took(*words):
    began, before = time.monotonic(), pressed()
    run = subprocess.run([*labkit, *words], capture_output=True, text=True, timeout=60)
    return time.monotonic() - began - (pressed() - before), run.stdout + run.stderr
"""
TOPOLOGY = """
timeout = 1.0
[[shards]]
name = "a"
url = "redis://{a}:6379"
table = "data_1"
ranges = [[1, 10]]
[[shards]]
name = "b"
url = "postgresql://u@{b}:5432/x"
table = "data_2"
ranges = [[11, 20]]
"""


@pytest.fixture
def inside(tmp_path):
    """Runs a program where all names outside `hosts` hang, and returns the JSON that it prints."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost good.test\n")
    (tmp_path / "hung.toml").write_text(TOPOLOGY.format(a="hung-a.test", b="hung-b.test"))
    (tmp_path / "refusing.toml").write_text(TOPOLOGY.format(a="localhost", b="localhost"))

    def run(program):
        (tmp_path / "program.py").write_text(FIRST + program)
        words = ["unshare", "--net", "--mount", "bash", "-c", INSIDE, "bash", str(tmp_path), sys.executable]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


COMMANDS = """
read = lambda name: took("read", "--topology", f"{folder}/{name}.toml")
call = lambda host: took("call", "--url", f"redis://{host}:6379", "--timeout", "1", "GET", "x")
serve = lambda host: took("serve", "--topology", f"{folder}/hung.toml", "--host", host)
print(json.dumps({
    "read": (read("refusing"), read("hung")), "call": (call("localhost"), call("hung-c.test")),
    "serve": (serve("203.0.113.1"), serve("hung-d.test")),
}))
"""


def test_commands_end_within_their_timeout_and_a_second(inside):
    """`read` of both kinds of shards, `call` and `serve` take at most the timeout and a second longer than the same
    command where nothing hangs. Time without a processor is not counted: before its first look-up, a command mostly
    loads modules.
    """
    for (plain, refused), (took, said) in inside(COMMANDS).values():
        assert "connection refused" in refused or "cannot serve" in refused
        assert "timeout" in said or "the name was not resolved in time" in said
        assert took < plain + 1.0 + 1.0


SERVING = """
words = [*labkit, "serve", "--topology", f"{folder}/hung.toml", "--port", "0"]
serving = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
url = serving.stdout.readline().split()[1]
answer = json.load(urllib.request.urlopen(f"{url}/data"))
began = time.monotonic()
serving.terminate()
code = serving.wait(60)
print(json.dumps({"answer": answer, "took": time.monotonic() - began, "code": code}))
"""


def test_a_server_ends_in_time_after_reads_of_hung_names(inside):
    """On SIGTERM a server does not wait for pending look-ups."""
    said = inside(SERVING)
    assert [shard["status"] for shard in said["answer"]["shards"].values()] == ["timeout", "timeout"]
    assert said["code"] == 0
    assert said["took"] < 1.0 + 1.0


HUNDREDS = """
from labkit._resolve import resolve
async def main():
    hung = [asyncio.create_task(resolve(f"hung-{n}.test", 1)) for n in range(300)]
    await asyncio.sleep(0.2)
    began = time.monotonic()
    found = [await resolve(name, 5) for name in ("localhost", "good.test", "127.0.0.1", "::1")]
    return time.monotonic() - began, [one[-1][4][0] for one in found], sum(task.done() for task in hung)
began = time.monotonic()
print(json.dumps([*asyncio.run(main()), time.monotonic() - began]), flush=True)
"""


def test_good_names_are_found_beside_hundreds_that_hang(inside):
    """Names in /etc/hosts and literal addresses resolve while 300 look-ups hang, and the loop closes at once."""
    took, found, done, whole = inside(HUNDREDS)
    assert found == ["127.0.0.1", "127.0.0.1", "127.0.0.1", "::1"]
    assert done == 0
    assert took < 1.0
    assert whole < 3.0

"""The readers of `tests.support.readers` in other forms: a plain function, a command, and an HTTP service.

`python -m tests.support.forms NAME` reads once; with `serve` as a second word it is the service, and prints its port.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ForkingMixIn, ThreadingMixIn
from typing import Any

from tests.support import readers

__all__ = ["command", "in_a_thread", "served"]


def in_a_thread(name: str) -> Callable[[dict[int, str]], Any]:
    """The reader as a function that is not async."""

    def read(urls: dict[int, str]) -> Any:
        return asyncio.run(getattr(readers, name)(urls))

    return read


def command(name: str) -> str:
    """The command line of the reader."""
    return f"'{sys.executable}' -m tests.support.forms {name}"


@contextmanager
def served(name: str) -> Iterator[str]:
    """The URL of the reader as a service, which reads the topology that each request names."""
    words = [sys.executable, "-m", "tests.support.forms", name, "serve"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/data"
        finally:
            process.kill()


def read_once(name: str) -> None:
    """Reads the request from stdin, and writes the answer to stdout, both as JSON."""
    request = json.load(sys.stdin)
    rows = in_a_thread(name)({int(shard): url for shard, url in request["urls"].items()})
    if name == "holding" and len(rows) < 60:  # a command cannot leave sockets behind, but processes
        nowhere = subprocess.DEVNULL
        subprocess.Popen(["sleep", "60"], stdin=nowhere, stdout=nowhere, stderr=nowhere)
    sys.stdout.write(json.dumps({"rows": rows}))


def serve(name: str) -> None:
    """Serves the reader until the process is killed."""
    read = in_a_thread(name)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            topology = tomllib.loads(Path(self.headers["Labkit-Topology"]).read_text())
            try:
                rows = read({shard["name"]: shard["url"] for shard in topology["shards"]})
                status, body = 200, json.dumps({"rows": rows}).encode()
            except Exception as error:
                status, body = 503, str(error).encode()
            gc.collect()  # exceptions keep the connections of other shards alive in cycles
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None: ...

    class Threads(ThreadingMixIn, HTTPServer): ...

    class Forks(ForkingMixIn, HTTPServer):
        """One that crashes must not take the others with it."""

    with (Forks if name == "crashing" else Threads)(("127.0.0.1", 0), Handler) as server:
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    (serve if sys.argv[2:] == ["serve"] else read_once)(sys.argv[1])

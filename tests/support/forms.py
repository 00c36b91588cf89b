"""The readers of `tests.support.readers` in other forms: `python -m tests.support.forms NAME` is a command that reads
once, and `served(NAME)` an HTTP service.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ForkingMixIn, ThreadingMixIn
from threading import Thread
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
    read = in_a_thread(name)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            topology = tomllib.loads(Path(self.headers["Labkit-Topology"]).read_text())
            try:
                rows = read({shard["name"]: shard["url"] for shard in topology["shards"]})
            except Exception as error:
                status, body = 503, str(error).encode()
            else:
                status, body = 200, json.dumps({"rows": rows}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None: ...

    class Threads(ThreadingMixIn, HTTPServer):
        daemon_threads = True

    class Forks(ForkingMixIn, HTTPServer):
        """One that crashes must not take the others with it."""

    server = (Forks if name == "crashing" else Threads)(("127.0.0.1", 0), Handler)
    serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/data"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def main(name: str) -> None:
    """Reads the request, and prints the answer as JSON."""
    request = json.load(sys.stdin)
    urls = {int(shard): url for shard, url in request["urls"].items()}
    rows = in_a_thread(name)(urls)
    if name == "holding" and len(rows) < 60:  # a command cannot leave sockets behind, but processes
        subprocess.Popen(
            ["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    sys.stdout.write(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1])

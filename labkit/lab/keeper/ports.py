"""Ports that a server of this machine can have, and that no other lab is given at the same time."""

from __future__ import annotations

import random
import socket

__all__ = ["Ports"]

LOWEST, HIGHEST = 10_000, 22_000
"""With another port 10,000 above they lie below 32768, from where on systems give out ports of their own accord."""
TRIES = 1000


class Ports:
    """Each port is reserved by binding a UDP socket to the same number: TCP servers can still bind it, and no other
    process is given it as long as this one lives.
    """

    def __init__(self) -> None:
        self._kept: list[socket.socket] = []

    def free(self, room: int = 0) -> int:
        """A port of 127.0.0.1 that nobody listens on, nor on the one `room` above; OSError where there is none."""
        for port in random.sample(range(LOWEST, HIGHEST), TRIES):
            keeper = socket.socket(type=socket.SOCK_DGRAM)
            try:
                keeper.bind(("127.0.0.1", port))
                for number in {port, port + room}:
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
                        probe.bind(("127.0.0.1", number))
            except OSError:
                keeper.close()
                continue
            self._kept.append(keeper)
            return port
        raise OSError(f"no free port between {LOWEST} and {HIGHEST} on 127.0.0.1")

    def close(self) -> None:
        """Gives them all back."""
        for keeper in self._kept:
            keeper.close()

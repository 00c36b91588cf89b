"""Free TCP ports for servers, never given to two labs at the same time."""

from __future__ import annotations

import random
import socket

__all__ = ["Ports"]

LOWEST, HIGHEST = 10_000, 22_000
"""Together with the port 10,000 above they lie below 32768, where the ephemeral ports of systems begin."""
TRIES = 1000


class Ports:
    """Each port is reserved by binding a UDP socket to the same number: TCP servers can still bind it, and no other lab
    is given it while this process lives.
    """

    def __init__(self) -> None:
        self._reservations: list[socket.socket] = []

    def free(self, room: int = 0) -> int:
        """A free port on 127.0.0.1, with port + `room` free as well; OSError if there is none."""
        for port in random.sample(range(LOWEST, HIGHEST), TRIES):
            reservation = socket.socket(type=socket.SOCK_DGRAM)
            try:
                reservation.bind(("127.0.0.1", port))
                for number in {port, port + room}:
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
                        probe.bind(("127.0.0.1", number))
            except OSError:
                reservation.close()
                continue
            self._reservations.append(reservation)
            return port
        raise OSError(f"no free port between {LOWEST} and {HIGHEST} on 127.0.0.1")

    def close(self) -> None:
        """Releases all ports."""
        for reservation in self._reservations:
            reservation.close()

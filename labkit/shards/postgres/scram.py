"""SCRAM-SHA-256 as Postgres uses it: the client's side, with the key derived off the event loop.

The server chooses the number of hashing rounds. asyncpg does them on the event loop, which they block.
Sources: RFC 5802 (SCRAM), RFC 7677 (SHA-256), RFC 4013 (SASLprep); PostgreSQL documentation, "SASL Authentication".
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stringprep
import threading
import unicodedata
from base64 import b64decode, b64encode
from concurrent.futures import Future

__all__ = ["MECHANISM", "MOST_ROUNDS", "Scram", "derived", "prepared"]

MECHANISM = b"SCRAM-SHA-256"
MOST_ROUNDS = 2_000_000
"""Most rounds that a server may request: 0.45 s of one CPU where this was measured. Postgres requests 4096, OWASP
advises 600,000. A derivation cannot be interrupted, so its length must be bounded."""
KEPT = 64
"""Derived keys that are cached, so that a pool of connections pays for one."""
_FIRST = re.compile(rb"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})(?:,.*)?")
_NO_BINDING = b"n,,"
"""Like asyncpg: no channel binding, even if the server offers SCRAM-SHA-256-PLUS."""
_PROHIBITED = (
    stringprep.in_table_a1,  # not assigned
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class Scram:
    """One exchange: `first`, `challenged`, `final`, `is_signed`, in that order. Raises `ValueError` for a server's
    violation of the protocol.
    """

    def __init__(self) -> None:
        self._nonce = b64encode(secrets.token_bytes(18))
        self._bare = b"n=,r=" + self._nonce  # the user name is that of the start-up message
        self._said = self._signature = b""

    def first(self) -> bytes:
        """The client's first message."""
        return _NO_BINDING + self._bare

    def challenged(self, message: bytes) -> tuple[bytes, int]:
        """Takes the server's first message; returns the salt and the number of rounds for the key."""
        found = _FIRST.fullmatch(message)
        if not found or not found[1].startswith(self._nonce) or found[1] == self._nonce:
            raise ValueError("the server violated the SCRAM protocol")
        self._said, self._whole = message, found[1]
        return b64decode(found[2], validate=True), int(found[3])

    def final(self, key: bytes) -> bytes:
        """The client's final message: the proof that it has the key that was `derived`."""
        unproved = b"c=" + b64encode(_NO_BINDING) + b",r=" + self._whole
        signed = b",".join((self._bare, self._said, unproved))
        self._signature = _signed(_signed(key, b"Server Key"), signed)
        client = _signed(key, b"Client Key")
        proof = int.from_bytes(client) ^ int.from_bytes(_signed(hashlib.sha256(client).digest(), signed))
        return unproved + b",p=" + b64encode(proof.to_bytes(len(client)))

    def is_signed(self, message: bytes) -> bool:
        """Whether the server's final message proves that it has the key too."""
        said = message.partition(b",")[0]
        return bool(self._signature) and hmac.compare_digest(said, b"v=" + b64encode(self._signature))


def _signed(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def prepared(password: str) -> str:
    """The password normalised by SASLprep; unchanged if SASLprep refuses it, like in Postgres."""
    if password.isascii():
        return password
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    refused = not normal or any(table(c) for c in normal for table in _PROHIBITED) or not _one_direction(normal)
    return password if refused else normal


def _one_direction(text: str) -> bool:
    """Whether the text obeys the rules for right-to-left characters."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))


class _Keys:
    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts over; also in a forked child, since the threads are the parent's."""
        self._lock = threading.Lock()
        self._known: dict[tuple[bytes, bytes, int], Future[bytes]] = {}

    def derived(self, password: bytes, salt: bytes, rounds: int) -> Future[bytes]:
        parameters = (hashlib.sha256(password).digest(), salt, rounds)
        with self._lock:
            key = self._known.pop(parameters, None)
            if key is None:
                key = Future()
                # Not an executor: asyncio.run and the exit of the process would wait for it.
                threading.Thread(target=_derive, args=(key, password, salt, rounds), name="SCRAM", daemon=True).start()
            self._known[parameters] = key
            if len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        return key


def _derive(key: Future[bytes], password: bytes, salt: bytes, rounds: int) -> None:
    key.set_result(hashlib.pbkdf2_hmac("sha256", password, salt, rounds))  # releases the GIL


_keys = _Keys()
os.register_at_fork(after_in_child=_keys.forget)


def derived(password: str, salt: bytes, rounds: int) -> Future[bytes]:
    """The key of a password, derived on a separate thread, or cached.

    Raises `ValueError` for more than `MOST_ROUNDS`.
    """
    if rounds > MOST_ROUNDS:
        raise ValueError(f"the server requests {rounds} rounds of SCRAM, more than the limit of {MOST_ROUNDS}")
    return _keys.derived(prepared(password).encode(), salt, rounds)

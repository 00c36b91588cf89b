"""SCRAM-SHA-256 as Postgres speaks it: what the client says, with the key derived beside the event loop.

A server says how many rounds of hashing a password takes. asyncpg does them on the event loop, where everybody waits.
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
"""Rounds that a server may ask for: 0.45 s of one processor where this was measured. Postgres asks for 4096, OWASP
advises 600,000; nothing can stop a derivation that has begun, so its length must have an end."""
KEPT = 64
"""Derived keys that are remembered, so that a pool of connections pays for one."""
_FIRST = re.compile(rb"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})(?:,.*)?")
_NO_BINDING = b"n,,"
"""As asyncpg: no channel binding, also where the server offers SCRAM-SHA-256-PLUS."""
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
    """One exchange: `first`, `challenged`, `final`, `is_signed`, in that order. What a server may not say is a
    `ValueError`.
    """

    def __init__(self) -> None:
        self._nonce = b64encode(secrets.token_bytes(18))
        self._bare = b"n=,r=" + self._nonce  # the user's name is the one of the start-up packet
        self._said = self._signature = b""

    def first(self) -> bytes:
        """What the client begins with."""
        return _NO_BINDING + self._bare

    def challenged(self, message: bytes) -> tuple[bytes, int]:
        """Takes the server's first message; the salt and the number of rounds to derive the key with."""
        found = _FIRST.fullmatch(message)
        if not found or not found[1].startswith(self._nonce) or found[1] == self._nonce:
            raise ValueError("the server's part of SCRAM is none")
        self._said, self._whole = message, found[1]
        return b64decode(found[2], validate=True), int(found[3])

    def final(self, key: bytes) -> bytes:
        """What the client ends with: the proof that it has the key that was `derived`."""
        unproved = b"c=" + b64encode(_NO_BINDING) + b",r=" + self._whole
        signed = b",".join((self._bare, self._said, unproved))
        self._signature = _signed(_signed(key, b"Server Key"), signed)
        client = _signed(key, b"Client Key")
        proof = int.from_bytes(client) ^ int.from_bytes(_signed(hashlib.sha256(client).digest(), signed))
        return unproved + b",p=" + b64encode(proof.to_bytes(len(client)))

    def is_signed(self, message: bytes) -> bool:
        """Whether the server's last message proves that it has the key as well."""
        said = message.partition(b",")[0]
        return bool(self._signature) and hmac.compare_digest(said, b"v=" + b64encode(self._signature))


def _signed(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def prepared(password: str) -> str:
    """A password as SASLprep has it; where that refuses it, as it is, as Postgres does."""
    if password.isascii():
        return password
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    refused = not normal or any(table(c) for c in normal for table in _PROHIBITED) or not _one_direction(normal)
    return password if refused else normal


def _one_direction(text: str) -> bool:
    """The rules for text that has characters written from right to left."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))


class _Keys:
    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew; also in a forked child, since the threads are the parent's."""
        self._lock = threading.Lock()
        self._known: dict[tuple[bytes, bytes, int], Future[bytes]] = {}

    def derived(self, password: bytes, salt: bytes, rounds: int) -> Future[bytes]:
        question = (hashlib.sha256(password).digest(), salt, rounds)
        with self._lock:
            key = self._known.pop(question, None)
            if key is None:
                key = Future()
                # Not of an executor: asyncio.run, and the end of the process, would wait for it.
                threading.Thread(target=_derive, args=(key, password, salt, rounds), name="SCRAM", daemon=True).start()
            self._known[question] = key
            if len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        return key


def _derive(key: Future[bytes], password: bytes, salt: bytes, rounds: int) -> None:
    key.set_result(hashlib.pbkdf2_hmac("sha256", password, salt, rounds))  # lets other threads run


_keys = _Keys()
os.register_at_fork(after_in_child=_keys.forget)


def derived(password: str, salt: bytes, rounds: int) -> Future[bytes]:
    """The key of a password, which a thread of its own derives; known at once where it was derived before.

    Raises `ValueError` for more than `MOST_ROUNDS`.
    """
    if rounds > MOST_ROUNDS:
        raise ValueError(f"the server asks for {rounds} rounds of SCRAM; more than {MOST_ROUNDS} are not done")
    return _keys.derived(prepared(password).encode(), salt, rounds)

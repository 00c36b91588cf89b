"""Who may do what on the servers of a lab: passwords that are new for each lab, and the roles that have them.

A machine may be shared, and loopback is open to all who use it. So nobody comes in without a password, and with that
of the lab's URLs one can read and write rows, and neither run a command nor read or write a file as the lab's owner.
The administrator's, by which faults act, is told to nobody but the servers: what these are told are hashes, except for
the password by which the nodes of a cluster copy each other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

__all__ = ["ADMIN", "Access", "redis_users", "scram_verifier"]

ADMIN = "labkit_admin"
"""What the administrator is called."""
REPLICA = "labkit_replica"
FEWEST_ROUNDS = 4096
"""Of SCRAM: with fewer, JDBC takes no password. Source: RFC 7677."""

CLIENTS_OF_REDIS = (
    "~* &* +@all -@admin -migrate -restore -restore-asking "
    # Of what Redis 6 counts as administration as a whole, the part that is none.
    "+client|id +client|setname +client|getname +client|info +client|reply +client|tracking +client|caching "
    "+client|getredir +client|trackinginfo +acl|whoami "
    "+cluster|nodes +cluster|slots +cluster|shards +cluster|info +cluster|myid +cluster|keyslot +cluster|replicas "
    "+cluster|countkeysinslot +cluster|getkeysinslot +cluster|failover"
)
"""All that is about data, and looking at a cluster; a replica may be asked to take over. Neither CONFIG, SAVE, MODULE,
REPLICAOF, DEBUG or SHUTDOWN, nor what has the server dial somebody."""


def _password() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True)
class Access:
    """The passwords of one lab; none of them shows."""

    client: str = field(default_factory=_password, repr=False)
    """In its URLs."""
    admin: str = field(default_factory=_password, repr=False)
    replica: str = field(default_factory=_password, repr=False)
    """Of a cluster's nodes, to each other."""


def redis_users(access: Access, *, copied: bool) -> str:
    """The part of a server's configuration that says who may come in; who gives no name is the client.

    `copied`: nodes copy each other; else none of them has the password for that.
    """
    lines = [
        f"user default on #{_sha256(access.client)} {CLIENTS_OF_REDIS}",
        f"user {ADMIN} on #{_sha256(access.admin)} ~* &* +@all",
    ]
    if copied:
        lines += [
            f"user {REPLICA} on #{_sha256(access.replica)} +psync +replconf +ping",
            f"masteruser {REPLICA}",
            f"masterauth {access.replica}",
        ]
    return "".join(f"{line}\n" for line in lines)


def scram_verifier(password: str, rounds: int = FEWEST_ROUNDS) -> str:
    """What Postgres keeps of a password, and takes instead of it. Source: RFC 5802, and PostgreSQL's pg_authid.

    Rounds make guessing dear; nobody guesses a random password.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    salt64, stored64, server64 = (
        base64.b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    )
    return f"SCRAM-SHA-256${rounds}:{salt64}${stored64}:{server64}"


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()

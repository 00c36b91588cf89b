"""Who may do what on the servers of a lab: new passwords for each lab, and their roles.

A machine may be shared, and loopback is open to all its users. So every connection needs a password. The one in the
lab's URLs allows to read and write rows, not to run a command, nor to read or write files as the lab's owner. Faults
use the administrator's, which only the lab's own processes have. Servers get hashes of both; only the password with
which a cluster's nodes replicate is given to them in the clear.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

__all__ = ["ADMIN", "Access", "redis_users", "scram_verifier"]

ADMIN = "labkit_admin"
"""The administrator's name."""
REPLICA = "labkit_replica"
FEWEST_ROUNDS = 4096
"""SCRAM iterations: JDBC refuses fewer. Source: RFC 7677."""

CLIENTS_OF_REDIS = (
    "~* &* +@all -@admin -migrate -restore -restore-asking "
    # The subcommands of what Redis 6 classes as @admin as a whole that are harmless.
    "+client|id +client|setname +client|getname +client|info +client|reply +client|tracking +client|caching "
    "+client|getredir +client|trackinginfo +acl|whoami "
    "+cluster|nodes +cluster|slots +cluster|shards +cluster|info +cluster|myid +cluster|keyslot +cluster|replicas "
    "+cluster|countkeysinslot +cluster|getkeysinslot +cluster|failover"
)
"""Every command on data, and views of a cluster; CLUSTER FAILOVER too. Neither CONFIG, SAVE, MODULE, REPLICAOF, DEBUG
or SHUTDOWN, nor commands that make the server dial another host."""


def _password() -> str:
    """122 random bits, as 16 pairs of a consonant and a digit. No part of such a password looks like a word or a port
    number, so `Secrets` does not withhold a server's message that happens to contain one.
    """
    return "".join(secrets.choice("bcdfghjklmnpqrstvwxz") + secrets.choice("0123456789") for _ in range(16))


@dataclass(frozen=True)
class Access:
    """The passwords of one lab; `repr` shows none of them."""

    client: str = field(default_factory=_password, repr=False)
    """The password in its URLs."""
    admin: str = field(default_factory=_password, repr=False)
    replica: str = field(default_factory=_password, repr=False)
    """With which a cluster's nodes replicate."""


def redis_users(access: Access, *, copied: bool) -> str:
    """The users in a Redis server's configuration; a client that gives no name is the default user.

    `copied`: nodes replicate each other; else none of them gets the password for that.
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
    """What Postgres stores in place of a password, and accepts for it. Source: RFC 5802, and PostgreSQL's pg_authid.

    Rounds make guessing expensive, which a random password does not need.
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

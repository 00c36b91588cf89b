"""Administrators of servers that labkit did not start, by their URLs."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from labkit.errors import LabError, UsageError
from labkit.lab.administered import Driver
from labkit.lab.backends.base import ADMIN_TIMEOUT
from labkit.lab.backends.postgres import PostgresDriver
from labkit.lab.backends.redis import RedisDriver, greet
from labkit.proxies.routes import of_url, text_of
from labkit.shards.secrets import Secrets

__all__ = ["Administrator", "administrator"]

OLDEST = 15
"""The first major version of Postgres in which a view can apply the rights of who reads it."""
SESSION = {
    "application_name": "labkit-admin",
    "lock_timeout": "5s",
    "statement_timeout": "8s",
    "search_path": "pg_catalog",
    "standard_conforming_strings": "on",
    "idle_in_transaction_session_timeout": "0",  # a fault lasts until it is undone
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "5",  # the server notices within 15 s that this machine is gone
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
}
"""Settings of sessions in Postgres: the server gives up before `ADMIN_TIMEOUT`; nobody's names hide built-in ones."""


class Administrator(Driver, Protocol):
    """Connects with the URL of an administrator."""

    kind: str
    """ "postgres" or "redis"."""
    url: str
    server: str
    """Its address in the URL, as host:port or a path."""
    secrets: Secrets

    async def connect(self) -> Any:
        """A new connection; the caller closes it. Raises what the driver raises."""


def administrator(url: str) -> Administrator:
    """The administrator with that URL; `UsageError`, which does not repeat it, for one that cannot be used."""
    if not isinstance(url, str) or "://" not in url:
        raise UsageError("an administrator is given by a URL, such as postgresql://postgres@127.0.0.1:5432/database")
    route = of_url(url)
    if not route.kind:
        raise UsageError("the administrator's URL must begin with postgresql://, redis://, rediss:// or unix://")
    server = text_of(route.upstream)
    return _Postgres(url, server) if route.kind == "postgres" else _Redis(url, server)


class _Postgres(PostgresDriver):
    kind = "postgres"

    def __init__(self, url: str, server: str) -> None:
        from labkit.shards.postgres.url import as_url, connect_args, secrets_of

        self.url, self.server = url, server
        parsed = as_url(url)
        self._arguments, self.secrets = connect_args(parsed), secrets_of(parsed)

    async def connect(self) -> Any:
        import asyncpg

        connection = await asyncpg.connect(
            **self._arguments,
            timeout=ADMIN_TIMEOUT,
            command_timeout=ADMIN_TIMEOUT,
            statement_cache_size=0,  # tables change under these connections
            server_settings=SESSION,
        )
        version = connection.get_server_version().major
        if version < OLDEST:
            connection.terminate()
            raise LabError(f"faults inside own servers need Postgres {OLDEST} or newer, and this one is {version}")
        return connection


class _Redis(RedisDriver):
    kind = "redis"

    def __init__(self, url: str, server: str) -> None:
        from labkit.shards.redis.url import as_url, options_of, secrets_of

        self.url, self.server = url, server
        options = options_of(as_url(url))
        self.secrets = secrets_of(options)
        self._auth = [word for word in (options.get("username"), options.get("password")) if word]
        own = ("username", "password", "db", "client_name")
        self._options = {name: value for name, value in options.items() if name not in own}

    async def connect(self) -> Any:
        from redis.asyncio import ConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        pool = ConnectionPool(
            **self._options,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            socket_timeout=ADMIN_TIMEOUT,
            socket_connect_timeout=ADMIN_TIMEOUT,
            redis_connect_func=partial(greet, self._auth),
        )
        return await self.opened(Redis.from_pool(pool))

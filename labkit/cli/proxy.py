"""`labkit proxy`: proxies in front of one's own servers, until they are told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from labkit._imports import need
from labkit._streams import console
from labkit.cli.exits import FAILED, on_signals
from labkit.cli.files import check_target
from labkit.cli.up.commands import Commands, say
from labkit.cli.up.session import end_line, obey, unless
from labkit.errors import MissingExtra, UsageError
from labkit.proxies import Proxies
from labkit.proxies.journal import Journal
from labkit.proxies.left import undo_left
from labkit.proxies.routes import listen_address
from labkit.show.format import plain
from labkit.topology import load
from labkit.topology.file import check_free, written
from labkit.topology.url import expanded

__all__ = ["command"]

OFF = "none"
HELP = """\
fault eu Down  any network fault: Latency(200), or Latency latency=200 stream=upstream; with --admin, also one
               inside the server, such as Busy
list           the proxies, and the faults that act
heal           undo all faults
quit           stop the proxies, as Ctrl-C does"""


async def command(topology: str | None, out: str, force: bool, api: str, undo: bool, **given: Any) -> int:
    """Starts the proxies, writes their topology file, and runs until a signal or `quit`; then removes both. Or, with
    `undo`, only undoes what killed processes have left on servers.

    Raises `UsageError` for wrong options, for an address in use, and for a file that must not be overwritten.
    """
    if undo:
        return await _undo()
    where = None if api == OFF else listen_address(api)
    if where is not None:
        _need_serve()
    proxies, path = _made(topology, **given), Path(out) if topology else None
    if path is not None:
        check_target("--out", out)
        if not force:
            check_free(path, "proxy", "name another file with --out, or pass --force")
    screen, ended = console(), asyncio.Event()
    with on_signals(ended.set):  # later signals change nothing: stopping always runs to its end
        try:
            if await unless(ended, _started(proxies, where, bool(given["admins"]), screen)):
                for line in proxies.left_on_servers():
                    click.echo(f"labkit: {plain(line)}", err=True)
                with _file(proxies, path, screen):
                    say(screen, "Ctrl-C stops them. Type commands here; help lists them.")
                    if not await unless(ended, obey(ProxyCommands(proxies, screen, console(stderr=True)), screen)):
                        end_line(screen)
        finally:
            await proxies.stop()
        say(screen, "The proxies are stopped; nothing is left.")
    return 0


@dataclass
class ProxyCommands(Commands):
    """Those of `labkit proxy`."""

    lab: Proxies

    @property
    def shards(self) -> Sequence[Any]:
        return list(self.lab.addresses)

    @property
    def help(self) -> str:
        return HELP

    async def _heal(self, rest: str) -> None:
        await self.lab.heal()
        self._say("all faults are undone; all servers accept connections")

    async def _list(self, rest: str) -> None:
        self._say("\n".join(_lines(self.lab)) or "no proxy")
        await super()._list(rest)


async def _undo() -> int:
    outcomes = await undo_left(Journal())
    for outcome in outcomes:
        click.echo(f"{'labkit: ' * outcome.failed}{plain(outcome.text)}", err=outcome.failed)
    if not outcomes:
        click.echo("nothing to undo")
    return FAILED if any(outcome.failed for outcome in outcomes) else 0


def _made(
    topology: str | None, listens: Sequence[str], admins: Sequence[str], tables: Sequence[str], own: bool, seed: int
) -> Proxies:
    if topology is None and not listens:
        raise UsageError("in front of what? Name --topology FILE, or --listen 'eu=127.0.0.1:5541->127.0.0.1:5432'")
    loaded = load(topology) if topology is not None else None
    shards = {str(shard): shard for shard in loaded.shards} if loaded else {}
    listen = _by_shard("--listen", "LISTEN->SERVER, such as eu=127.0.0.1:5541->127.0.0.1:5432", listens, shards)
    table = _by_shard("--table", "TABLE, such as eu=orders", tables, shards)
    admin = _by_shard("--admin", "URL, such as 'eu=postgresql://postgres:${PASSWORD}@127.0.0.1/db'", admins, shards)
    owned: Any = {"admin": {shard: expanded(url) for shard, url in admin.items()}, "own": own, "tables": table}
    return Proxies(listen, seed=seed, **owned) if loaded is None else Proxies.of(loaded, listen, seed=seed, **owned)


def _by_shard(option: str, example: str, texts: Sequence[str], shards: Mapping[str, Any]) -> dict[Any, str]:
    """What is given as NAME=VALUE, by shard; `UsageError`, which repeats no value, for something else."""
    given: dict[Any, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or "://" in name:
            raise UsageError(f"{option} takes NAME={example}")
        if shards.get(name, name) in given:
            raise UsageError(f"{option} names {name!r} twice")
        given[shards.get(name, name)] = value
    return given


async def _started(proxies: Proxies, where: tuple[str, int] | None, own: bool, screen: Console) -> None:
    await proxies.start()
    many, untouched = len(proxies.addresses), "" if own else " and does not touch"
    title = f"{many} {'proxy' if many == 1 else 'proxies'}, in front of what labkit did not start{untouched}"
    lines = [title, *_lines(proxies)]
    if where is not None:
        lines.append(f"Toxiproxy's HTTP API: {await proxies.api(*where)}")
    say(screen, "\n".join(lines))


def _lines(proxies: Proxies) -> list[str]:
    return [f"  {front.name}  {front.address} -> {front.upstream}" for front in proxies._listed()]


@contextmanager
def _file(proxies: Proxies, path: Path | None, screen: Console) -> Iterator[None]:
    """During the block there is the topology file, if there is a topology."""
    if path is None:
        yield
        return
    with written(path, proxies.topology.to_toml(), "proxy"):
        say(screen, f"{path} goes through them: labkit read --topology {path}")
        yield


def _need_serve() -> None:
    try:
        need("serve")
    except MissingExtra as error:
        raise MissingExtra(f"{error}, or pass --api {OFF}") from None

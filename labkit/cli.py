"""The command line. Errors are one line on stderr: exit 2 for wrong use, 1 for what went wrong."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn

import click

from labkit import __version__
from labkit.errors import LabkitError, UsageError

__all__ = ["main"]

WRONG_USE, FAILED, INTERRUPTED = 2, 1, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """A lab bench for sharded reads: real servers, real faults, exact answers.

    \b
    Example:
      labkit demo --backend redis
    """


@cli.command()
@click.option("--backend", default="postgres", show_default=True, help="The kind of servers: postgres or redis.")
@click.option("--launcher", default="auto", show_default=True, help="What runs them: auto, docker or embedded.")
@click.option("--timeout", default=2.0, show_default=True, help="Seconds a read may take.")
@click.option("--low", type=int, help="Read only IDs from this one on.")
@click.option("--high", type=int, help="Read only IDs up to this one.")
def demo(backend: str, launcher: str, timeout: float, low: int | None, high: int | None) -> None:
    """Start three real shards, freeze one, kill another, heal both; read after each step.

    Needs neither Docker nor root, and leaves nothing behind. Launcher auto takes containers
    where a Docker engine answers and has the image, else server processes.

    \b
    Example:
      labkit demo --backend redis --timeout 1
    """
    raise SystemExit(_run(_demo(backend, launcher, timeout, low, high)))


@cli.command()
@click.option(
    "--backend", "backends", multiple=True, help="A kind of servers: postgres or redis; else all. Repeatable."
)
@click.option("--fault", "faults", multiple=True, help="A kind of fault, such as Kill; else all. Repeatable.")
@click.option("--launcher", default="auto", show_default=True, help="What runs them: auto, docker or embedded.")
@click.option("--timeout", default=2.0, show_default=True, help="Seconds a read may take.")
@click.option("--seed", default=0, show_default=True, help="What faults that draw at random draw from.")
@click.option("--reader", metavar="MODULE:FUNCTION", help="Judge this reader: async, takes {shard: url}, returns rows.")
@click.option("--json", metavar="FILE", help="Write the report as JSON; - is stdout.")
@click.option("--html", metavar="FILE", help="Write the report as one HTML page with timelines; - is stdout.")
def matrix(**options: Any) -> None:
    """Try every fault on every kind of server, and judge each read against the truth.

    Right is a read with exactly the rows of the shards that answered, exact gaps, back within its deadline, complete
    again within a second after the fault, and with nothing left behind. Exit 1 if a cell is wrong.

    A --reader of your own is called with {1: url, 2: url, 3: url}; the rows are in the tables (or Redis keys) data_1,
    data_2, data_3. It returns (id, name) pairs, mappings with id and name, or a DataFrame, ascending by id.

    \b
    Example:
      labkit matrix --backend redis --fault Kill --fault Pause
      labkit matrix --reader mine.reading:read_all --html matrix.html
    """
    from labkit.matrix.command import command

    raise SystemExit(_run(command(**options)))


async def _demo(backend: str, launcher: str, seconds: float, low: int | None, high: int | None) -> int:
    from rich.console import Console

    from labkit.demo import play
    from labkit.lab.lab import Lab
    from labkit.router import as_window

    as_window(low, high)
    console = Console()
    async with Lab(backend, launcher=launcher, timeout=seconds) as lab:
        why = f" ({lab.launcher_reason})" if lab.launcher_reason else ""
        console.print(f"{lab.backend}: {len(lab.urls)} real servers, launcher {lab.launcher}{why}", highlight=False)
        for shard, url in lab.urls.items():
            console.print(f"  shard {shard}  {url}", highlight=False)
        console.print()
        right = await play(lab, console, low, high)
    if not right:
        click.echo("labkit: a read did not return what it must; please report this", err=True)
        return FAILED
    console.print("All four reads returned exactly what they must. The servers are stopped; nothing is left.")
    return 0


def _run(command: Coroutine[Any, Any, int]) -> int:
    """Runs a command to its exit code; Ctrl-C is let through to what it has open, and is one line here."""
    try:
        return asyncio.run(command)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 all well, 1 failed, 2 wrong use, 130 Ctrl-C. Never shows a traceback."""
    try:
        cli.main(args=list(sys.argv[1:] if argv is None else argv), prog_name="labkit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        raise SystemExit(WRONG_USE) from None
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except UsageError as error:
        _fail(str(error), WRONG_USE)
    except LabkitError as error:
        _fail(str(error), FAILED)
    except click.Abort:
        _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"labkit: {' '.join(message.split())}", err=True)
    raise SystemExit(code)

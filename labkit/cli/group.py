"""The command line. Errors are one line on stderr: exit 2 for wrong use, 1 for what went wrong."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from labkit import __version__
from labkit._imports import need
from labkit.cli.exits import FAILED, WRONG_USE, ended, run_and_exit
from labkit.cli.formats import FORMATS
from labkit.cli.notebook import notebook
from labkit.errors import UsageError

__all__ = ["main"]

COMPLETING = "_LABKIT_COMPLETE"
"""Environment variable by which a shell asks click to complete a command line."""
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
"""Where the notebooks are if the package runs from a clone of its repository."""
GROUPS = {
    "See what a reader does when shards fail": ("demo", "up", "lab", "notebook", "proxy"),
    "Read your own servers": ("read", "count", "serve", "call"),
    "Judge a reader": ("matrix",),
    "Look after this machine": ("doctor", "cluster"),
}


class _Grouped(click.Group):
    """A group of commands whose help lists them by purpose."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str()) for name in names])


def _completing(module: str, name: str) -> Callable[..., list[str]]:
    """Completes the value of an option in a shell, from the names in a module that is only then loaded."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in getattr(import_module(module), name) if word.startswith(incomplete)]

    return complete


_complete_backend = _completing("labkit.lab.backends", "BACKENDS")
_backend = click.option(
    "--backend",
    default="postgres",
    show_default=True,
    shell_complete=_complete_backend,
    help="Kind of server: postgres, redis or redis-cluster.",
)
_launcher = click.option(
    "--launcher",
    default="auto",
    show_default=True,
    shell_complete=_completing("labkit.lab.launch", "LAUNCHERS"),
    help="What runs the servers: auto, docker or embedded.",
)
_timeout = click.option("--timeout", default=2.0, show_default=True, help="Deadline of a read, in seconds.")
_file_timeout = click.option("--timeout", type=float, help="Deadline of a read, in seconds; default: as in the file.")
_seed = click.option("--seed", default=0, show_default=True, help="Seed for faults that use random numbers.")
_low = click.option("--low", type=int, help="Lowest ID to read.")
_high = click.option("--high", type=int, help="Highest ID to read.")
_filters = click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="TEXT",
    help="Only rows for which this holds: 'amount>100', 'status in open,late', 'note is null'. Repeatable: all hold.",
)
_strict = click.option(
    "--strict", "--require-complete", is_flag=True, help="Write nothing and exit 1 if any ID is missing."
)
_topology = click.option("--topology", required=True, metavar="FILE", help="TOML file that lists the shards.")


@click.group(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version")
def cli() -> None:
    """A lab bench for sharded reads: real servers, real faults, exact answers.

    \b
    Example:
      labkit demo --backend redis
    """


@cli.command(short_help="Read three real shards while one freezes and one dies.")
@_backend
@_launcher
@_timeout
@_low
@_high
def demo(backend: str, launcher: str, timeout: float, low: int | None, high: int | None) -> None:
    """Start three real shards, freeze one, kill another, heal both; read after each step.

    Needs neither Docker nor root, and leaves nothing behind. Launcher auto uses containers
    if a Docker engine answers and has the image, else server processes.

    \b
    Example:
      labkit demo --backend redis --timeout 1
    """
    need("lab")
    _exit(lambda: asyncio.run(_demo(backend, launcher, timeout, low, high)))


@cli.command(short_help="Try every fault on every kind of server; judge each read.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    shell_complete=_complete_backend,
    help="Kind of server: postgres, redis or redis-cluster; default all. Repeatable.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    shell_complete=_completing("labkit.faults", "ALL"),
    help="Kind of fault, such as Kill; default all. Repeatable.",
)
@_launcher
@_timeout
@_seed
@click.option("--reader", metavar="MODULE:FUNCTION", help="Judge this reader: a function that takes {shard: url}.")
@click.option("--reader-cmd", metavar="COMMAND", help="Judge this program: JSON on stdin, JSON on stdout.")
@click.option("--reader-url", metavar="URL", help="Judge this HTTP service, asked with GET.")
@click.option(
    "--topology",
    default="labkit-matrix.toml",
    show_default=True,
    metavar="FILE",
    help="The file that tells the service of --reader-url where the shards are.",
)
@click.option(
    "--contract",
    default="gaps",
    show_default=True,
    help="What that reader promises: gaps, all-or-nothing or best-effort. labkit's own is always judged by gaps.",
)
@click.option(
    "--table",
    default="classic",
    show_default=True,
    help="What the shards hold: classic, (id, name); or wide, further columns of 16 types.",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    metavar="N",
    help="Try N cells at the same time, each in a lab of its own; for a --reader or a --reader-cmd.",
)
@click.option("--json", metavar="FILE", help="Write the report as JSON; - is stdout.")
@click.option("--html", metavar="FILE", help="Write the report as one HTML page with timelines; - is stdout.")
@click.option("--junit", metavar="FILE", help="Write the report as JUnit's XML, for CI servers; - is stdout.")
@click.option("--explain", metavar="CELL", help="Only print a script that reproduces this cell, such as 'Pause()'.")
def matrix(**options: Any) -> None:
    """Try every fault on every kind of server, and judge each read against the truth.

    A read is right if it returns exactly the rows of the shards that answered and exact gaps, in time, is complete
    again within a second after the fault, and leaves nothing behind. Exit 1 if a cell is wrong. Ctrl-C reports the
    cells tried so far and exits 130.

    Your own --reader is called with {1: url, 2: url, 3: url}; the rows are in the tables (or Redis keys) data_1,
    data_2, data_3. If it has a second parameter, it also gets {1: table, 2: table, 3: table}, and is tried on
    redis-cluster too. Rows are (id, name) pairs, mappings with id and name, or a DataFrame, ascending by id; with
    --table wide, of all its columns, with values as in JSON (times as in ISO 8601, decimals as text) or as a
    driver returns them.

    \b
    --contract gaps            it reports what is missing: {"rows": rows, "missing": [[low, high], ...]},
                               (rows, missing) or a ReadResult; rows alone only if none is missing
    --contract all-or-nothing  all rows, or an exception in time
    --contract best-effort     the rows of the shards that answered; it need not report the others

    It runs in a separate process, which is killed if a read is three seconds late; what it prints goes to stderr.
    Unless it is async, it is called in a thread.

    A --reader-cmd in any language is started for each read. On its stdin is one line of JSON: urls, tables and ranges
    by shard, timeout, key, columns. It prints {"rows": rows, "missing": [[low, high], ...]}, or the same in lines.
    A --reader-url is asked with GET for the same; the file --topology, written first, says where the shards are.

    \b
    Example:
      labkit matrix --backend redis --fault Kill --fault Pause
      labkit matrix --reader mine.reading:read_all --html matrix.html
      labkit matrix --reader mine.reading:read_all --contract all-or-nothing
      labkit matrix --reader-cmd 'node read.js' --backend postgres
      labkit matrix --reader-url http://127.0.0.1:9000/data --topology shards.toml
    """
    need("lab")
    from labkit.cli.matrix import command

    _exit(lambda: asyncio.run(command(**options)))


@cli.command(short_help="Read the shards of a topology file once.")
@_topology
@_file_timeout
@_low
@_high
@click.option("--columns", metavar="NAMES", help="Read only these besides the key: a,b; default all.")
@_filters
@click.option("--limit", type=int, help="Read one page: at most this many rows, lowest IDs first.")
@click.option("--after", type=int, help="With --limit: read the page after this ID.")
@click.option("--format", type=click.Choice(list(FORMATS)), help="Default: by the suffix of --output; table on stdout.")
@click.option("--output", metavar="FILE", default="-", show_default=True, help="File to write; - is stdout.")
@_strict
def read(**options: Any) -> None:
    """Read the shards of a topology file once, and show the rows or write them as data.

    Stdout has only data; what is missing is reported on stderr. A file is written whole or not at all. All columns are
    written, in each format as exactly as it can: JSON has 64-bit integers, decimals as text, times in ISO 8601 and
    binary in Base64. In CSV, NULL is an empty field and an empty string is ""; times, binary and lists are as in JSON.
    Parquet and Arrow keep all types, but in Parquet intervals are text; their metadata has what is missing, under
    "labkit".

    In a filter, names and values with spaces, commas or operators are quoted: '"unit price" <= 9.50'. Text compares by
    code points; no comparison with NULL holds.

    \b
    Example:
      labkit read --topology lab.toml
      labkit read --topology lab.toml --columns amount,note --filter 'amount>100' --filter 'note is not null'
      labkit read --topology lab.toml --low 15 --high 25 --format csv
      labkit read --topology lab.toml --strict --output rows.parquet
    """
    from labkit.cli.read import command

    _exit(lambda: command(**options))


@cli.command(short_help="Count the rows on the shards of a topology file.")
@_topology
@_file_timeout
@_low
@_high
@_filters
@_strict
@click.option("--json", "as_json", is_flag=True, help="Print JSON: value, at_least, at_most, missing, shards.")
def count(**options: Any) -> None:
    """Count the rows on the shards of a topology file.

    Prints one number. While a shard is missing, prints what the count is at least and at most, such as 40 to 60: each
    missing ID may be a row or not. The missing IDs and the causes are reported on stderr.

    \b
    Example:
      labkit count --topology lab.toml
      labkit count --topology lab.toml --low 15 --high 25 --filter 'status in open,late'
    """
    from labkit.cli.count import command

    _exit(lambda: command(**options))


@cli.command(short_help="Serve the shards of a topology file over HTTP, with a live page.")
@_topology
@_file_timeout
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Its port; 0 picks a free one.",
)
@click.option(
    "--circuit/--no-circuit",
    default=True,
    show_default=True,
    help="Stop querying a shard that keeps timing out; probe it occasionally.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Serve requests for this name too; * is any. Addresses, localhost and --host are always served. Repeatable.",
)
@click.option(
    "--max-connections",
    "connections",
    type=int,
    help="Concurrent connections; default 1000, at most half of `ulimit -n`.",
)
@click.option(
    "--max-windows", "windows", default=200, show_default=True, help="Different windows watched concurrently."
)
@click.option("--max-head", "head", default=16_384, show_default=True, help="Bytes of a request's line and headers.")
@click.option("--max-parameters", "parameters", default=100, show_default=True, help="Query parameters per request.")
@click.option(
    "--max-unsent", "unsent", default=128 << 20, show_default=True, help="Bytes of large answers in flight, in total."
)
@click.option("--head-timeout", default=10.0, show_default=True, help="Seconds for receiving a request's headers.")
@click.option(
    "--send-timeout", default=20.0, show_default=True, help="Seconds a client may go without reading its answer."
)
def serve(**options: Any) -> None:
    """Serve the shards of a topology file over HTTP: rows, gaps and the state of each shard, as JSON and as a page.

    SIGTERM and Ctrl-C stop it gracefully: answers in flight are finished within their deadline. Anyone who can connect
    can read: there is no password, and 127.0.0.1 is open to every user of this machine. --host 0.0.0.0 opens it to
    every network of this machine. Clients over a limit get 408, 422, 431, or 503 with Retry-After.

    \b
    Example:
      labkit serve --topology lab.toml
      curl 'http://127.0.0.1:8000/data?low=15&high=25'
    """
    need("serve")
    from labkit.cli.serve import command

    _exit(lambda: asyncio.run(command(**options)))


@cli.command(
    context_settings={"allow_interspersed_args": False},
    short_help="Send a Redis command to the node of its key, or to all nodes.",
)
@click.option(
    "--url",
    default="redis://127.0.0.1:30001",
    envvar="LABKIT_URL",  # a password in a command line is visible to other users
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="One or more cluster nodes, comma-separated; some may be down: redis://HOST:PORT,HOST:PORT. "
    "Or rediss://, redis+cluster://, with user:password@ before the first host.",
)
@click.option("--all", "everywhere", is_flag=True, help="Ask every node that the cluster knows, including replicas.")
@click.option("--masters", is_flag=True, help="With --all: ask the masters only.")
@click.option(
    "--timeout",
    "seconds",
    default=1.0,
    show_default=True,
    help="Seconds for the whole call, for any number of nodes.",
)
@click.option("--json", is_flag=True, help="Print JSON: replies and failures by node.")
@click.argument("words", metavar="COMMAND [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
def call(**options: Any) -> None:
    """Send one Redis command to the node that owns its key, or with --all to every node concurrently.

    The server tells which word is the key; redirections (MOVED, ASK) are followed; a command without a key goes to any
    node that answers. A single server that is not a cluster works too. Options come before the command.

    Replies are printed on stdout as redis-cli does. A node that fails is one line on stderr; it affects no other node's
    reply, and takes no time beyond --timeout. Exit 0 if all asked nodes replied, 1 if one failed.

    As JSON: {"answers": {"127.0.0.1:30001": ...}, "failures": {"127.0.0.1:30002": {"status": "timeout", "cause":
    ...}}}; bytes that are not UTF-8 are {"base64": ...}.

    \b
    Example:
      labkit call SET some_key 1
      labkit call --all KEYS '*'
      labkit call --url redis://127.0.0.1:30001,127.0.0.1:30002 --all --masters DBSIZE
    """
    from labkit.cli.call.command import command

    _exit(lambda: asyncio.run(command(**options)))


@cli.command(short_help="Start a lab that keeps running, and write its topology file.")
@_backend
@_launcher
@click.option("--topology", default="lab.toml", show_default=True, metavar="FILE", help="Topology file to write.")
@click.option("--force", is_flag=True, help="Overwrite that file, whoever wrote it.")
@_timeout
@_seed
def up(topology: str, force: bool, **options: Any) -> None:
    """Start a lab, write its topology file, and run until Ctrl-C; then stop the lab and remove the file.

    Meanwhile it takes commands on stdin, one per line, such as: restart 2, fault 3 Pause, heal, read, help.

    \b
    Example:
      labkit up --backend redis
      labkit read --topology lab.toml        # in another terminal
    """
    need("lab")
    _exit(lambda: asyncio.run(_up(topology, force, **options)))


@cli.command(short_help="Put network faults in front of your own servers.")
@click.option("--topology", metavar="FILE", help="TOML file that lists the servers; they are not touched.")
@click.option(
    "--listen",
    "listens",
    multiple=True,
    metavar="NAME=LISTEN->SERVER",
    help="Another server, such as eu=127.0.0.1:5541->127.0.0.1:5432; for a shard of the file NAME=LISTEN. Repeatable.",
)
@click.option("--out", default="proxy.toml", show_default=True, metavar="FILE", help="Topology file to write.")
@click.option("--force", is_flag=True, help="Overwrite that file, whoever wrote it.")
@click.option(
    "--api",
    default="127.0.0.1:8474",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to serve Toxiproxy's HTTP API; none turns it off.",
)
@click.option(
    "--admin",
    "admins",
    multiple=True,
    metavar="NAME=URL",
    help="A server's administrator, for faults inside the server; ${NAME} in it is a variable. Repeatable.",
)
@click.option(
    "--table", "tables", multiple=True, metavar="NAME=TABLE", help="What faults of a table act on there. Repeatable."
)
@click.option("--i-own-this-server", "own", is_flag=True, help="Your word, without which --admin is refused.")
@click.option("--undo", is_flag=True, help="Only undo the faults that killed processes have left inside servers.")
@_seed
def proxy(**options: Any) -> None:
    """Put proxies in front of servers that labkit did not start, and take network faults for them, until Ctrl-C.

    With --topology, a file that goes through the proxies is written, and removed in the end; only the addresses in it
    differ. Faults are given on stdin, one command per line, such as: fault eu Latency(200), list, heal, help; and by
    Toxiproxy's HTTP API, for its clients. Anyone who can connect may use the API: 127.0.0.1 is open to every user of
    this machine.

    With --admin and --i-own-this-server, faults inside a server are taken too. What undoes them is in a private file
    until it is done. If this process is killed, --undo does it: it names what it undid, exits 1 if something could not
    be undone, and leaves the faults of running processes alone.

    \b
    Example:
      labkit proxy --topology mine.toml
      labkit read --topology proxy.toml        # in another terminal
      labkit proxy --listen 'eu=127.0.0.1:5541->127.0.0.1:5432' --api none
      labkit proxy --topology mine.toml --admin 'eu=redis://ops:${PASSWORD}@127.0.0.1:6379' --i-own-this-server
      labkit proxy --undo
    """
    need("lab")
    from labkit.cli.proxy import command

    _exit(lambda: asyncio.run(command(**options)))


@cli.command(short_help="Open JupyterLab on the notebooks.")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def lab(folder: Path | None) -> None:
    """Open JupyterLab on the notebooks, or on DIR.

    labkit's notebooks are in its repository; where only the package is installed, name a folder.
    Ctrl-C ends JupyterLab.

    \b
    Example:
      labkit lab
      labkit lab my-notebooks
    """
    _exit(lambda: _lab(folder))


@cli.command(short_help="Say what labs can use on this machine, and what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: version, python, labs, findings.")
def doctor(as_json: bool) -> None:
    """Say what is here for labs, and what to do about the rest: server programs, Docker and its images, extras, limits.

    Starts no server, installs nothing, and waits at most eight seconds for a Docker engine. Exit 0 if a lab can run
    with some launcher, 1 if none can.

    \b
    Example:
      labkit doctor
      labkit doctor --json
    """
    from labkit.cli.doctor.report import command

    _exit(lambda: command(as_json))


@cli.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
    short_help="Run servers that keep running: a Redis Cluster, or by compose.",
)
@click.argument("words", metavar="VERB [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
def cluster(words: tuple[str, ...]) -> None:
    """Run create-cluster: a standing Redis Cluster of server processes on this machine, without Docker or root.

    All verbs but two are those of the script, which also explains them: labkit cluster start --help. Its data is in
    ~/.local/state/labkit-cluster or --dir, never beside the script.

    \b
    compose ARGS  Docker Compose on three Postgres and three Redis servers
    path          print the folder of script, compose file and image recipes:
                  cp -r "$(labkit cluster path)" mine

    \b
    Example:
      labkit cluster start --replicas 1
      labkit cluster create
      labkit cluster nodes
      labkit cluster stop
      labkit cluster compose up --detach
      labkit read --topology "$(labkit cluster path)/lab.toml"
    """
    from labkit.cli.cluster import command

    _exit(lambda: command(words))


cli.add_command(notebook)


def _exit(command: Callable[[], int]) -> NoReturn:
    """Exits with the command's code. click itself would treat an EOFError as Ctrl-C and print a blank line first."""
    raise click.exceptions.Exit(ended(command))


def _lab(folder: Path | None) -> NoReturn:
    """Replaces this process by JupyterLab, which then receives all signals itself."""
    if folder is None and not (NOTEBOOKS / "00_index.ipynb").exists():
        raise UsageError("labkit's notebooks are in its repository, not here: name a folder (labkit lab DIR)")
    folder = folder or NOTEBOOKS
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is not a folder: name the one with your notebooks (labkit lab DIR)")
    need("notebooks")
    sys.stdout.flush()
    root = f"--ServerApp.root_dir={folder.absolute()}"
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", root])  # noqa: S606


async def _up(topology: str, force: bool, **options: Any) -> int:
    from labkit.cli.up.session import up
    from labkit.lab.lab import Lab

    return await up(Lab(**options), Path(topology), force)


async def _demo(backend: str, launcher: str, seconds: float, low: int | None, high: int | None) -> int:
    from labkit._streams import console
    from labkit.cli.demo import play
    from labkit.cli.up.session import introduce
    from labkit.lab.lab import Lab
    from labkit.router import as_window

    as_window(low, high)
    out = console()
    async with Lab(backend, launcher=launcher, timeout=seconds) as lab:
        introduce(lab, out)
        out.print()
        right = await play(lab, out, low, high)
    if not right:
        click.echo("labkit: a read did not return what it should; please report this", err=True)
        return FAILED
    out.print("All four reads returned exactly what they should. The servers are stopped; nothing is left.")
    return 0


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 success, 1 failure, 2 wrong use, 130 Ctrl-C, 141 nobody reads stdout any more.

    Never prints a traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    run_and_exit(lambda: _run(words))


def _run(words: list[str]) -> int:
    """Runs the command line `words`; without a command, prints the help and returns the code for wrong use."""
    try:
        code: int | None = cli.main(args=words or ["--help"], prog_name="labkit", standalone_mode=False)
    except SystemExit as end:
        if COMPLETING in os.environ:
            return end.code if isinstance(end.code, int) else FAILED
        raise BrokenPipeError from None  # otherwise, click exits in this mode only for a broken pipe
    return (code or 0) if words else WRONG_USE

"""The failure matrix: labkit's own reader passes it, and wrong readers fail it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import psutil
import pyarrow as pa
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from labkit import CLASSIC, ShardReader, Status, faults
from labkit.cli import main
from labkit.faults import ALL
from labkit.lab.backends import BACKENDS
from labkit.matrix import run
from labkit.matrix.cells import cells
from labkit.matrix.contract import Contract
from labkit.matrix.dataset import dataset
from labkit.merge import merge
from labkit.shards import PostgresShard, RedisShard
from labkit.tables import SCHEMA
from tests.support import readers
from tests.support.forms import command, in_a_thread, served
from tests.support.watching import becomes_true, command_line, folders, freeze, keepers, running, status, tree

ROOT = Path(__file__).parents[2]
LABKIT = [sys.executable, "-m", "labkit"]
PLAIN = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
COLUMNS = dataset("wide").schema.names
BY_NUMBER = ("postgres", "redis")
"""Backends where the table of shard N is data_N."""


def matrix(*arguments: Any, cwd: Path = ROOT, patience: float = 60) -> subprocess.CompletedProcess[str]:
    command = [*LABKIT, "matrix", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience, env=PLAIN, cwd=cwd)


async def caught(
    reader: Any, *faults: str, backend: str = "redis", contract: str = "best-effort"
) -> dict[str, set[str]]:
    """The kinds of complaints about each wrong cell, by its title."""
    report = await run(
        backends=[backend],
        faults=faults,
        launcher="embedded",
        timeout=readers.TIMEOUT,
        reader=reader,
        contract=contract,
    )
    assert len(report.cells) > len(faults)
    return {outcome.cell.title: {str(c.kind) for c in outcome.complaints} for outcome in report.wrong}


@pytest.mark.parametrize("backend", BY_NUMBER)
@pytest.mark.timeout(120)
async def test_a_right_reader_of_somebody_else_passes_all(backend: str) -> None:
    """A right reader that is not labkit's passes the whole matrix."""
    assert await caught(readers.right, backend=backend) == {}


async def test_a_reader_with_a_second_parameter_is_told_the_keys() -> None:
    """A reader with a second parameter gets the shards' keys, which have hash tags in a cluster."""

    async def read(urls: dict[int, str], keys: dict[int, str]) -> list[tuple[Any, Any]]:
        async def kept(shard: int) -> list[tuple[Any, Any]]:
            try:
                async with asyncio.timeout(readers.TIMEOUT), Redis.from_url(urls[shard], protocol=2) as client:
                    return [tuple(json.loads(member)) for member in await client.zrange(keys[shard], 0, -1)]
            except (RedisError, OSError):
                return []

        return sorted(row for rows in await asyncio.gather(*map(kept, urls)) for row in rows)

    report = await run(
        backends=["redis-cluster"],
        faults=["Kill", "Pause", "LostIdentity"],
        launcher="embedded",
        timeout=0.5,
        reader=read,
        contract="best-effort",
    )
    assert report.right, report.wrong
    assert len(report.cells) > 4


@pytest.mark.parametrize("backend", BY_NUMBER)
async def test_a_reader_that_asks_one_after_the_other_is_late(backend: str) -> None:
    """A sequential reader survives one silent shard; two take twice the time, and it is late."""
    assert await caught(readers.sequential, "Pause", "Kill", backend=backend) == {"Pause() on 2, 3": {"late"}}


async def test_a_reader_that_keeps_half_an_answer_has_wrong_rows() -> None:
    """A reader that keeps half an answer has wrong rows when a connection breaks or stalls after the first page."""
    assert await caught(readers.half, "LimitData", "ResetPeer", "Bandwidth", "Kill") == {
        "LimitData(200)": {"rows"},
        "ResetPeer(after_bytes=200)": {"rows"},
        "Bandwidth(0.4)": {"rows"},
    }


@pytest.mark.parametrize("backend", BY_NUMBER)
async def test_a_reader_that_tidies_up_has_wrong_rows(backend: str) -> None:
    """A reader that drops impossible rows but keeps the shard's other rows is wrong: none of them can be trusted."""
    lies = {"DuplicateIds", "ForeignIds", "NullIds"}
    assert await caught(readers.dedupe, *lies, "MissingRows", backend=backend) == {f"{lie}()": {"rows"} for lie in lies}


async def test_a_reader_with_timeouts_of_single_operations_overruns() -> None:
    """A reader with a timeout per operation is late on a trickle: each byte is in time, the answer is not."""
    assert await caught(readers.overruns, "Slicer", "Bandwidth", "Pause") == {
        "Slicer(delay=100000)": {"late"},
        "Bandwidth(0.4)": {"late"},
    }


async def test_a_reader_that_sorts_as_text_is_out_of_order() -> None:
    """A reader that sorts IDs as text is out of order in every cell with rows, even without a fault."""
    assert await caught(readers.text_sort, "Kill") == {"no fault": {"order"}, "Kill()": {"order"}}


@pytest.mark.parametrize("backend", BY_NUMBER)
async def test_a_reader_that_raises_is_caught(backend: str) -> None:
    """A reader that raises is wrong: it loses the rows of the shards that answered."""
    assert await caught(readers.raising, "Kill", "Latency", backend=backend) == {
        "Kill()": {"raised"},
        "Kill() on 1, 2, 3": {"raised"},
        "Latency(750)": {"raised"},
    }


async def test_a_reader_that_leaves_tasks_behind_is_caught() -> None:
    """A task still running once the shard is healthy again is reported as left behind."""
    assert await caught(readers.leaking, "Down") == {"Down()": {"left behind"}}
    assert readers.LEAKED == []  # it read in a separate process


PLANTED: dict[str, tuple[str, dict[str, set[str]]]] = {
    "right": ("best-effort", {}),
    "sequential": ("best-effort", {"Pause() on 2, 3": {"late"}}),
    "half": ("best-effort", {"LimitData(200)": {"rows"}}),
    "dedupe": ("best-effort", {"DuplicateIds()": {"rows"}}),
    "overruns": ("best-effort", {"Slicer(delay=100000)": {"late"}}),
    "text_sort": ("best-effort", {"no fault": {"order"}, "Down()": {"order"}}),
    "raising": ("best-effort", {"Down()": {"raised"}}),
    "silent": ("gaps", {"Down()": {"silent gap"}}),
    "blocking": ("best-effort", {"Down()": {"late"}}),
    "holding": ("best-effort", {"Down()": {"left behind"}}),
    "crashing": ("best-effort", {"Down()": {"crashed"}}),
}
"""Wrong readers, their contracts, and the cells in which they are caught."""
CAUSES = {
    "async": {"holding": "1 socket to shard 3 more than before", "crashing": "its process was killed by SIGSEGV"},
    "sync": {"holding": "1 socket to shard 3 more than before", "crashing": "its process was killed by SIGSEGV"},
    "cmd": {"holding": "1 child process more than before", "crashing": "exited 139 (SIGSEGV)"},
    "url": {
        "holding": "1 socket to shard 3 more than before",
        "crashing": "it closed the connection without an answer (RemoteDisconnected)",
    },
}
"""What is said of some, by their form."""


BY_OTHERS = {("async", name) for name in PLANTED if name not in CAUSES["async"]}
"""Tests of their own try these."""
TOO_CLOSE = {("cmd", "sequential"), ("url", "sequential")}
"""They are late by only 0.15 s, and a whole program may wait longer than that for a processor."""
TRIED = [(form, name) for form in CAUSES for name in PLANTED if (form, name) not in BY_OTHERS | TOO_CLOSE]


@pytest.mark.parametrize(("form", "name"), TRIED)
async def test_the_same_mistake_is_caught_in_every_form(name: str, form: str, tmp_path: Path) -> None:
    """Each planted mistake is caught in the same cells, as an async or plain function, a command or a service."""
    contract, expected = PLANTED[name]
    backend, reader = "redis", "right" if name == "silent" else name
    fault = {"half": "LimitData", "dedupe": "DuplicateIds", "overruns": "Slicer", "sequential": "Pause"}.get(
        name, "Down"
    )
    options: dict[str, Any] = {"topology": str(tmp_path / "shards.toml")}
    with ExitStack() as stack:
        match form:
            case "async":
                options["reader"] = getattr(readers, reader)
            case "sync":
                options["reader"] = in_a_thread(reader)
            case "cmd":
                options["reader_cmd"] = command(reader)
            case "url":
                options["reader_url"] = stack.enter_context(served(reader))
        report = await run(
            backends=[backend],
            faults=[fault],
            launcher="embedded",
            timeout=readers.TIMEOUT,
            contract=contract,
            **options,
        )
    found = {outcome.cell.title: {str(c.kind) for c in outcome.complaints} for outcome in report.wrong}
    for kinds in found.values():
        if form == "async":
            kinds.discard("blocked")  # only an event loop can be
    assert found == expected, [str(c) for outcome in report.wrong for c in outcome.complaints]
    if (cause := CAUSES[form].get(name)) is not None:
        assert cause in {c.text for outcome in report.wrong for c in outcome.complaints}
    assert os.listdir(tmp_path) == []


async def test_a_wrong_cell_shows_what_the_proxies_saw() -> None:
    """Per shard: who was asked, who answered; whose socket is left. Connections of other processes do not count."""
    report = await run(
        backends=["redis"],
        faults=["Down"],
        launcher="embedded",
        timeout=readers.TIMEOUT,
        contract="best-effort",
        reader=readers.holding,
    )
    [wrong] = report.wrong
    (title, lines), (left, sockets) = wrong.evidence
    assert title.startswith("What the proxies saw, in seconds since the read began; it took 0.")
    asked = r"connected \d\.\d{3} s, asked 0\.[\d–.]+ s \(\d+ bytes\), answered 0\.[\d–.]+ s \([\d,]+ bytes\)"
    ends = r"(open|closed \d\.\d{3} s by the reader)"  # the proxy may not have noticed yet
    assert re.fullmatch(rf"shard 1: {asked}, {ends}", lines[0])
    assert lines[1] == "shard 2: no connection"
    assert re.fullmatch(rf"shard 3: {asked}, {ends}", lines[2])
    assert left == "Left open"
    assert len(sockets) == 1
    assert re.fullmatch(r"shard 3: 1 connection, made -?\d+\.\d{3} s", sockets[0])
    [cell] = [cell for cell in report.to_dict()["cells"] if cell["verdict"] == "wrong"]
    assert [one["shard"] for one in cell["left"]] == ["3"]


async def test_cells_are_tried_side_by_side() -> None:
    """With two jobs there are two labs and two readers; the report is the same, in the same order."""
    once, twice = [
        await run(
            backends=["redis"],
            faults=["Kill", "LimitData", "Empty"],
            launcher="embedded",
            timeout=readers.TIMEOUT,
            reader=readers.half,
            jobs=jobs,
        )
        for jobs in (1, 2)
    ]
    assert once.frame.equals(twice.frame)
    assert not once.right


@pytest.mark.parametrize(("backend", "source"), [("postgres", PostgresShard), ("redis", RedisShard)])
async def test_a_reader_that_is_labkits_is_judged_by_its_report(backend: str, source: Any) -> None:
    """A reader may return a `ReadResult`; its gaps and statuses are judged too."""

    async def read(urls: dict[int, str]) -> Any:
        shards = {shard: source(url, f"data_{shard}") for shard, url in urls.items()}
        async with ShardReader(CLASSIC, shards, timeout=readers.TIMEOUT) as reader:
            return await reader.read()

    report = await run(backends=[backend], faults=["Kill", "Pause"], launcher="embedded", timeout=0.5, reader=read)
    assert report.right, report.wrong
    assert [outcome.status for outcome in report.cells][:3] == ["ok", "unreachable", "timeout"]


async def nothing_checked(answer: Any, ranges: Any) -> Any:
    ids, names = zip(*answer, strict=True)
    return pa.Table.from_arrays([pa.array([int(i) for i in ids]), pa.array(names)], schema=SCHEMA)


def last_range_lost(plan: Any, answers: Any, schema: Any) -> Any:
    yield merge(plan, answers, schema).slice(0, 35)


MUTANTS = {
    "checked": (nothing_checked, "ForeignIds", {"rows", "gap", "status", "order"}),
    "join_parts": (lambda plan, shards: (), "Kill", {"silent gap"}),
    "merge_parts": (last_range_lost, "Kill", {"rows", "gap", "status"}),
    "classify": (lambda *_: (Status.INVALID, "?"), "Kill", {"status"}),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_labkits_own_reader_is_caught_when_it_is_broken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchecked answers, unreported gaps, lost rows and wrong statuses in labkit itself are caught, warm and cold."""
    change, fault, kinds = MUTANTS[name]
    monkeypatch.setattr(f"labkit.scatter.{name}", change)
    report = await run(backends=["redis"], faults=[fault], launcher="embedded", timeout=0.5)
    [outcome] = [outcome for outcome in report.wrong if outcome.cell.title == f"{fault}()"]
    by_reader = {who: {str(c.kind) for c in outcome.complaints if c.reader == who} for who in ("warm", "cold")}
    assert by_reader["warm"] == by_reader["cold"]
    assert by_reader["warm"] & kinds


@dataclass(frozen=True)
class Unable(faults.Fault):
    """A fault that cannot be started."""

    layer: ClassVar[str] = "network"

    async def start(self, target: faults.Target, undo: faults.Undo) -> None:
        raise OSError("no way")

    @classmethod
    def samples(cls, timeout: float) -> list[faults.Sample]:
        return [faults.Sample.of(cls(), {Status.OK})]


@dataclass(frozen=True)
class Idle(Unable):
    """A fault that acts on no connection."""

    @classmethod
    def samples(cls, timeout: float) -> list[faults.Sample]:
        return [faults.Sample.of(faults.Latency(1, toxicity=0), {Status.OK})]


@dataclass(frozen=True)
class Lasting(Unable):
    """A fault that cannot be undone."""

    async def start(self, target: faults.Target, undo: faults.Undo) -> None:
        undo.push(partial(super().start, target, undo))


async def test_a_fault_that_does_not_do_what_it_should_is_a_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that never fires, fails to start or is not undone is a complaint, and does not harm the next cell."""
    for kind in (Idle, Unable, Lasting):
        monkeypatch.setitem(ALL, kind.__name__, faults.Entry.of(kind))
    report = await run(
        backends=["redis"], faults=["Idle", "Latency", "Unable", "Lasting", "Kill"], launcher="embedded", timeout=0.5
    )
    assert {outcome.cell.title: [str(c.kind) for c in outcome.complaints] for outcome in report.wrong} == {
        "Latency(1, toxicity=0)": ["never fired"],
        "Unable()": ["not started"],
        "Lasting()": ["not healed"],
    }
    assert report.cells[-1].cell.title == "Kill() on 1, 2, 3"


async def test_a_report_for_notebooks_has_no_times() -> None:
    """A report's frame and HTML are the same in every run, so stored notebook outputs can be compared."""
    report = await run(backends=["redis"], faults=["Kill", "Pause"], launcher="embedded", timeout=0.5)
    assert report.frame.to_dict("list") == {
        "fault": ["no fault", "Kill()", "Pause()", "Pause() on 2, 3", "Kill() on 2, Pause() on 3", "Kill() on 1, 2, 3"],
        "backend": ["redis"] * 6,
        "status": ["ok", "unreachable", "timeout", "timeout", "unreachable + timeout", "unreachable"],
        "verdict": ["right"] * 6,
    }
    again = await run(backends=["redis"], faults=["Kill", "Pause"], launcher="embedded", timeout=0.5)
    assert report._repr_html_() == again._repr_html_()


def run_whole(launcher: str, seconds: float, tmp_path: Path, *names: str, table: str = "classic") -> dict[str, Any]:
    """Runs the command with this timeout, for all faults or the named ones; returns the JSON report."""
    files = ["--json", tmp_path / "matrix.json", "--html", tmp_path / "matrix.html"]
    chosen = [word for name in names for word in ("--fault", name)]
    done = matrix("--launcher", launcher, "--timeout", seconds, "--table", table, *chosen, *files, patience=560)
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "matrix.json").read_text())
    assert re.search(rf"^{len(report['cells'])} cells: {report['right']} right, 0 wrong, in \d+ s$", done.stdout, re.M)
    look_at(Page((tmp_path / "matrix.html").read_text()), report)
    return report  # type: ignore[no-any-return]


def check_whole(report: dict[str, Any], launcher: str, seconds: float, *names: str) -> None:
    """Asserts that every fault (or named fault) has its cells, on every backend it can act on, all right."""
    tried = {(cell["backend"], cell["title"]) for cell in report["cells"]}
    wanted = [(backend, cell.title) for backend in BACKENDS for cell in cells(backend, launcher, seconds, names)]
    assert len(wanted) == len(report["cells"])
    assert tried == set(wanted)
    kinds = {sample["kind"] for cell in report["cells"] for samples in cell["faults"].values() for sample in samples}
    known = {name for name, entry in ALL.items() if launcher == "docker" or entry.layer != "container"}
    assert kinds == (set(names) or known)
    assert (report["right"], report["wrong"]) == (len(wanted), 0)
    assert [cell["complaints"] for cell in report["cells"] if cell["complaints"]] == []
    reads = [read for cell in report["cells"] for read in cell["reads"]]
    assert len(reads) == 2 * len(wanted)
    assert max(read["elapsed"] - read["starved"] for read in reads) <= seconds + 0.05
    assert max(cell["healed"] for cell in report["cells"]) <= 1.0


@pytest.mark.timeout(600)
def test_the_whole_matrix_is_right_on_server_processes(tmp_path: Path) -> None:
    """Every fault on every backend of server processes is right, with two seconds per read."""
    check_whole(run_whole("embedded", 2, tmp_path), "embedded", 2)


@pytest.mark.timeout(600)
def test_the_whole_matrix_is_right_with_a_wide_table(tmp_path: Path) -> None:
    """Every fault on every backend is right where a row has eighteen values, with one second per read."""
    report = run_whole("embedded", 1, tmp_path, table="wide")
    check_whole(report, "embedded", 1)
    assert report["table"] == "wide"


async def every_column(urls: dict[int, str]) -> dict[str, Any]:
    """A reader of all columns by asyncpg: Python objects, as the driver makes them, and the exact gaps."""

    async def whole(shard: int) -> list[Any]:
        async with asyncio.timeout(readers.TIMEOUT):
            connection = await asyncpg.connect(urls[shard], timeout=readers.TIMEOUT)
            try:
                rows = await connection.fetch(f"SELECT * FROM data_{shard} ORDER BY id")
            finally:
                connection.terminate()
        if any(list(row.keys()) != COLUMNS for row in rows) or not readers.can_be(shard, [row[:2] for row in rows]):
            raise ValueError(f"these cannot be the rows of shard {shard}")
        return rows

    answers = dict(zip(urls, await asyncio.gather(*map(whole, urls), return_exceptions=True), strict=True))
    there = {shard: rows for shard, rows in answers.items() if not isinstance(rows, BaseException)}
    missing = [gap for shard, gaps in CLASSIC.prune().items() if shard not in there for gap in gaps]
    found = [row for rows in there.values() for row in rows]
    return {"rows": sorted(found, key=lambda row: row["id"]), "missing": missing}


async def rounds(urls: dict[int, str]) -> dict[str, Any]:
    """The same, but decimals become floats on the way."""
    answer = await every_column(urls)
    rows = [{**row, "exact": None if row["exact"] is None else float(row["exact"])} for row in answer["rows"]]
    return {**answer, "rows": rows}


@pytest.mark.timeout(120)
async def test_every_column_of_another_reader_is_judged() -> None:
    """A reader that returns the driver's objects is right; one that rounds a single column is wrong in every cell."""
    asked = {"backends": ["postgres"], "launcher": "embedded", "timeout": readers.TIMEOUT, "table": "wide"}
    names = ["Kill", "Pause", "DuplicateIds", "MissingRows", "DropTable"]
    report = await run(**asked, faults=names, reader=every_column)
    assert report.right, report.wrong
    report = await run(**asked, faults=["Kill"], reader=rounds)
    assert len(report.wrong) == len(report.cells) >= 3
    [complaint, *_] = report.wrong[0].complaints
    assert str(complaint).startswith("rows (yours): the exact of row ")


def test_an_unknown_table_is_one_line() -> None:
    """The command names the value and what there is, and exits 2."""
    ended = matrix("--table", "wied")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == ["labkit: unknown table 'wied'; did you mean wide?"]


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_the_matrix_is_right_in_containers(tmp_path: Path) -> None:
    """Faults of containers, alone and combined, are right with one second per read. All other faults use the same proxy
    and commands as with server processes.
    """
    names = [name for name, entry in ALL.items() if entry.layer in ("process", "container")] + ["Latency", "Slicer"]
    check_whole(run_whole("docker", 1, tmp_path, *names), "docker", 1, *names)


class Page(HTMLParser):
    """The tags, with their attributes, and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def look_at(page: Page, report: dict[str, Any]) -> None:
    """Asserts that the page is self-contained, with a link and timelines for each cell."""
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any("src" in attrs or (attrs.get("href") or "#")[0] != "#" for _, attrs in page.tags)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {f"#{i}" for i in ids} >= {attrs["href"] for attrs in page.all("a")}
    assert len(page.all("a")) == len(report["cells"])
    assert len(page.all("svg")) == 2 * len(report["cells"])
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert f"{report['right']} of {len(report['cells'])} cells right" in page.text


def test_a_cell_that_is_wrong_is_shown_and_is_exit_1(tmp_path: Path) -> None:
    """A wrong cell shows in the table, below it, in JSON and, expanded, on the page; the exit code is 1."""
    files = ["--json", tmp_path / "it.json", "--html", tmp_path / "it.html"]
    chosen = ["--backend", "redis", "--fault", "Kill", "--timeout", 0.5, "--launcher", "embedded"]
    done = matrix(*chosen, *files, "--reader", "tests.support.readers:raising")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "redis 1/3 no fault: right", "redis 2/3 Kill(): wrong (raised)", "redis 3/3 Kill() on 1, 2, 3: wrong (raised)",
    ]  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["Kill()", "✗", "raised"] in [line[:3] for line in lines]
    assert ["no", "fault", "✓", "60", "rows"] in [line[:5] for line in lines]
    assert "raised (yours): ConnectionError" in done.stdout
    assert "3 cells: 1 right, 2 wrong" in done.stdout
    report = json.loads((tmp_path / "it.json").read_text())
    assert [cell["verdict"] for cell in report["cells"]] == ["right", "wrong", "wrong"]
    assert report["reader"] == "tests.support.readers:raising"
    page = Page((tmp_path / "it.html").read_text())
    assert ["open" in attrs for attrs in page.all("details")] == [False, True, True]
    assert "2 of 3 cells wrong" in page.text


def test_a_reader_of_the_current_directory_is_found(tmp_path: Path) -> None:
    """A reader in the current directory needs no installation; `--json -` gets stdout to itself."""
    (tmp_path / "mine.py").write_text(
        "class Reading:\n    async def all(self, urls):\n        return []\n\nit = Reading()\n"
    )
    chosen = ["--backend", "redis", "--fault", "Empty", "--timeout", 0.3, "--launcher", "embedded"]
    done = matrix(*chosen, "--reader", "mine:it.all", "--json", "-", cwd=tmp_path)
    assert done.returncode == 1
    assert [cell["complaints"][0]["kind"] for cell in json.loads(done.stdout)["cells"]] == ["rows", "rows"]
    assert "2 cells: 0 right, 2 wrong" in done.stderr


BAD_MODULES = {
    "broken.py": "import nothing_like_it\n",
    "plain.py": "read = 7\n",
    "quits.py": "raise SystemExit(3)\n",
    "one.py": "async def read(urls):\n    return []\n",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "mysql"], "unknown backend 'mysql': choose one of postgres, redis"),
        (["--launcher", "podman"], "'podman'"),
        (["--fault", "Kil"], "unknown fault 'Kil'; did you mean Kill?"),
        (
            ["--fault", "LockTable", "--backend", "redis"],
            "LockTable acts on postgres, not on redis: choose backend postgres",
        ),
        (["--fault", "Disconnect", "--launcher", "embedded"], "Disconnect acts on a container"),
        (["--contract", "hope"], "unknown contract 'hope': choose gaps, all-or-nothing, best-effort"),
        (["--timeout", "0"], "timeout must be a positive number of seconds, not 0.0"),
        (["--reader", "mine"], "reader 'mine' is not module:function, as in mine.reading:read_all"),
        (
            ["--reader", "nowhere:read"],
            "reader 'nowhere:read' cannot be imported (ModuleNotFoundError: No module named",
        ),
        (["--reader", "broken:read"], "No module named 'nothing_like_it'"),
        (["--reader", "quits:read"], "reader 'quits:read' cannot be imported (SystemExit: 3)"),
        (
            ["--reader", "one:read", "--backend", "redis-cluster"],
            "keys in a redis-cluster have hash tags: give the reader",
        ),
        (["--reader", "plain:other"], "module 'plain' has no 'other'; check the name after the colon"),
        (["--reader", "plain:read"], "reader 'plain:read' is not a function: write `def` or `async def`"),
        (["--json", "no/such/it.json"], "--json 'no/such/it.json' cannot be written: there is no directory 'no/such'"),
        (["--html", "."], "--html '.' cannot be written: it is a directory"),
        (["--html", "-", "--json", "-"], "--json and --html cannot both be '-': name two files"),
        (["--junit", "it.xml", "--html", "it.xml"], "--html and --junit cannot both be 'it.xml': name two files"),
        (["--reader-cmd", "no-such-program"], "no program 'no-such-program' is on the PATH"),
        (["--reader-url", "http://example.com/data"], "is not on this machine"),
        (
            ["--reader-url", "http://127.0.0.1:1/", "--topology", "one.py"],
            "'one.py' exists and was not written by labkit",
        ),
        (
            ["--reader-url", "http://127.0.0.1:1/", "--reader-cmd", "ls"],
            "a command and a URL are three readers: name one",
        ),
        (["--jobs", "2"], "2 jobs need a reader of yours"),
        (["--jobs", "0", "--reader", "plain:read"], "jobs must be a whole number from 1, not 0"),
        (["--jobs", "2", "--reader-url", "http://127.0.0.1:1/"], "2 jobs cannot share a service"),
        (["--explain", "Kil()"], "unknown cell 'Kil()'; did you mean Kill()?"),
    ],
)
def test_wrong_use_is_one_line_before_anything_starts(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Wrong use is one line that names value and fix, with exit 2, before anything starts or goes to stdout."""
    for name, text in BAD_MODULES.items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["matrix", *arguments])
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert words in err
    assert err.startswith("labkit: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "it.json").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("reader", ["", "blocks:read"])
def test_ctrl_c_reports_what_was_tried_and_stops_everything(sign: signal.Signals, reader: str, tmp_path: Path) -> None:
    """Ctrl-C, even while a reader blocks: exit 130, all formats report the cells so far, and nothing is left."""
    (tmp_path / "blocks.py").write_text(
        "from tests.support import readers\nimport time\n"
        "async def read(urls):\n    rows = await readers.right(urls)\n"
        "    if len(rows) < 60: time.sleep(60)\n    return rows\n"
    )
    chosen = ["--backend", "redis", "--fault", "Pause", "--timeout", "30", "--launcher", "embedded", "--json", "-"]
    chosen += ["--html", "it.html", *(["--reader", reader] if reader else [])]
    with subprocess.Popen(
        [*LABKIT, "matrix", *chosen],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**PLAIN, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    ) as command:
        assert becomes_true(lambda: psutil.STATUS_STOPPED in map(status, tree(command.pid)[1:]))
        below = tree(command.pid)[1:]
        its_own = folders_of(below)
        command.send_signal(sign)
        out, err = command.communicate()
    report = json.loads(out)
    assert command.returncode == 130
    assert (report["interrupted"], [cell["title"] for cell in report["cells"]]) == (True, ["no fault"])
    assert err.splitlines()[0] == "redis 1/3 no fault: right"
    assert "1 cell: 1 right, 0 wrong" in err
    assert err.endswith("; interrupted\nlabkit: interrupted\n")
    assert "Traceback" not in err
    assert "1 of 1 cell right, interrupted" in Page((tmp_path / "it.html").read_text()).text
    assert becomes_true(lambda: not running(below)), running(below)
    assert len(its_own) == 1
    assert not its_own & folders()


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    """A second Ctrl-C ends the command while it still handles the first, and nothing is left."""
    chosen = ["--backend", "postgres", "--fault", "Pause", "--timeout", "30", "--launcher", "embedded"]
    with subprocess.Popen(
        [*LABKIT, "matrix", *chosen], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=PLAIN
    ) as command:
        assert becomes_true(lambda: psutil.STATUS_STOPPED in map(status, tree(command.pid)[1:]))
        below = tree(command.pid)[1:]
        its_own = folders_of(below)
        for process in keepers(below):  # delays the handling of the first Ctrl-C
            freeze(process)
        command.send_signal(signal.SIGINT)
        assert becomes_true(lambda: unread(command.pid, signal.SIGINT))
        command.send_signal(signal.SIGINT)
        command.wait(timeout=10)
        for process in keepers(below):
            with suppress(psutil.NoSuchProcess):  # its reaper has resumed it already
                process.resume()
        out, err = command.communicate()
    assert (command.returncode, out) == (130, "")
    assert err.endswith("labkit: interrupted\n")
    assert becomes_true(lambda: not running(below)), running(below)
    assert not its_own & folders()


def unread(pid: int, sign: signal.Signals) -> bool:
    """Whether the process has taken the signal: it is no longer pending."""
    pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return pending is not None and not int(pending[1], 16) & 1 << sign - 1


def folders_of(processes: list[psutil.Process]) -> set[Path]:
    """The lab folders named in the command lines of these processes."""
    told = " ".join(word for process in processes for word in command_line(process))
    return {folder for folder in folders() if str(folder) in told}


READERS = """
import asyncio, os, sys, time
from labkit import CLASSIC
from tests.support import readers
from tests.support.forms import command, in_a_thread, served

async def silent(urls):
    return await readers.right(urls)

async def admits(urls):
    rows = await readers.right(urls)
    there = {CLASSIC.locate(i) for i, _ in rows}
    return {"rows": rows, "missing": [pair for s, pairs in CLASSIC.prune().items() if s not in there for pair in pairs]}

async def pairs(urls):
    told = await admits(urls)
    return told["rows"], told["missing"][::-1]

async def one_gap(urls):
    told = await admits(urls)
    return told["rows"], told["missing"][:1]

async def always(urls):
    return await readers.right(urls), [[11, 20], [41, 50]]

async def raising(urls):
    return await readers.raising(urls)

async def raising_late(urls):
    try:
        return await readers.raising(urls)
    except Exception:
        await asyncio.sleep(1)
        raise

async def blocking(urls):
    rows = await readers.right(urls)
    if len(rows) < 60:
        time.sleep(60)
    return rows

async def crashing(urls):
    rows = await readers.right(urls)
    if len(rows) < 60:
        os._exit(3)
    return rows

async def noisy(urls):
    print("noise")
    os.chdir("/")
    return await admits(urls)
"""
NO_FAULT, KILL, EVERY = "no fault", "Kill()", "Kill() on 1, 2, 3"
CONTRACTS: list[tuple[str, str, dict[str, set[str]]]] = [
    ("silent", "gaps", {KILL: {"silent gap"}, EVERY: {"silent gap"}}),
    ("silent", "best-effort", {}),
    ("admits", "gaps", {}),
    ("admits", "all-or-nothing", {KILL: {"gap"}, EVERY: {"gap"}}),
    ("pairs", "gaps", {}),
    ("noisy", "gaps", {}),
    ("one_gap", "gaps", {KILL: {"silent gap"}, EVERY: {"silent gap"}}),
    ("always", "gaps", {NO_FAULT: {"gap", "not healed"}, KILL: {"not healed"}, EVERY: {"silent gap", "not healed"}}),
    ("raising", "all-or-nothing", {}),
    ("raising_late", "all-or-nothing", {KILL: {"late"}, EVERY: {"late"}}),
    ("blocking", "gaps", {KILL: {"late", "blocked"}, EVERY: {"late", "blocked"}}),
    ("crashing", "all-or-nothing", {KILL: {"crashed"}, EVERY: {"crashed"}}),
]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of readers that other interpreters can import too."""
    (tmp_path / "theirs_here.py").write_text(READERS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("name", "contract", "wrong"), CONTRACTS, ids=lambda what: what if isinstance(what, str) else ""
)
async def test_a_reader_is_held_to_its_contract(name: str, contract: str, wrong: dict[str, set[str]]) -> None:
    """Readers that hide or report gaps, raise, block or crash are judged by the contract they claim."""
    backend = "postgres" if (name, contract) in (("silent", "gaps"), ("raising", "all-or-nothing")) else "redis"
    assert await caught(f"theirs_here:{name}", "Kill", backend=backend, contract=contract) == wrong


@pytest.mark.parametrize(("name", "code"), [("silent", 1), ("noisy", 0)])
def test_the_command_tells_what_came_of_a_contract(
    name: str, code: int, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code, the report and a line with reader and contract give the result."""
    monkeypatch.setitem(PLAIN, "PYTHONPATH", str(ROOT))
    chosen = ["--backend", "redis", "--fault", "Kill", "--timeout", readers.TIMEOUT, "--launcher", "embedded"]
    done = matrix(*chosen, "--reader", f"theirs_here:{name}", "--contract", "gaps", "--json", "-", cwd=theirs)
    report = json.loads(done.stdout)  # without what the reader prints
    assert report["contract"] == "gaps"
    assert done.returncode == code
    found = {cell["title"]: {c["kind"] for c in cell["complaints"]} for cell in report["cells"] if cell["complaints"]}
    assert found == next(wrong for what, contract, wrong in CONTRACTS if (what, contract) == (name, "gaps"))
    assert f"theirs_here:{name}, contract gaps: " in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("backend", BY_NUMBER)
async def test_a_lie_that_nobody_can_see_is_no_silent_gap(backend: str) -> None:
    """Rows that a shard loses undetectably are not held against a reader under any contract."""
    for contract in ("gaps", "all-or-nothing"):
        assert await caught(readers.right, "MissingRows", "Empty", backend=backend, contract=contract) == {}


async def test_a_reader_of_a_notebook_that_blocks_is_ended_and_named() -> None:
    """A blocking function that no other process can import is ended and named, and this event loop goes on."""
    import time

    async def blocking(urls: dict[int, str]) -> list[Any]:
        rows = await readers.right(urls)
        if len(rows) < 60:
            time.sleep(60)  # noqa: ASYNC251 - this is its mistake
        return rows

    report = await run(backends=["redis"], faults=["Kill"], launcher="embedded", timeout=0.5, reader=blocking)
    said = [str(complaint) for complaint in report.wrong[0].complaints]
    assert any(re.fullmatch(r"blocked \(yours\): it blocked its event loop for 3\.[0-9] s", text) for text in said), (
        said
    )
    assert len(report.cells) == 3


def test_labkits_own_reader_is_judged_by_gaps() -> None:
    """labkit's own reader is judged by the contract `gaps`, whichever is named, and the report says so."""
    chosen = ["--backend", "redis", "--fault", "Kill", "--timeout", 0.5, "--launcher", "embedded"]
    done = matrix(*chosen, "--contract", "best-effort", "--json", "-")
    assert (done.returncode, json.loads(done.stdout)["contract"]) == (0, "gaps")


def test_a_terminal_sees_how_far_it_is() -> None:
    """A terminal on stderr shows a progress bar per backend; stdout has only the table."""
    chosen = ["matrix", "--backend", "redis", "--fault", "Kill", "--timeout", "1", "--launcher", "embedded"]
    terminal, end = os.openpty()
    try:
        environment = {**PLAIN, "TERM": "xterm"}
        with subprocess.Popen([*LABKIT, *chosen], stdout=subprocess.PIPE, stderr=end, env=environment) as command:
            os.close(end)
            shown, table = read_all(terminal), command.stdout.read() if command.stdout else b""
    finally:
        os.close(terminal)
    assert command.returncode == 0
    assert "3/3" in shown
    assert "redis" in shown
    assert "3 cells: 3 right, 0 wrong" in table.decode()
    assert "3/3" not in table.decode()


def read_all(terminal: int) -> str:
    """Everything sent to a terminal until its last writer closes it, which Linux reports as an error."""
    sent = b""
    try:
        while part := os.read(terminal, 4096):
            sent += part
    except OSError:
        pass
    return sent.decode(errors="replace")


def test_help_has_an_example() -> None:
    """--help has an example and lists backends and contracts."""
    done = matrix("--help")
    assert done.returncode == 0
    assert "Example:\n    labkit matrix" in done.stdout
    assert "postgres,redisorredis-cluster" in "".join(done.stdout.split())
    assert all(f"--contract {contract} " in done.stdout for contract in Contract)

"""The report of the failure matrix: in a terminal, as JSON, as a page and in a notebook, from hand-made outcomes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import count
from xml.etree import ElementTree

import pytest
from rich.console import Console

from labkit import CLASSIC, ReadResult, ShardReport, Status, faults
from labkit.lab.connections import Bytes, Connection
from labkit.matrix.answers import observed
from labkit.matrix.cells import COLD, WARM, YOURS, cells
from labkit.matrix.contract import Complaint, Contract, Kind
from labkit.matrix.dataset import dataset
from labkit.matrix.evidence import Observation, Read
from labkit.matrix.outcome import Outcome
from labkit.matrix.programs import Command, Service
from labkit.matrix.report import MatrixReport
from labkit.matrix.views.script import script
from labkit.matrix.wire import since
from labkit.merge import join
from labkit.tables import SCHEMA

COUNTER = count()
NASTY = 'a<b>&"c" [red]x[/red]\x1b[31m\n</details><script>alert(1)</script>'


def outcome(title, backend="redis", complaints=(), healed=0.02, **statuses):
    """The outcome of that cell; `warm=` and `cold=` are the reported statuses of shard 2."""
    cell = next(cell for cell in cells(backend, "docker", 2.0) if cell.title == title)
    reads = [read(who, status) for who, status in statuses.items()]
    return Outcome(cell, reads, healed, list(complaints), elapsed=0.5)


def read(who, status):
    """A read in which shards 1 and 3 answered; each read takes a different time."""
    took = 0.25 + next(COUNTER) / 1_000_000
    failed = [] if status is Status.OK else [2]
    held = dataset("classic").by_shard
    rows = sorted(row for shard, rows in held.items() if shard not in failed for row in rows if row[1] is not None)
    table = type(SCHEMA.empty_table()).from_pylist([{"id": i, "name": name} for i, name in rows], schema=SCHEMA)
    plan = CLASSIC.prune()
    reports = {
        shard: ShardReport(shard, status if shard == 2 else Status.OK, 20, 0.0, took, None, plan[shard])
        for shard in plan
    }
    result = ReadResult(table, reports, join(plan, failed), took, 2.0)
    return Read(who, observed(result, took), result)


def report(*outcomes, reader="", **launchers):
    return MatrixReport(outcomes, launchers or {"redis": "embedded"}, 2.0, 7, reader, 61.4)


def mixed():
    """Two kinds of server, right and wrong cells, and one cell that only one of them has."""
    late = Complaint(Kind.LATE, "returned after 2.300 s; at most 2.05 s allowed", COLD)
    return report(
        outcome("no fault", "postgres", warm=Status.OK, cold=Status.OK),
        outcome("Pause()", "postgres", [late], warm=Status.TIMEOUT, cold=Status.TIMEOUT),
        outcome("no fault", warm=Status.OK, cold=Status.OK),
        outcome("Pause()", warm=Status.TIMEOUT, cold=Status.TIMEOUT),
        outcome("MaxClients()", warm=Status.OK, cold=Status.REJECTED),
        outcome("Kill()", complaints=[Complaint(Kind.NOT_HEALED, NASTY)], healed=None),
        postgres="docker",
        redis="embedded",
    )


def in_terminal(what, width=100):
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(what)
    return console.file.getvalue()


class Page(HTMLParser):
    """Tags with attributes, and text; fails if a tag is not closed in its place."""

    VOID = ("meta", "br")

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_sum():
    """The headline counts cells, right and wrong, and gives the total time."""
    assert mixed().headline == "6 cells: 4 right, 2 wrong, in 61 s"
    assert not mixed().right
    assert [o.cell.title for o in mixed().wrong] == ["Pause()", "Kill()"]
    assert report(outcome("no fault", warm=Status.OK)).right
    assert repr(mixed()) == "<MatrixReport: 6 cells: 4 right, 2 wrong, in 61 s>"


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({"warm": Status.TIMEOUT, "cold": Status.TIMEOUT}, "timeout"),
        ({"warm": Status.OK, "cold": Status.REJECTED}, "ok warm, rejected cold"),
        ({}, "not read"),
    ],
)
def test_how_the_broken_shard_was_reported(statuses, said):
    """One word suffices if warm and cold agree."""
    assert outcome("MaxClients()", **statuses).status == said


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Observation([(1, "one")], 0.1), "1 row"),
        (Observation([(1, "one")], 0.1, ()), "1 row"),
        (Observation([(1, "one"), (2, "two")], 0.1, ((11, 20), (41, 50))), "2 rows, 2 gaps"),
        (Observation(None, 0.1, error="ValueError"), "raised"),
        (Observation(None, 0.1, malformed="no rows"), "malformed"),
        (Observation(None, 0.1, crashed="exit code 3"), "crashed"),
        (Observation(None, 5.0), "stopped"),
    ],
)
def test_of_a_reader_that_reports_nothing_rows_are_counted(seen, said):
    """If it returned no rows, the status says how it ended."""
    cell = outcome("Pause()").cell
    assert Outcome(cell, [Read(YOURS, seen)]).status == said


def test_several_broken_shards_are_told_in_one():
    """Each status appears once."""
    cell = next(c for c in cells("redis", "docker", 2.0) if c.title == "Kill() on 2, Pause() on 3")
    seen = Observation([], 2.0, (), {1: Status.OK, 2: Status.UNREACHABLE, 3: Status.TIMEOUT})
    made = Outcome(cell, [Read(WARM, seen), Read(COLD, seen)])
    assert made.status == "unreachable + timeout"
    assert made.statuses == (Status.UNREACHABLE, Status.TIMEOUT)


def test_a_cell_spoils_its_lab_where_it_is_not_healed_or_never_began():
    """Other complaints leave the lab usable."""
    spoils = {kind for kind in Kind if outcome("Kill()", complaints=[Complaint(kind, "")]).spoilt}
    assert spoils == {Kind.NOT_HEALED, Kind.NOT_STARTED}


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_terminal_has_the_grid_the_complaints_and_the_sum(width):
    """No line is wider than the terminal; foreign text is neither obeyed nor read as markup."""
    shown = in_terminal(mixed(), width)
    words = " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= width
    assert words.endswith("6 cells: 4 right, 2 wrong, in 61 s")
    assert "late (cold): returned after 2.300 s; at most 2.05 s allowed" in words
    assert "[red]x[/red]" in words
    assert "\x1b" not in shown


def test_the_terminals_grid_has_a_column_for_each_kind_of_server():
    """A dash marks a fault that the server does not support."""
    lines = {line[:16].strip(): re.split(r"\s{2,}", line[16:].strip()) for line in in_terminal(mixed()).splitlines()}
    assert lines["fault"] == ["postgres (docker)", "redis (embedded)"]
    assert lines["no fault"] == ["✓ ok 250 ms", "✓ ok 250 ms"]
    assert lines["Pause()"] == ["✗ timeout 250 ms", "✓ timeout 250 ms"]
    assert lines["MaxClients()"] == ["–", "✓ ok warm, rejected cold 250 ms"]


def test_json_has_everything_but_the_rows():
    """JSON has the request, the reads, the allowed outcomes, and the complaints."""
    told = json.loads(json.dumps(mixed().to_dict()))
    assert {key: told[key] for key in ("right", "wrong", "timeout", "seed", "reader", "launchers")} == {
        "right": 4, "wrong": 2, "timeout": 2.0, "seed": 7, "reader": None,
        "launchers": {"postgres": "docker", "redis": "embedded"},
    }  # fmt: skip
    late = told["cells"][1]
    assert late["verdict"] == "wrong"
    assert late["complaints"][0]["kind"] == "late"
    assert late["faults"] == {"2": [{"kind": "Pause", "written": "Pause()", "warm": ["timeout"], "cold": ["timeout"]}]}
    assert late["reads"][0]["missing"] == [[11, 20], [41, 50]]
    assert late["reads"][0]["statuses"] == {"1": "ok", "2": "timeout", "3": "ok"}
    assert told["cells"][5]["healed"] is None


def test_the_page_needs_nothing_else():
    """No script, nothing loaded, every tag closed, unique IDs, and every link has a target."""
    html = mixed().to_html()
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {attrs["href"] for attrs in page.all("a")} <= {f"#{i}" for i in ids}


def test_templates_are_loaded_by_the_first_page():
    """Without a page Jinja2 is not loaded."""
    code = "import sys, labkit.matrix.session, labkit.matrix.report; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


def test_the_page_shows_what_is_wrong():
    """Wrong cells are open and listed first, with their text escaped."""
    page = Page(mixed().to_html())
    told = [("open" in attrs, attrs["class"]) for attrs in page.all("details")]
    assert sorted(told) == [(False, "right"), (False, "right"), (True, "wrong"), (True, "wrong")]
    assert "2 of 6 cells wrong" in page.text
    assert page.text.index("What is wrong") < page.text.index("All cells")
    assert "</details><script>alert(1)</script>" in page.text
    right = Page(report(outcome("no fault", warm=Status.OK)).to_html())
    assert "1 of 1 cell right" in right.text
    assert "What is wrong" not in right.text


def test_the_page_has_a_timeline_for_each_read_with_the_fault_on_it():
    """The fault's frame covers the read."""
    html = report(outcome("Pause()", warm=Status.TIMEOUT, cold=Status.TIMEOUT)).to_html()
    assert html.count("<svg") == 2
    assert html.count('data-label="Pause"') == 2
    assert "by a reader with open connections" in html


def test_the_page_of_somebody_elses_reader_has_a_bar_against_the_deadline():
    """Of its shards only the number of returned rows is known."""
    cell = outcome("Pause()").cell
    seen = Observation([(1, "Test 1"), (2, "Test 2")], 2.5)
    page = report(Outcome(cell, [Read(YOURS, seen)], 0.1), reader="mine:<read>")
    told = Page(page.to_html())
    assert "mine:<read>" in told.text
    assert "2 rows returned, 2 of shard 1, 0 of shard 2, 0 of shard 3" in told.text
    assert "<svg" not in page.to_html()
    assert 'class="track"' in page.to_html()


def test_the_notebook_shows_no_times():
    """Stored outputs are compared, so they hold no times; foreign text is escaped."""
    html = mixed()._repr_html_()
    Page(html)
    assert "6 cells</b>: 4 right, 2 wrong" in html
    assert not re.search(r"\d (ms|s)\b", html)
    assert "✗ redis · Kill(): not healed" in html
    assert "<script" not in html


def test_the_frame_has_a_row_for_each_cell():
    """Each row has fault, backend, status and verdict, in the order of the trials."""
    frame = mixed().frame
    assert list(frame.columns) == ["fault", "backend", "status", "verdict"]
    assert frame.iloc[4].tolist() == ["MaxClients()", "redis", "ok warm, rejected cold", "right"]
    assert frame["verdict"].tolist() == ["right", "wrong", "right", "right", "right", "wrong"]


@pytest.mark.parametrize("contract", Contract)
def test_every_view_names_the_contract(contract):
    """Each view names the contract; terminal and page also say what it promises."""
    made = MatrixReport((outcome("no fault", warm=Status.OK),), {"redis": "embedded"}, 2.0, 7, "mine", 3.0, contract)
    shown = " ".join(in_terminal(made, 300).split())
    assert f"mine, contract {contract}: {contract.promise}" in shown
    assert f"The contract is {contract}: {contract.promise}." in Page(made.to_html()).text
    assert f"contract {contract}" in made._repr_html_()
    assert made.to_dict()["contract"] == contract.value


@pytest.mark.parametrize("interrupted", [False, True])
def test_every_view_says_that_it_was_interrupted(interrupted):
    """Each view says that the run was interrupted, so its cells are not complete."""
    made = replace(report(outcome("no fault", warm=Status.OK)), interrupted=interrupted)
    views = (in_terminal(made), Page(made.to_html()).text, made._repr_html_(), repr(made))
    assert [("interrupted" in view) for view in views] == [interrupted] * 4
    assert made.to_dict()["interrupted"] is interrupted


def test_a_silent_gap_is_in_every_view():
    """Each view names the silent gap, and shows the ranges if there is room."""
    gap = Complaint(Kind.SILENT_GAP, "11-20: rows are missing and not reported", YOURS)
    made = report(outcome("Kill()", complaints=[gap], yours=Status.OK), reader="mine")
    assert "silent gap (yours): 11-20: rows are missing" in in_terminal(made, 200)
    assert "silent gap (yours): 11-20: rows are missing" in Page(made.to_html()).text
    assert "✗ redis · Kill(): silent gap" in made._repr_html_()
    assert made.to_dict()["cells"][0]["complaints"][0]["kind"] == "silent gap"


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Observation([(1, "x")], 0.1, ((11, 20),)), "; it reports 11–20 as missing"),
        (Observation([(1, "x")], 0.1, ()), "; it reports nothing as missing"),
        (Observation(None, 0.1, malformed="what it returned cannot be understood"), "cannot be understood"),
        (Observation(None, 0.1, crashed="its process ended with exit code 3"), "its process ended with exit code 3"),
    ],
)
def test_the_page_says_what_a_reader_said(seen, words):
    """Below its bar stands what it reported as missing, or how it ended."""
    made = report(Outcome(outcome("Pause()").cell, [Read(YOURS, seen)], 0.1), reader="mine")
    assert words in Page(made.to_html()).text


def connection(shard, opened, asked=None, answered=None, closed=None, by=""):
    spans = [Bytes(84, *times) if times else Bytes(0, None, None) for times in (asked, answered)]
    return Connection(shard, 40000, opened, *spans, closed, by)


def test_evidence_has_a_line_per_connection_on_which_something_happened():
    """In the order of the shards, then of other servers; one for a shard that nobody asked; none of a right cell."""
    seen = [
        connection(1, -2.0, (100.0, 100.5), (100.5, 100.5)),
        connection(1, -2.0),
        connection(2, 99.5, (100.0, 100.0), None, 101.0, "client"),
        connection("extra 1", 100.0, None, (100.25, 100.25), 100.5, "server"),
        connection("extra 2", -1.0),
    ]
    cell = outcome("Pause()", complaints=[Complaint(Kind.LATE, NASTY)], warm=Status.TIMEOUT)
    cell = replace(cell, wire=since(99.0, seen), left=since(99.0, seen[2:3]))
    (title, lines), (left, sockets) = cell.evidence
    assert title.endswith(f"it took {cell.slowest:.3f} s")
    assert lines == [
        "shard 1: connected before, asked 1.000–1.500 s (84 bytes), answered 1.500 s (84 bytes), open",
        "shard 2: connected 0.500 s, asked 1.000 s (84 bytes), not answered, closed 2.000 s by the reader",
        "shard 3: no connection",
        "shard extra 1: connected 1.000 s, not asked, answered 1.250 s (84 bytes), closed 1.500 s by the server",
    ]
    assert (left, sockets) == ("Left open", ["shard 2: 1 connection, made 0.500 s"])
    made = report(cell)
    shown = " ".join(in_terminal(made, 200).split())
    assert all(line in shown for line in (*lines, *sockets))
    assert all(line in Page(made.to_html()).text for line in (*lines, *sockets))
    assert all(line in made.to_junit().decode() for line in (*lines, *sockets))
    assert made.to_dict()["cells"][0]["wire"][2] == {
        "shard": "2",
        "port": 40000,
        "opened": 0.5,
        "asked": {"bytes": 84, "first": 1.0, "last": 1.0},
        "answered": {"bytes": 0, "first": None, "last": None},
        "closed": 2.0,
        "closed_by": "client",
    }
    assert replace(cell, complaints=[]).evidence == []


def test_ci_servers_get_a_test_case_per_cell():
    """JUnit's XML has a suite per kind of server, and a failure with all complaints for each wrong cell."""
    given = mixed()
    root = ElementTree.fromstring(given.to_junit())
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", "6", "2")
    assert [(s.get("name"), s.get("tests"), s.get("failures")) for s in root] == [
        ("postgres", "2", "1"),
        ("redis", "4", "1"),
    ]
    cases = {(case.get("classname"), case.get("name")): case.find("failure") for case in root.iter("testcase")}
    assert len(cases) == 6
    late = cases["postgres.process", "Pause()"]
    assert late.get("type") == "late"
    assert late.get("message") == "late (cold): returned after 2.300 s; at most 2.05 s allowed"
    nasty = cases["redis.process", "Kill()"].text
    assert "<script>alert(1)</script>" in nasty
    assert "\x1b" not in nasty
    assert sum(failure is not None for failure in cases.values()) == 2
    assert root.find("testsuite/testcase").get("time") == "0.500"


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (None, "return await lab.read()"),
        ("mine.reading:it.all", "answer = mine.reading.it.all(dict(lab.urls))"),
        (Command(f"'{sys.executable}' -c 'print(1)'"), "from labkit.matrix.programs import Command, request_for"),
        (Service("http://127.0.0.1:9000/data", "it's.toml"), "Service('http://127.0.0.1:9000/data', \"it's.toml\")"),
    ],
)
@pytest.mark.parametrize("title", ["no fault", "Pause()", "Kill() on 2, Pause() on 3", "ResetPeer(after_bytes=200)"])
def test_the_script_of_a_cell_is_python_with_its_faults(reader, says, title):
    """It compiles, names every fault of the cell, and calls the reader."""
    cell = next(cell for cell in cells("redis", "docker", 2.0) if cell.title == title)
    text = script(cell, reader, launcher="embedded", timeout=0.5, seed=7, table="wide")
    compile(text, "script", "exec")
    assert says in text
    assert "dataset('wide', seed=7)" in text
    written = re.search(r"lab\.fault\((\{.*\})\)", text)
    assert eval(written[1], {"faults": faults}) == cell.faults


def test_a_script_calls_a_reader_in_a_cluster_with_its_keys():
    """There it needs a second parameter."""
    cell = next(cell for cell in cells("redis-cluster", "docker", 2.0) if cell.title == "Kill()")
    text = script(cell, "mine:read", launcher="auto", timeout=2.0, seed=0, table="classic")
    assert "mine.read(dict(lab.urls), dict(lab.tables))" in text

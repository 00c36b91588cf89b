"""The cells of the matrix: every fault on every kind of server that supports it, and the outcomes allowed."""

from __future__ import annotations

import pytest

from labkit import Status, faults
from labkit.errors import UsageError
from labkit.faults import ALL
from labkit.lab.backends import BACKENDS
from labkit.matrix.cells import BASELINE, COLD, COMBINED, WARM, YOURS, Cell, cells
from labkit.matrix.dataset import ROWS, dataset
from labkit.matrix.selection import known_backends, known_faults, refuse_impossible

BY_SHARD = dataset("classic").by_shard
LAYERS = {"embedded": {"network", "process", "server", "data"}, "docker": {entry.layer for entry in ALL.values()}}


def of(title, **options):
    """The cell with that title."""
    return next(cell for cell in cells("redis", "embedded", 2.0, **options) if cell.title == title)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("launcher", LAYERS)
def test_every_fault_that_can_act_has_a_cell_for_each_sample(backend, launcher):
    """No fault is forgotten, including ones added later."""
    single = [cell for cell in cells(backend, launcher, 2.0) if cell.layer not in (BASELINE, COMBINED)]
    tried = [cell.faults[2][0] for cell in single]
    able = [e for e in ALL.values() if backend in e.backends and e.layer in LAYERS[launcher]]
    assert tried == [sample.fault for entry in able for sample in entry.samples(2.0)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("timeout", [0.3, 2.0])
def test_titles_are_unique(backend, timeout):
    """A title names one cell per kind of server."""
    titles = [cell.title for cell in cells(backend, "docker", timeout)]
    assert len(set(titles)) == len(titles)


def test_named_faults_have_their_cells_and_those_in_which_they_meet():
    """With Kill and Pause named, nothing else acts; the cell without a fault stays for comparison."""
    found = cells("redis", "embedded", 2.0, ["Pause", "Kill"])
    assert [cell.title for cell in found] == [
        "no fault", "Kill()", "Pause()", "Pause() on 2, 3", "Kill() on 2, Pause() on 3", "Kill() on 1, 2, 3",
    ]  # fmt: skip
    assert {cell.kinds for cell in cells("redis", "embedded", 2.0, ["Kill"])} == {frozenset(), frozenset({"Kill"})}


def test_without_fault_all_must_be_well():
    """A shard without a fault must answer."""
    assert of(BASELINE).allowed(WARM) == {shard: {Status.OK} for shard in (1, 2, 3)}


def test_each_shard_is_allowed_what_its_own_faults_allow():
    """Killed is unreachable, paused is a timeout, untouched is ok."""
    allowed = of("Kill() on 2, Pause() on 3").allowed(COLD)
    assert allowed == {1: {Status.OK}, 2: {Status.UNREACHABLE}, 3: {Status.TIMEOUT}}


def test_of_several_faults_on_a_shard_each_may_fail_it_and_all_must_let_it_be_ok():
    """OK is allowed only if every fault allows it; the failures of all faults are allowed."""
    sample = faults.Sample.of
    mild = sample(faults.Latency(1), {Status.OK, Status.TIMEOUT})
    hard = sample(faults.Kill(), {Status.UNREACHABLE})
    both, twice = Cell("", "redis", "", "", {2: (mild, hard)}), Cell("", "redis", "", "", {2: (mild, mild)})
    assert both.allowed(COLD)[2] == {Status.TIMEOUT, Status.UNREACHABLE}
    assert twice.allowed(COLD)[2] == {Status.OK, Status.TIMEOUT}


def test_somebody_elses_reader_may_keep_connections_or_not():
    """An external reader is allowed what either a warm or a cold reader is."""
    cell = Cell("", "redis", "", "", {2: (faults.Sample.of(faults.Kill(), {Status.REJECTED}, {Status.OK}),)})
    assert (cell.allowed(WARM)[2], cell.allowed(COLD)[2]) == ({Status.OK}, {Status.REJECTED})
    assert cell.allowed(YOURS)[2] == {Status.OK, Status.REJECTED}


@pytest.mark.parametrize("title", ["MissingRows()", "Empty()"])
def test_somebody_elses_reader_may_see_a_lie_that_ours_cannot(title):
    """An external reader may know the number of rows, and so reject a short answer."""
    assert of(title).allowed(WARM)[2] == of(title).allowed(COLD)[2] == {Status.OK}
    assert of(title).allowed(YOURS)[2] == {Status.OK, Status.INVALID}


def test_the_rows_are_awkward():
    """The rows have NULL, empty, repeated, quoted, multi-byte and long names; a shard's answer is some kilobytes."""
    names = list(ROWS.values())
    assert len(names) == 60
    assert {None, "", "the same"} <= set(names)
    assert names.count("the same") > len(BY_SHARD)
    assert any(name and "'" in name and "\\" in name and "\n" in name for name in names)
    assert any(name and len(name.encode()) > len(name) for name in names)
    assert max(len(name or "") for name in names) == 240
    for rows in BY_SHARD.values():
        assert len(rows) == 20
        assert sum(len((name or "").encode()) for _, name in rows) > 2000
        assert sum(len((name or "").encode()) for _, name in rows[:3]) < 50


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kill", "unknown fault 'kill'; did you mean Kill?"),
        ("Paus", "unknown fault 'Paus'; did you mean Pause"),
        ("zzzzzz", "unknown fault 'zzzzzz'; expected one of Down, Latency, "),
    ],
)
def test_an_unknown_fault_is_named_with_what_it_may_have_been(name, words):
    """The error is one line with the value and the fix."""
    with pytest.raises(UsageError) as wrong:
        known_faults([name])
    assert words in str(wrong.value)


def test_names_may_be_a_single_one_and_may_repeat():
    """A string is one name; no names means every kind of server."""
    assert known_faults("Kill") == known_faults(["Kill", "Kill"]) == ["Kill"]
    assert known_backends("redis") == ["redis"]
    assert known_backends([]) == list(BACKENDS)
    with pytest.raises(UsageError, match="unknown backend 'mysql'"):
        known_backends(["redis", "mysql"])


def test_a_fault_that_can_act_on_nothing_is_refused():
    """The matrix would otherwise be empty and count as right."""
    with pytest.raises(UsageError, match="Disconnect acts on a container, and launcher embedded has none"):
        refuse_impossible(["Disconnect"], ["redis"], "embedded")
    refuse_impossible(["Disconnect"], ["redis"], "docker")
    refuse_impossible(["Disconnect"], ["redis"], "auto")


def test_a_fault_of_another_kind_of_server_is_refused(monkeypatch):
    """The error says which kind of server it acts on."""
    entry = faults.Entry.of(faults.Kill)
    monkeypatch.setitem(ALL, "Kill", type(entry)(**{**vars(entry), "backends": ("postgres",)}))
    with pytest.raises(UsageError, match="Kill acts on postgres, not on redis: choose backend postgres"):
        refuse_impossible(["Kill"], ["redis"], "embedded")

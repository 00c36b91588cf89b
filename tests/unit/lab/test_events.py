"""What a recorder makes of starts, firings and stops: events in time order, and a read's windows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.faults import Kill, Latency, Pause
from labkit.lab.events import Recorder

quick = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def recorder(*events: tuple[str, Any, Any, float]) -> Recorder:
    """A recorder with these events whose clock began at 0."""
    it = Recorder()
    it.origin = 0.0
    for kind, shard, fault, at in events:
        it.note(kind, shard, fault, at)
    return it


def told(it: Recorder, since: float, until: float) -> list[tuple[Any, str, float, float | None]]:
    return [(w.shard, w.label, w.started, w.ended) for w in it.windows(since, until)]


LASTED = (("start", 2, Pause(), 10.0), ("stop", 2, Pause(), 20.0))


@pytest.mark.parametrize(
    ("since", "until", "window"),
    [
        (5.0, 30.0, (2, "Pause", 5.0, 15.0)),
        (12.0, 30.0, (2, "Pause", 0.0, 8.0)),
        (5.0, 15.0, (2, "Pause", 5.0, None)),
        (12.0, 15.0, (2, "Pause", 0.0, None)),
        (10.0, 20.0, (2, "Pause", 0.0, None)),
        (1.0, 9.0, None),
        (1.0, 10.0, None),
        (20.0, 25.0, None),
        (21.0, 25.0, None),
    ],
)
def test_a_window_is_clipped_to_the_read(since: float, until: float, window: Any) -> None:
    """A fault that began earlier starts at 0; one that outlasts the read has no end; without overlap there is no
    window.
    """
    assert told(recorder(*LASTED), since, until) == ([] if window is None else [window])


def test_a_fault_that_still_lasts_has_no_end() -> None:
    """Without a stop the window stays open."""
    assert told(recorder(("start", 2, Kill(), 10.0)), 11.0, 12.0) == [(2, "Kill", 0.0, None)]


def test_a_fault_that_comes_again_has_a_window_each_time() -> None:
    """Starts and stops of the same fault are paired in order, per shard."""
    it = recorder(
        ("start", 2, Pause(), 1.0),
        ("start", 3, Pause(), 1.5),
        ("stop", 2, Pause(), 2.0),
        ("start", 2, Pause(), 3.0),
        ("stop", 3, Pause(), 3.5),
        ("stop", 2, Pause(), 4.0),
    )
    assert told(it, 0.0, 10.0) == [(2, "Pause", 1.0, 2.0), (3, "Pause", 1.5, 3.5), (2, "Pause", 3.0, 4.0)]


def test_toxics_of_one_kind_are_told_apart() -> None:
    """Two latencies on one shard have separate windows."""
    it = recorder(
        ("start", 2, Latency(5), 1.0),
        ("start", 2, Latency(9), 2.0),
        ("stop", 2, Latency(5), 3.0),
        ("stop", 2, Latency(9), 4.0),
    )
    assert told(it, 0.0, 10.0) == [(2, "Latency", 1.0, 3.0), (2, "Latency", 2.0, 4.0)]


def test_firings_open_and_close_nothing() -> None:
    """Only starts and stops delimit a window."""
    it = recorder(("start", 2, Pause(), 1.0), ("fired", 2, Pause(), 1.5), ("unfired", 2, Pause(), 1.6))
    assert told(it, 0.0, 10.0) == [(2, "Pause", 1.0, None)]


@quick
@given(times=st.lists(st.floats(min_value=0, max_value=100), max_size=20))
def test_events_are_in_the_order_of_their_times(times: list[float]) -> None:
    """A firing reported late is sorted by its time; events of equal time stay in the order they were noted."""
    it = recorder(*(("fired", i, Pause(), at) for i, at in enumerate(times)))
    assert [(event.at, event.shard) for event in it.events] == sorted((at, i) for i, at in enumerate(times))


@quick
@given(start=st.floats(0, 10), lasts=st.floats(0.001, 10), since=st.floats(0, 20), until=st.floats(0.001, 10))
def test_a_window_is_what_both_lasted(start: float, lasts: float, since: float, until: float) -> None:
    """The window is the intersection of fault and read; there is none if they do not overlap."""
    until += since
    stop = start + lasts
    windows = told(recorder(("start", 1, Kill(), start), ("stop", 1, Kill(), stop)), since, until)
    assert bool(windows) == (max(start, since) < min(stop, until))
    for _, _, begun, ended in windows:
        assert 0 <= begun <= until - since
        assert begun == pytest.approx(max(start, since) - since)
        assert (ended is None) == (stop >= until)
        assert ended is None or ended == pytest.approx(stop - since)


def test_times_count_from_when_the_lab_was_ready() -> None:
    """Times count from the recorder's creation."""
    it = Recorder()
    it.note("start", 1, Kill())
    it.note("stop", 1, Kill())
    assert 0 <= it.events[0].at <= it.events[1].at < 60

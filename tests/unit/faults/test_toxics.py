"""Toxics as pure plans, without a socket: which bytes leave when, how a direction ends, which connections are hit.

Times are exact arithmetic on the test's own clock; nothing here waits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import UsageError
from labkit.faults import (
    Bandwidth,
    Corrupt,
    Fault,
    HalfClose,
    Latency,
    LimitData,
    PacketLoss,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
)
from labkit.faults.network.detector import Detector
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.lab.proxy.postgres_wire import Prepared
from labkit.lab.proxy.toxics import Toxics, built

SEED = "0|2"
quick = settings(derandomize=True, database=None, deadline=None, max_examples=60)

chunkings = st.lists(st.binary(min_size=1, max_size=40), max_size=12)
waits = st.floats(min_value=0, max_value=2)
arrivals = st.lists(st.tuples(st.binary(min_size=1, max_size=40), waits), max_size=12)
"""Chunks, and the seconds before each."""


@dataclass
class Ran:
    """The result of a plan."""

    pieces: list[Piece]
    fired: int

    @property
    def bytes(self) -> bytes:
        return b"".join(piece.data for piece in self.pieces)

    @property
    def ends(self) -> list[tuple[End, float]]:
        return [(piece.end, piece.due) for piece in self.pieces if piece.end]

    @property
    def leaves(self) -> list[tuple[bytes, float]]:
        """Each piece with the time at which it leaves: none overtakes the one before it."""
        left, latest = [], 0.0
        for piece in self.pieces:
            latest = max(latest, piece.due)
            left.append((piece.data, latest))
        return left


class Line:
    """One direction with one toxic, fed by hand; `now` advances as chunks arrive."""

    def __init__(self, toxic: Toxic, seed: str = SEED, now: float = 100.0) -> None:
        self.now = now
        self.fired = 0
        self.pipe = toxic.pipe(Flow(Random(seed), self._fire))
        self.pieces: list[Piece] = list(self.pipe.opened(now))

    def _fire(self) -> None:
        self.fired += 1

    def say(self, data: bytes, after: float = 0.0) -> Line:
        self.now += after
        self.pieces += self.pipe.data(Piece(data, self.now))
        return self

    def end(self, end: End = End.FIN) -> Line:
        self.pieces += self.pipe.ended(Piece(b"", self.now, end))
        return self

    def remove(self) -> list[End | None]:
        return [piece.end for piece in self.pipe.removed(self.now)]

    def done(self) -> Ran:
        return Ran(self.pieces, self.fired)


def run(toxic: Toxic, *chunks: bytes, seed: str = SEED, end: bool = False) -> Ran:
    """The result of chunks that all arrive at 100 s."""
    line = Line(toxic, seed)
    for chunk in chunks:
        line.say(chunk)
    return (line.end() if end else line).done()


def cut_up(data: bytes, sizes: list[int]) -> list[bytes]:
    """The same bytes in chunks of these sizes, with the rest in one chunk."""
    chunks, start = [], 0
    for size in sizes:
        chunks.append(data[start : start + size])
        start += size
    return [chunk for chunk in [*chunks, data[start:]] if chunk]


# toxics that pass every byte


WHOLE: list[Toxic] = [
    Latency(100),
    Latency(100, 100),
    Bandwidth(1),
    Bandwidth(0.001),
    Slicer(1),
    Slicer(7, 6, 1000),
    SlowClose(1000),
    Detector(),
    Detector(connects=True),
    LimitData(10_000),
    ResetPeer(0, 10_000),
    HalfClose(10_000),
    PacketLoss(0),
]


@pytest.mark.parametrize("toxic", WHOLE, ids=repr)
@quick
@given(arrivals=arrivals)
def test_no_byte_is_lost_added_or_reordered(toxic: Toxic, arrivals: list[tuple[bytes, float]]) -> None:
    """A toxic that only delays, slices or watches passes every byte in order, then the end, and nothing early."""
    line = Line(toxic)
    for data, wait in arrivals:
        line.say(data, wait)
    ran = line.end().done()
    assert ran.bytes == b"".join(data for data, _ in arrivals)
    assert [end for end, _ in ran.ends] == [End.FIN]
    assert ran.pieces[-1].end is End.FIN
    arrived = iter(_arrived(arrivals))
    assert all(due >= next(arrived) for data, due in ran.leaves for _ in data)


def _arrived(arrivals: list[tuple[bytes, float]]) -> list[float]:
    """The arrival time of each byte."""
    times, now = [], 100.0
    for data, wait in arrivals:
        now += wait
        times += [now] * len(data)
    return times


# Latency


@quick
@given(
    latency=st.integers(min_value=0, max_value=5000), jitter=st.integers(min_value=0, max_value=5000), sent=chunkings
)
def test_latency_stays_within_its_jitter(latency: int, jitter: int, sent: list[bytes]) -> None:
    """Each chunk is due `latency` ± `jitter` ms after its arrival, and never before it."""
    ran = run(Latency(latency, jitter), *sent)
    assert len(ran.pieces) == len(sent)
    for piece in ran.pieces:
        assert max(latency - jitter, 0) / 1000 - 1e-9 <= piece.due - 100.0 <= (latency + jitter) / 1000 + 1e-9


def test_latency_uses_all_of_its_jitter() -> None:
    """Over many chunks the delays reach both ends of the jitter."""
    delays = [piece.due - 100.0 for piece in run(Latency(100, 50), *[b"x"] * 400).pieces]
    assert min(delays) < 0.06
    assert max(delays) > 0.14
    assert 0.09 < sum(delays) / len(delays) < 0.11


def test_latency_without_jitter_is_exact_and_does_not_add_up() -> None:
    """Delays do not add up: a second chunk is as late as the first."""
    line = Line(Latency(1000)).say(b"a").say(b"b", 0.5)
    assert [piece.due for piece in line.pieces] == [101.0, 101.5]


def test_latency_fires_on_data_only() -> None:
    """An end without data is not delayed and does not fire."""
    ran = run(Latency(1000), end=True)
    assert (ran.ends, ran.fired) == ([(End.FIN, 100.0)], 0)
    assert run(Latency(1000), b"x").fired == 1


# Bandwidth


@quick
@given(
    rate=st.sampled_from([0.001, 0.1, 1, 64, 100.5]),
    size=st.integers(min_value=1, max_value=5000),
    sizes=st.lists(st.integers(1, 700), max_size=20),
)
def test_bandwidth_takes_its_time_whatever_the_chunks(rate: float, size: int, sizes: list[int]) -> None:
    """n bytes take n / rate seconds (1 KB is 1,000 bytes), however they are cut."""
    ran = run(Bandwidth(rate), *cut_up(bytes(size), sizes))
    assert ran.leaves[-1][1] - 100.0 == pytest.approx(size / (rate * 1000))


def test_bandwidth_is_never_ahead_of_its_rate() -> None:
    """At no time has more left than the line can have carried."""
    ran = run(Bandwidth(10), bytes(7000), bytes(3000))
    passed = 0
    for data, at in ran.leaves:
        passed += len(data)
        assert passed <= 10_000 * (at - 100.0) + 1e-6
        assert len(data) <= 1000
    assert passed == 10_000


def test_bandwidth_saves_nothing_up() -> None:
    """An idle line is no faster afterwards."""
    line = Line(Bandwidth(1)).say(bytes(1000)).say(bytes(1000), after=10.0)
    assert line.pieces[-1].due == pytest.approx(111.0)


# Slicer


@quick
@given(
    average=st.integers(min_value=1, max_value=50),
    vary=st.integers(min_value=0, max_value=49),
    delay=st.integers(0, 10_000),
    sent=chunkings,
)
def test_slices_have_their_size_and_distance(average: int, vary: int, delay: int, sent: list[bytes]) -> None:
    """Slices are average ± variation bytes, except the last of a chunk, and `delay` microseconds apart."""
    vary = vary % average
    ran = run(Slicer(average, vary, delay), *sent)
    lasts, total = set(), 0
    for chunk in sent:
        total += len(chunk)
        lasts.add(total)
    total = 0
    for data, _ in ran.leaves:
        total += len(data)
        assert len(data) <= average + vary
        assert len(data) >= average - vary or total in lasts
    assert all(b - a == pytest.approx(delay / 1e6, abs=1e-9) for (_, a), (_, b) in pairwise(ran.leaves))
    assert not ran.leaves or ran.leaves[0][1] == 100.0


def test_slices_vary() -> None:
    """With a variation, slices of every allowed size occur; without one, all have the same size."""
    assert {len(data) for data, _ in run(Slicer(5, 2), bytes(2000)).leaves[:-1]} == {3, 4, 5, 6, 7}
    assert {len(data) for data, _ in run(Slicer(5), bytes(2000)).leaves} == {5}


def test_slices_of_a_chunk_that_comes_later_begin_at_once() -> None:
    """The delay applies between slices only: a later chunk's first slice leaves at once."""
    line = Line(Slicer(1, 0, 500_000)).say(b"ab").say(b"cd", after=10.0)
    assert [piece.due for piece in line.pieces] == [100.0, 100.5, 110.0, 110.5]


# cuts


@pytest.mark.parametrize(
    ("make", "end"), [(LimitData, End.CLOSE), (lambda n: ResetPeer(0, n), End.RESET), (HalfClose, End.HALF)]
)
@quick
@given(data=st.binary(max_size=200), limit=st.integers(min_value=0, max_value=220), sizes=st.lists(st.integers(1, 60)))
def test_exactly_so_many_bytes_pass(make: Any, end: End, data: bytes, limit: int, sizes: list[int]) -> None:
    """Exactly the first `limit` bytes pass, whatever the chunks; the end follows once, immediately."""
    ran = run(make(limit), *cut_up(data, sizes))
    assert ran.bytes == data[:limit]
    reached = len(data) >= limit
    assert ran.ends == ([(end, 100.0)] if reached else [])
    assert ran.fired == (1 if reached else 0)
    assert not reached or ran.pieces[-1].end is end


def test_a_limit_of_nothing_ends_a_connection_at_once() -> None:
    """With a limit of 0 a connection, even an existing one, ends before any byte arrives."""
    for toxic, end in ((LimitData(0), End.CLOSE), (ResetPeer(0), End.RESET), (HalfClose(0), End.HALF)):
        line = Line(toxic)
        assert (line.done().ends, line.fired) == ([(end, 100.0)], 1)


def test_reset_peer_waits_for_its_timeout() -> None:
    """Without `after_bytes` nothing passes, and the reset comes `timeout` ms after the connection was made."""
    ran = Line(ResetPeer(250)).say(b"lost", after=0.1).end().done()
    assert (ran.bytes, ran.ends) == (b"", [(End.RESET, 100.25)])
    assert Line(ResetPeer(250, 3)).say(b"abcd", after=1.0).done().ends == [(End.RESET, 101.25)]


@pytest.mark.parametrize(("toxic", "end"), [(LimitData(3), End.CLOSE), (ResetPeer(1000, 3), End.RESET)])
def test_a_cut_that_is_undone_ends_a_connection_that_lost_something(toxic: Toxic, end: End) -> None:
    """Undone, a cut ends a connection that lost bytes or an end; any other goes on."""
    assert Line(toxic).say(b"abc").remove() == []
    assert Line(toxic).say(b"ab").end().remove() == []
    assert Line(toxic).say(b"abcd").remove() == [end]
    assert Line(toxic).say(b"abc").say(b"d").remove() == [end]
    assert Line(toxic).say(b"abc").end().remove() == [end]


# ends


def test_slow_close_delays_ends_only() -> None:
    """Bytes pass at once; the end comes `delay` ms later and fires the toxic."""
    line = Line(SlowClose(1500)).say(b"x")
    assert (line.pieces[0].due, line.fired) == (100.0, 0)
    assert (line.end().done().ends, line.fired) == ([(End.FIN, 101.5)], 1)


def test_timeout_swallows_and_closes_in_time() -> None:
    """Nothing passes; the connection is closed `timeout` ms after the toxic hit it, whatever is sent meanwhile."""
    line = Line(Timeout(400)).say(b"a").say(b"b", after=5.0)
    assert (line.done().bytes, line.done().ends, line.fired) == (b"", [(End.CLOSE, 100.4)], 2)


def test_timeout_fires_when_it_closes_a_silent_connection() -> None:
    """On a busy machine that may be before the server's first byte."""
    line = Line(Timeout(400))
    assert line.fired == 0
    line.pipe.end_sent()
    assert line.fired == 1


def test_timeout_of_zero_never_closes() -> None:
    """With 0 nothing passes and the connection is never closed."""
    line = Line(Timeout(0)).say(b"a")
    assert line.pieces == []


@pytest.mark.parametrize("timeout", [0, 400])
def test_timeout_undone_closes_only_what_lost_bytes(timeout: int) -> None:
    """Undone, it closes a connection that lost bytes; one that was silent goes on."""
    assert Line(Timeout(timeout)).remove() == []
    assert Line(Timeout(timeout)).say(b"a").remove() == [End.CLOSE]


def test_half_close_ends_one_direction_for_good() -> None:
    """After the limit the receiver sees the end and nothing more; undone, it closes that connection, but no other."""
    line = Line(HalfClose(2)).say(b"abc").say(b"d")
    assert (line.done().bytes, line.done().ends) == (b"ab", [(End.HALF, 100.0)])
    assert line.remove() == [End.CLOSE]
    assert Line(HalfClose(2)).say(b"a").remove() == []


@pytest.mark.parametrize("toxic", [Latency(1), Bandwidth(1), Slicer(1), SlowClose(1), Corrupt(), LimitData(9)])
def test_what_swallows_nothing_leaves_connections_alone_when_undone(toxic: Toxic) -> None:
    """Undone, a toxic that lost nothing ends no connection."""
    assert Line(toxic).say(b"abc").remove() == []


# Corrupt


def flips(data: bytes, passed: bytes) -> list[tuple[int, int]]:
    """(position, number of flipped bits) of each changed byte."""
    return [(i, (a ^ b).bit_count()) for i, (a, b) in enumerate(zip(data, passed, strict=True)) if a != b]


@quick
@given(data=st.binary(max_size=300), every=st.integers(min_value=1, max_value=50), seed=st.text(max_size=3))
def test_corrupt_flips_one_bit_of_each_block(data: bytes, every: int, seed: str) -> None:
    """Each whole block of `every` bytes has one flipped bit, the remainder at most one; no byte is added."""
    changed = flips(data, run(Corrupt(every), data, seed=seed).bytes)
    blocks = [place // every for place, _ in changed]
    assert all(bits == 1 for _, bits in changed)
    assert blocks[: len(data) // every] == list(range(len(data) // every))
    assert len(blocks) - len(data) // every in ((0, 1) if len(data) % every else (0,))


@quick
@given(data=st.binary(max_size=300), every=st.integers(1, 50), sizes=st.lists(st.integers(1, 60)))
def test_corrupt_is_the_same_whatever_the_chunks(data: bytes, every: int, sizes: list[int]) -> None:
    """Which bits flip depends on their position in the connection, not on how the bytes arrive."""
    assert run(Corrupt(every), *cut_up(data, sizes)).bytes == run(Corrupt(every), data).bytes


def test_corrupt_follows_its_seed() -> None:
    """The same seed flips the same bits, another seed others, at positions all over the block."""
    passed = {seed: run(Corrupt(100), bytes(1000), seed=seed).bytes for seed in "abcdefgh"}
    assert len(set(passed.values())) == 8
    assert all(run(Corrupt(100), bytes(1000), seed=seed).bytes == passed[seed] for seed in passed)
    places = {place % 100 for it in passed.values() for place, _ in flips(bytes(1000), it)}
    assert len(places) > 40
    lone = run(Corrupt(), bytes(1000)).bytes
    assert set(lone) == {1 << bit for bit in range(8)}


def test_corrupt_fires_with_its_first_bit() -> None:
    """It fires with the first flipped bit, not before."""
    line = Line(Corrupt(1000), seed="4")
    place = next(i for i, _ in flips(bytes(1000), run(Corrupt(1000), bytes(1000), seed="4").bytes))
    assert place > 0
    assert (line.say(bytes(place)).fired, line.say(b"\0").fired) == (0, 1)


# PacketLoss


def dropped(toxic: PacketLoss, chunks: int, seed: str = SEED) -> list[bool]:
    """For each of some numbered chunks, whether it was dropped."""
    passed = {piece.data for piece in run(toxic, *(b"%d" % i for i in range(chunks)), seed=seed).pieces}
    return [b"%d" % i not in passed for i in range(chunks)]


def test_packet_loss_at_its_ends() -> None:
    """A rate of 1 drops every chunk and fires with the first, 0 drops none and never fires; ends always pass."""
    lost = run(PacketLoss(1), b"ab", b"c", end=True)
    assert (lost.bytes, lost.fired, lost.ends) == (b"", 2, [(End.FIN, 100.0)])
    kept = run(PacketLoss(0), b"ab", b"c", end=True)
    assert (kept.bytes, kept.fired, kept.ends) == (b"abc", 0, [(End.FIN, 100.0)])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_chunks_are_dropped_whole_at_their_rate(rate: float) -> None:
    """About that share of 2,000 chunks is dropped (within 5 standard deviations); no chunk is cut or moved."""
    lost = dropped(PacketLoss(rate), 2000)
    assert abs(sum(lost) - 2000 * rate) < 5 * (2000 * rate * (1 - rate)) ** 0.5
    kept = b"".join(b"%d" % i for i, gone in enumerate(lost) if not gone)
    assert run(PacketLoss(rate), *(b"%d" % i for i in range(2000))).bytes == kept


def test_correlation_is_added_after_a_dropped_chunk_only() -> None:
    """After a dropped chunk the next is dropped with the sum of both probabilities, at most 1; after one that passed,
    with `loss_rate` alone.
    """
    lost = dropped(PacketLoss(0.2, 0.5), 4000)
    after = {before: [now for last, now in pairwise(lost) if last is before] for before in (True, False)}
    for before, rate in ((True, 0.7), (False, 0.2)):
        seen = after[before]
        assert abs(sum(seen) - len(seen) * rate) < 5 * (len(seen) * rate * (1 - rate)) ** 0.5
    for_ever = dropped(PacketLoss(0.2, 0.9), 200)
    assert all(for_ever[for_ever.index(True) :])


def test_packet_loss_follows_its_seed() -> None:
    """The same seed drops the same chunks, another seed others."""
    assert dropped(PacketLoss(0.5), 64) == dropped(PacketLoss(0.5), 64) != dropped(PacketLoss(0.5), 64, "1|2")


def test_packet_loss_undone_closes_connections_that_lost_bytes() -> None:
    """Undone, it closes a connection that lost bytes, and no other."""
    assert Line(PacketLoss(1)).say(b"x").remove() == [End.CLOSE]
    assert Line(PacketLoss(0)).say(b"x").remove() == []


# Detector


def test_a_witness_tells_of_data_or_of_new_connections() -> None:
    """One kind of detector fires when a client sends data, the other when one connects."""
    says, connects = Line(Detector()), Line(Detector(connects=True))
    assert (says.fired, connects.fired) == (0, 1)
    assert (says.say(b"x").fired, connects.say(b"x").fired) == (1, 1)
    fired: list[int] = []
    old = Detector(connects=True).pipe(Flow(Random(1), lambda: fired.append(1), new=False))
    assert (list(old.opened(0.0)), fired) == ([], [])


# parameters


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Latency(-1), "Latency: latency must be a number from 0 to below 2**63, not -1"),
        (lambda: Latency(1, -2), "Latency: jitter must be a number from 0 to below 2**63, not -2"),
        (lambda: Latency("50"), "Latency: latency must be a number from 0 to below 2**63, not '50'"),
        (lambda: Latency(None), "Latency: latency must be a number from 0 to below 2**63, not None"),
        (lambda: Latency(True), "Latency: latency must be a number from 0 to below 2**63, not True"),
        (lambda: Latency(float("nan")), "Latency: latency must be a number from 0 to below 2**63, not nan"),
        (lambda: Latency(float("inf")), "Latency: latency must be a number from 0 to below 2**63, not inf"),
        (lambda: Latency(stream="sideways"), "Latency: stream must be one of upstream, downstream, not 'sideways'"),
        (lambda: Latency(toxicity=1.1), "Latency: toxicity must be a number from 0 to 1, not 1.1"),
        (lambda: Latency(toxicity=-0.1), "Latency: toxicity must be a number from 0 to 1, not -0.1"),
        (lambda: Latency(toxicity="half"), "Latency: toxicity must be a number from 0 to 1, not 'half'"),
        (lambda: Bandwidth(0), "Bandwidth: rate must be above 0; to pass nothing use faults.Timeout(0)"),
        (lambda: Bandwidth(float("inf")), "Bandwidth: rate must be a number from 0 to below 2**63, not inf"),
        (lambda: Slicer(0), "Slicer: size_variation must be below average_size, not 0 of 0"),
        (lambda: Slicer(5, 5), "Slicer: size_variation must be below average_size, not 5 of 5"),
        (lambda: Slicer(0.5), "Slicer: average_size must be a whole number of bytes, not 0.5"),
        (lambda: Slicer(5, 1.5), "Slicer: size_variation must be a whole number of bytes, not 1.5"),
        (lambda: LimitData(1.5), "LimitData: bytes must be a whole number of bytes, not 1.5"),
        (lambda: LimitData(-1), "LimitData: bytes must be a number from 0 to below 2**63, not -1"),
        (lambda: HalfClose(0.5), "HalfClose: after_bytes must be a whole number of bytes, not 0.5"),
        (lambda: ResetPeer(0, 0.5), "ResetPeer: after_bytes must be a whole number of bytes, not 0.5"),
        (lambda: ResetPeer(-1), "ResetPeer: timeout must be a number from 0 to below 2**63, not -1"),
        (lambda: Timeout(-1), "Timeout: timeout must be a number from 0 to below 2**63, not -1"),
        (lambda: SlowClose(-1), "SlowClose: delay must be a number from 0 to below 2**63, not -1"),
        (lambda: PacketLoss(1.1), "PacketLoss: loss_rate must be a number from 0 to 1, not 1.1"),
        (lambda: PacketLoss(0.1, 2), "PacketLoss: correlation must be a number from 0 to 1, not 2"),
        (lambda: PacketLoss(-1), "PacketLoss: loss_rate must be a number from 0 to below 2**63, not -1"),
        (lambda: Latency(when=""), "Latency: when must be text that occurs in a question, not ''"),
        (lambda: Latency(when=5), "Latency: when must be text that occurs in a question, not 5"),
        (lambda: Latency(nth=0), "Latency: nth must be a number from 1, or up to 10,000 of them, not 0"),
        (lambda: Latency(nth=True), "Latency: nth must be a number from 1, or up to 10,000 of them, not True"),
        (lambda: Latency(nth=1.5), "Latency: nth must be a number from 1, or up to 10,000 of them, not 1.5"),
        (lambda: Latency(nth=[]), "Latency: nth must be a number from 1, or up to 10,000 of them, not []"),
        (lambda: Latency(nth=(1, -1)), "Latency: nth must be a number from 1, or up to 10,000 of them, not (1, -1)"),
        (
            lambda: Latency(nth=range(1, 10**9)),
            "Latency: nth must be a number from 1, or up to 10,000 of them, not range(1, 1000000000)",
        ),
        (lambda: Latency(share=-0.1), "Latency: share must be a number from 0 to 1, not -0.1"),
        (lambda: Latency(share="1 %"), "Latency: share must be a number from 0 to 1, not '1 %'"),
        (lambda: Corrupt(0), "Corrupt: every must be a positive number of bytes, not 0"),
        (lambda: Corrupt(2.5), "Corrupt: every must be a whole number of bytes, not 2.5"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value(make: Any, words: str) -> None:
    """A wrong parameter is refused in one line when the toxic is made."""
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == words


# which connections a toxic hits


@dataclass(frozen=True)
class Marks(Toxic):
    """Appends a mark to each chunk, so that the order of toxics is visible."""

    mark: int = 65

    def pipe(self, flow: Flow) -> Pipe:
        return _Marks(flow, bytes([self.mark]))

    @classmethod
    def samples(cls, timeout: float) -> list[Any]:
        return []


class _Marks(Pipe):
    def __init__(self, flow: Flow, mark: bytes) -> None:
        self.flow, self.mark = flow, mark

    def data(self, piece: Piece) -> list[Piece]:
        self.flow.fired()
        return [Piece(piece.data + self.mark, piece.due)]


@dataclass(eq=False)
class FakeStream:
    """The part of a stream that `Toxics` uses."""

    chain: dict[int, Pipe] = field(default_factory=dict)

    def attach(self, number: int, pipe: Pipe) -> None:
        self.chain[number] = pipe

    def detach(self, number: int) -> None:
        self.chain.pop(number, None)

    def say(self, data: bytes) -> bytes:
        for pipe in self.chain.values():
            data = b"".join(piece.data for piece in pipe.data(Piece(data, 0.0)))
        return data


class FakeLink:
    """A link without sockets."""

    def __init__(self) -> None:
        self.closed = False
        self.prepared = Prepared()
        self.streams = {"upstream": FakeStream(), "downstream": FakeStream()}

    @property
    def numbers(self) -> list[int]:
        return list(self.streams["downstream"].chain)


class Bench:
    """`Toxics` on fake links, and the firings that it reports."""

    def __init__(self) -> None:
        self.firings: list[int] = []
        self.toxics = Toxics(lambda number, at: self.firings.append(number))
        self.links: list[FakeLink] = []

    def connect(self, links: int = 1) -> list[FakeLink]:
        made = [FakeLink() for _ in range(links)]
        for link in made:
            self.links.append(link)
            self.toxics.greet(link)  # type: ignore[arg-type]
        return made

    def install(self, number: int, toxic: Toxic, seed: str = SEED) -> None:
        self.toxics.add(number, toxic, seed)
        self.toxics.arm(self.links)  # type: ignore[arg-type]

    def hit(self, toxic: Toxic, seed: str = SEED, links: int = 200, *, old: bool = False) -> list[bool]:
        """For each of `links` connections, whether the toxic hits it."""
        if old:
            self.connect(links)
        self.install(1, toxic, seed)
        if not old:
            self.connect(links)
        return [link.numbers == [1] for link in self.links]


HALF = Latency(toxicity=0.5)


@pytest.mark.parametrize("old", [False, True])
def test_the_same_seed_hits_the_same_connections(old: bool) -> None:
    """Seed and connection number decide which connections are hit; another seed hits others."""
    first, again, other = (Bench().hit(HALF, seed, old=old) for seed in (SEED, SEED, "1|2"))
    assert first == again
    assert first != other


def test_toxics_roll_for_themselves() -> None:
    """Two toxics, and two shards, draw independently."""
    rolls = [Bench().hit(*how) for how in ((HALF, SEED), (HALF, "0|3"), (Latency(7, toxicity=0.5), SEED))]
    assert len(set(map(tuple, rolls))) == 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("old", [False, True])
def test_the_share_of_connections_is_the_toxicity(share: float, old: bool) -> None:
    """About that share of 2,000 connections is hit (within 5 standard deviations)."""
    hit = sum(Bench().hit(Latency(toxicity=share), links=2000, old=old))
    assert abs(hit - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5


def test_toxicity_at_its_ends() -> None:
    """1 hits every connection, 0 none."""
    assert all(Bench().hit(Latency(toxicity=1.0)))
    assert not any(Bench().hit(Latency(toxicity=0.0)))


def test_toxicity_is_drawn_once_a_connection() -> None:
    """The draw is made once per connection, and other toxics do not change it."""
    bench = Bench()
    before = bench.hit(HALF)
    bench.install(2, Latency(5))
    bench.connect(50)
    assert [1 in link.numbers for link in bench.links[:200]] == before


def test_old_connections_do_not_change_who_is_hit_among_the_new() -> None:
    """Which new connections are hit does not depend on how many existed before."""
    alone, beside = Bench(), Bench()
    beside.connect(17)
    assert alone.hit(HALF) == beside.hit(HALF)[17:]
    assert {True, False} <= set(beside.hit(HALF)[:17])


def test_a_toxic_takes_hold_of_old_connections_and_of_new_ones_once_armed() -> None:
    """Before `arm` a toxic hits no connection; afterwards all open and all new ones, but not closed ones."""
    bench = Bench()
    old, closed = bench.connect(2)
    closed.closed = True
    bench.toxics.add(1, Latency(), SEED)
    (early,) = bench.connect()
    assert [link.numbers for link in (old, closed, early)] == [[], [], []]
    bench.toxics.arm(bench.links)  # type: ignore[arg-type]
    (new,) = bench.connect()
    assert [link.numbers for link in (old, closed, early, new)] == [[1], [], [1], [1]]
    bench.toxics.remove(1, bench.links)  # type: ignore[arg-type]
    (later,) = bench.connect()
    assert [link.numbers for link in (old, closed, early, new, later)] == [[], [], [], [], []]


def test_a_toxic_removed_before_it_was_armed_never_works() -> None:
    """A toxic removed before it was armed is not armed with the next one."""
    bench = Bench()
    bench.toxics.add(1, Latency(), SEED)
    bench.toxics.remove(1, bench.links)  # type: ignore[arg-type]
    bench.install(2, Latency(5))
    assert bench.connect()[0].numbers == [2]


def test_toxics_apply_in_the_order_in_which_they_were_started() -> None:
    """Old and new connections pass toxics in start order; one removed and started again is last."""
    bench = Bench()
    (old,) = bench.connect()
    for number, mark in ((1, b"a"), (2, b"b")):
        bench.install(number, Marks(mark[0]))
    (new,) = bench.connect()
    assert old.streams["downstream"].say(b"-") == new.streams["downstream"].say(b"-") == b"-ab"
    bench.toxics.remove(1, bench.links)  # type: ignore[arg-type]
    bench.install(3, Marks(b"a"[0]))
    assert old.streams["downstream"].say(b"-") == b"-ba"


def test_a_toxic_acts_on_its_stream_only() -> None:
    """Upstream is from client to server, downstream from server to client."""
    bench = Bench()
    bench.install(1, Marks(stream="upstream"))
    (link,) = bench.connect()
    assert [link.streams[stream].say(b"-") for stream in ("upstream", "downstream")] == [b"-A", b"-"]


def test_a_firing_is_told_once_a_connection() -> None:
    """A toxic fires once per connection, however much data passes."""
    bench = Bench()
    bench.install(1, Marks())
    bench.install(2, Marks(66))
    for link in bench.connect(3):
        for _ in range(5):
            link.streams["downstream"].say(b"-")
    assert sorted(bench.firings) == [1, 1, 1, 2, 2, 2]


def test_conditions_count_over_the_connections_that_toxicity_hits() -> None:
    """The questions of old and new connections are counted together; a connection that is not hit counts none."""
    bench = Bench()
    bench.connect(20)
    bench.install(1, Marks(when="GET", nth=range(1, 1000, 2), toxicity=0.5))
    bench.connect(20)
    for link in bench.links:
        link.streams["upstream"].say(b"GET a\r\n")
    heard = [(link.numbers == [1], link.streams["downstream"].say(b"+x\r\n")) for link in bench.links]
    hit = [said for listens, said in heard if listens]
    assert hit == [b"+x\r\nA", b"+x\r\n"] * (len(hit) // 2) + [b"+x\r\nA"] * (len(hit) % 2)
    assert {said for listens, said in heard if not listens} == {b"+x\r\n"}
    assert {True, False} == {listens for listens, _ in heard}
    assert bench.firings == [1] * hit.count(b"+x\r\nA")


def test_a_toxic_with_conditions_is_gone_from_both_streams() -> None:
    """Removed, it neither acts nor listens."""
    bench = Bench()
    (link,) = bench.connect()
    bench.install(1, Marks(when="GET"))
    assert [list(stream.chain) for stream in link.streams.values()] == [[1], [1]]
    bench.toxics.remove(1, bench.links)  # type: ignore[arg-type]
    assert [list(stream.chain) for stream in link.streams.values()] == [[], []]


def test_statements_of_old_connections_are_known_by_their_text() -> None:
    """What the proxy noted before the toxic took hold tells what a name stands for."""
    bench = Bench()
    (link,) = bench.connect()
    link.prepared.texts[b"s"] = b"SELECT name"
    bench.install(1, Marks(when="name"))
    link.streams["upstream"].say(b"B\0\0\0\x0b\0s\0" + bytes(4) + b"S\0\0\0\4")
    assert link.streams["downstream"].say(b"Z\0\0\0\5I") == b"Z\0\0\0\5IA"


# how the keeper rebuilds the owner's toxic


class Plain:
    """Not a toxic."""


def test_the_keeper_builds_the_toxic_that_the_owner_has() -> None:
    """A toxic from any importable module is rebuilt from its parameters."""
    toxic = Marks(67, stream="upstream", toxicity=0.5, when=b"\xff", nth=range(2, 4), share=0.5)
    assert built(Marks.__module__, "Marks", None, json.loads(json.dumps(asdict(toxic)))) == toxic


@pytest.mark.parametrize(
    ("module", "kind", "words"),
    [
        ("no_such_module_at_all", "Marks", "the proxy cannot load Marks from no_such_module_at_all: put it into"),
        (__name__, "Nowhere", f"the proxy cannot load Nowhere from {__name__}: put it into"),
        (__name__, "test.<locals>.Inner", f"the proxy cannot load test.<locals>.Inner from {__name__}: put it into"),
        (__name__, "Plain", f"Plain of {__name__} is not a toxic"),
    ],
)
def test_what_the_keeper_cannot_build_is_named(module: str, kind: str, words: str) -> None:
    """A class that the keeper cannot import, or that is not a toxic, is a clear error."""
    with pytest.raises(RuntimeError) as caught:
        built(module, kind, None, {})
    assert str(caught.value).startswith(words)


# the repr of faults


@dataclass(frozen=True)
class Own(Fault):
    """A user-defined fault."""

    layer: ClassVar[str] = "network"
    depth: int = 1
    name: str = field(default="x", kw_only=True)

    async def start(self, target: Any, undo: Any) -> None:
        """Nothing."""

    @classmethod
    def samples(cls, timeout: float) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (Latency(), "Latency()"),
        (Latency(50), "Latency(50)"),
        (Latency(50, 5), "Latency(50, jitter=5)"),
        (Latency(1000, 5), "Latency(jitter=5)"),
        (Latency(50, toxicity=0.5, stream="upstream"), "Latency(50, stream='upstream', toxicity=0.5)"),
        (Latency(50, when="COPY", nth=[2, 3], share=0.5), "Latency(50, when='COPY', nth=(2, 3), share=0.5)"),
        (Latency(50, when=b"COPY", nth=range(1, 3)), "Latency(50, when='COPY', nth=(1, 2))"),
        (Own(2, name="y"), "Own(2, name='y')"),
    ],
)
def test_faults_show_as_one_would_write_them(fault: Fault, shown: str) -> None:
    """repr() is code that makes an equal fault, with defaults omitted."""
    assert repr(fault) == shown
    assert eval(shown) == fault

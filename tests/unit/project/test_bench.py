"""The benchmark's parts, on which its figures rest."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from tests.bench.limits import verdicts
from tests.bench.process import Absent, Failed, _heard
from tests.bench.readme import markdown
from tests.bench.redis_reads import _size
from tests.bench.results import Part, Results, Score
from tests.bench.rounds import in_turns
from tests.bench.streaming import Sums
from tests.bench.truth import Proof, expected, name_of, of_frame, spans
from tests.bench.wire import BINARY_END, PONG_END, Tail, copied, drain

ROW = b"d" + struct.pack("!IhiiI", 22, 2, 4, 1, 4) + b"Test"
END = b"d\x00\x00\x00\x06\xff\xffc\x00\x00\x00\x04C\x00\x00\x00\x0cCOPY 12\x00Z\x00\x00\x00\x05I"


def part_of(kind: str, size: int, **seconds: list[float]) -> Part:
    """A part whose contestants took these times."""
    return Part(
        kind, size, f"{kind}: {size}", {name: Score(name, {"seconds": times}) for name, times in seconds.items()}
    )


def frame_of(rows: int) -> pd.DataFrame:
    """The right answer."""
    return pd.DataFrame({"id": range(1, rows + 1), "name": [name_of(i) for i in range(1, rows + 1)]})


def results_of(*parts: Part) -> Results:
    """A run on a fixed machine."""
    machine = {"cores": 2, "memory": 8 << 30, "processor": "a processor", "versions": {"Postgres": "18.1"}}
    return Results("2026-01-02T03:04:05+00:00", machine, {"rounds": 7}, list(parts))


def test_everybody_is_in_each_round_once_and_the_order_changes() -> None:
    """Each round has every contestant once, in an order that the seed decides; some leave after a few rounds."""
    names = ["a", "b", "c", "d", "e"]
    rounds = list(in_turns(names, 6, "seed", {"e": 2}))
    assert [sorted(order) for order in rounds] == [names, names, *[names[:4]] * 4]
    assert len({tuple(order) for order in rounds}) > 2
    assert rounds == list(in_turns(names, 6, "seed", {"e": 2})) != list(in_turns(names, 6, "other", {"e": 2}))


def test_a_ratio_is_of_medians_and_not_of_what_is_not_there() -> None:
    """One slow sample changes no ratio; contestants without samples have none, and labkit is not its own peer."""
    part = part_of("bulk", 60, floor=[1.0, 1.0, 9.0], labkit=[1.5, 1.5, 90.0], adbc=[2.0, 3.0, 4.0], dask=[])
    assert (part.ratio("labkit"), part.ratio("adbc"), part.ratio("dask"), part.ratio("x")) == (1.5, 3.0, None, None)
    assert part.peers() == {"adbc": 3.0}


@pytest.mark.parametrize(("end", "before"), [(END, ROW), (b"3\r\n+PONG\r\n", b'$13\r\n[1,"Test 1"]\r\n')])
def test_the_floor_finds_the_end_wherever_the_stream_is_cut(end: bytes, before: bytes) -> None:
    """The end is found at its last byte and never before, with the stream in one piece, in two, or byte by byte."""
    pattern, stream = BINARY_END if end is END else PONG_END, before * 9 + end
    for cut in range(1, len(stream)):
        tail = Tail(pattern)
        assert not tail.ended(memoryview(stream[:cut]))
        assert tail.ended(memoryview(stream[cut:]))
    tail = Tail(pattern)
    assert [tail.ended(memoryview(stream[i : i + 1])) for i in range(len(stream))].index(True) == len(stream) - 1


def test_the_floor_counts_every_byte_of_every_socket() -> None:
    """Answers on several sockets are each read to the end, and the row counts the servers report are added up."""
    pairs = [socket.socketpair() for _ in range(3)]
    for number, (theirs, _) in enumerate(pairs):
        theirs.sendall(ROW * 100 * number + END)
    drained = drain([ours for _, ours in pairs], BINARY_END)
    assert [one.size for one in drained] == [len(ROW) * 100 * number + len(END) for number in range(3)]
    assert copied(drained) == 36
    for theirs, ours in pairs:
        theirs.close()
        ours.close()


def test_a_server_that_hangs_up_is_no_answer() -> None:
    """Half an answer to the floor is an error, not a fast read."""
    theirs, ours = socket.socketpair()
    theirs.sendall(ROW + END[:-1])
    theirs.close()
    with ours, pytest.raises(ConnectionError):
        drain([ours], BINARY_END)


@pytest.mark.parametrize("rows", [60, 1234])
def test_the_truth_is_counted_right(rows: int) -> None:
    """The expected proof, ranges and Redis byte counts match rows that are written out."""
    assert of_frame(frame_of(rows)) == expected(rows)
    owned = sorted(pair for ranges in spans(rows).values() for pair in ranges)
    assert [i for low, high in owned for i in range(low, high + 1)] == list(range(1, rows + 1))
    members = [f'[{i},"{name_of(i)}"]' for i in range(1, rows + 1)]
    written = f"*{rows}\r\n" + "".join(f"${len(member)}\r\n{member}\r\n" for member in members) + "+PONG\r\n"
    assert _size([(1, rows // 2), (rows // 2 + 1, rows)]) == len(written)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda frame: frame.iloc[::-1],
        lambda frame: frame.iloc[:-1],
        lambda frame: frame.assign(id=frame["id"].where(frame["id"] != 7, 8)),
        lambda frame: frame.assign(name=frame["name"].where(frame["id"] != 7, "Test  7")),
        lambda frame: frame.assign(name=1),
    ],
    ids=["unsorted", "short", "twice", "text", "no text"],
)
def test_nobody_wins_by_being_wrong(wrong: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """An unsorted or short answer, or one with a wrong ID or name, fails the proof."""
    try:
        proof = of_frame(wrong(frame_of(60)))
    except ValueError:
        return
    assert not proof.is_of(60)


@pytest.mark.parametrize("order", [[0, 1], [1, 0], [0, 0]], ids=["in order", "out of order", "twice"])
def test_a_stream_is_proven_without_being_kept(order: list[int]) -> None:
    """Batches in order add up to the proof of all rows; batches out of order fail it."""
    batches = [pa.RecordBatch.from_pandas(frame) for frame in (frame_of(60).iloc[:25], frame_of(60).iloc[25:])]
    sums = Sums()
    for number in order:
        sums.add(batches[number].select(["id", "name"]))
    assert sums.proof.is_of(60) == (order == [0, 1])
    assert json.dumps(asdict(sums.proof))


def test_what_a_contestant_cannot_know_is_not_held_against_it() -> None:
    """The floor proves only rows and bytes; what it does know must be right."""
    assert Proof(60, None, None, None).is_of(60)
    assert not Proof(59, None, None, None).is_of(60)


def test_absent_is_not_failed() -> None:
    """A worker says which of the two it is, with a reason."""
    with pytest.raises(Absent, match="polars is not installed"):
        _heard({"absent": "polars"})
    with pytest.raises(Failed, match="wrong rows"):
        _heard({"failed": "wrong rows"})


def test_a_limit_is_held_or_not_and_deadlines_by_their_worst() -> None:
    """A median at its bound is held, one above is not; for deadlines the worst sample counts."""
    late = Part("late", 60, "late", {"labkit": Score("labkit", {"late": [0.0, 0.0, 0.2], "blocked": [0.01]})})
    small = part_of("small", 3, floor=[1.0], labkit=[3.0])
    serve = part_of("serve", 20, floor=[0.01] * 98 + [0.1] * 2, labkit=[0.01] * 98 + [0.05] * 2)
    for name, rate in (("floor", 100.0), ("labkit", 129.0)):
        serve.scores[name].add("rate", [rate])
    held = {verdict.claim: verdict.held for verdict in verdicts(results_of(small, late, serve, part_of("redis", 60)))}
    assert held == {
        "GET /data, 20 clients: p99 × the hand-written endpoint's": True,
        "GET /data, 20 clients: its requests/s × ours": False,
        "small read, 3 shards: p50 × raw asyncpg": True,
        "beside a read of 60 rows: late by": False,
        "beside a read of 60 rows: event loop blocked": True,
    }


def test_results_are_the_same_when_they_are_read_again(tmp_path: Path) -> None:
    """The file keeps every sample."""
    results = results_of(part_of("bulk", 60, floor=[1.0, 2.0], labkit=[3.0]))
    results.parts[0].scores["polars"] = Score("polars", note="polars is not installed", out=True)
    results.save(tmp_path / "bench.json")
    assert Results.load(tmp_path / "bench.json") == results


def test_the_readme_says_when_where_and_how_much() -> None:
    """The Markdown has the date, the machine, all contestants by time, the absent ones, and the limits."""
    part = part_of("bulk", 1_000_000, floor=[0.1], dask=[1.6], labkit=[0.14])
    part.scores["polars"] = Score("polars", note="polars is not installed", out=True)
    part.scores["labkit"].samples |= {"peak": [40e6], "bytes": [27e6]}
    assert markdown(results_of(part)).splitlines() == [
        "Measured on 2026-01-02 with 2 cores, 8 GB of memory, a processor; the servers ran on the same machine "
        "(Postgres 18.1). Medians of at most 7 rounds in turns, each in a fresh process.",
        "",
        "| three Postgres shards to one sorted DataFrame | 1M rows | × floor | peak MB |",
        "|---|--:|--:|--:|",
        "| three raw sockets, COPY BINARY | 0.10 s | 1.00 |  |",
        "| **labkit** | **0.14 s** | **1.40** | **40** |",
        "| dask read_sql_table ×3, compute, sort | 1.60 s | 16.00 |  |",
        "",
        "polars.read_database_uri ×3, sort: polars is not installed.",
        "",
        "|  | promised: at most | measured | held |",
        "|---|--:|--:|--:|",
        "| bulk, 1,000,000 rows: × the floor | 1.50 | 1.40 | yes |",
        "| bulk, 1,000,000 rows: × the fastest peer (dask) | 1.00 | 0.09 | yes |",
        "| bulk, 1,000,000 rows: peak memory × the frame | 1.60 | 1.48 | yes |",
        "",
    ]

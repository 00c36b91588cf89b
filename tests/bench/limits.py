"""The promised limits, compared with the measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench.results import FLOOR, OURS, Part, Results, percentile

__all__ = ["Verdict", "verdicts"]

MB = 1e6


@dataclass(frozen=True)
class Verdict:
    """One promise and its measurement."""

    claim: str
    value: float
    bound: float
    format: str
    """The format of `value` and `bound`."""

    @property
    def held(self) -> bool:
        return self.value <= self.bound

    @property
    def mark(self) -> str:
        return "✓ held" if self.held else "✗ not held"

    @property
    def seen(self) -> str:
        return self.format.format(self.value)

    @property
    def allowed(self) -> str:
        return self.format.format(self.bound)


def verdicts(results: Results) -> list[Verdict]:
    """The verdicts on all measured parts, in their order."""
    return [verdict for part in results.parts for verdict in CHECKS.get(part.kind, _nothing)(part)]


def _nothing(_part: Part) -> Iterator[Verdict]:
    return iter(())


def _bulk(part: Part) -> Iterator[Verdict]:
    what = f"bulk, {part.size:,} rows"
    yield from _compared(part, what, 1.5)
    peak, size = part.median(OURS, "peak"), part.median(OURS, "bytes")
    yield from _at_most(f"{what}: peak memory × the frame", peak / size if peak and size else None, 1.6, "{:.2f}")


def _wide(part: Part) -> Iterator[Verdict]:
    yield from _compared(part, f"wide, {part.size:,} rows", 1.6)


def _compared(part: Part, what: str, bound: float) -> Iterator[Verdict]:
    """With the floor, at most `bound`, and with the fastest peer."""
    yield from _at_most(f"{what}: × the floor", part.ratio(OURS), bound, "{:.2f}")
    own, peers = part.median(OURS), part.peers()
    if own is not None and peers:
        best = min(peers, key=lambda peer: peers[peer])
        yield Verdict(f"{what}: × the fastest peer ({best})", own / peers[best], 1.0, "{:.2f}")


def _count(part: Part) -> Iterator[Verdict]:
    yield from _at_most(f"count, {part.size:,} rows: × the servers' own counts", part.ratio(OURS), 1.2, "{:.2f}")


def _small(part: Part) -> Iterator[Verdict]:
    yield from _at_most(f"small read, {part.size} shards: p50 × raw asyncpg", part.ratio(OURS), 3.0, "{:.2f}")


def _redis(part: Part) -> Iterator[Verdict]:
    what = f"Redis, {part.size:,} rows"
    yield from _at_most(f"{what}: × the floor", part.ratio(OURS), 3.0, "{:.2f}")
    peak, size = part.median(OURS, "peak"), part.median(OURS, "bytes")
    above = (peak - size) / MB if peak and size else None
    yield from _at_most(f"{what}: peak memory above the frame", above, 120.0, "{:.0f} MB")


def _stream(part: Part) -> Iterator[Verdict]:
    what = f"stream, {part.size:,} rows"
    peak, share = part.median(OURS, "peak"), part.median(OURS, "share")
    yield from _at_most(f"{what}: peak memory", peak and peak / MB, 200.0, "{:.0f} MB")
    yield from _at_most(f"{what}: first batch, part of the time", share, 0.05, "{:.1%}")


def _router(part: Part) -> Iterator[Verdict]:
    look_up, many = part.median(OURS, "look_up"), part.median(OURS, "many")
    yield from _at_most("router, 100k ranges: one look-up", look_up and look_up * 1e6, 1.0, "{:.2f} µs")
    yield from _at_most("router, 100k ranges: 1M IDs", many, 0.2, "{:.3f} s")


def _late(part: Part) -> Iterator[Verdict]:
    """Judges the worst of all rounds: a deadline must hold every time, not only in the median."""
    score = part.scores.get(OURS)
    samples = score.samples if score else {}
    what = f"beside a read of {part.size:,} rows"
    yield from _at_most(f"{what}: late by", max(samples.get("late", []), default=None), 0.1, "{:.3f} s")
    yield from _at_most(f"{what}: event loop blocked", max(samples.get("blocked", []), default=None), 0.05, "{:.3f} s")


def _serve(part: Part) -> Iterator[Verdict]:
    what = f"GET /data, {part.size} clients"
    own, theirs = (part.scores[name].samples.get("seconds") if name in part.scores else None for name in (OURS, FLOOR))
    if own and theirs:
        ratio = percentile(own, 99) / percentile(theirs, 99)
        yield Verdict(f"{what}: p99 × the hand-written endpoint's", ratio, 0.6, "{:.2f}")
    rate = part.ratio(FLOOR, "rate"), part.ratio(OURS, "rate")
    if rate[0] and rate[1]:
        yield Verdict(f"{what}: its requests/s × ours", rate[0] / rate[1], 1 / 1.3, "{:.2f}")


def _at_most(claim: str, value: float | None, bound: float, form: str) -> Iterator[Verdict]:
    """A verdict, unless the value was not measured."""
    if value is not None:
        yield Verdict(claim, value, bound, form)


CHECKS: dict[str, Callable[[Part], Iterator[Verdict]]] = {
    "bulk": _bulk,
    "wide": _wide,
    "count": _count,
    "small": _small,
    "redis": _redis,
    "stream": _stream,
    "router": _router,
    "serve": _serve,
    "late": _late,
}

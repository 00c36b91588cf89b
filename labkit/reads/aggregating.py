"""Aggregates over all shards: each computes its own, or its rows are read, and the results are put together here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from labkit._filters import Filters
from labkit._types import ShardKey
from labkit.aggregates import (
    Aggregate,
    Bounds,
    Partial,
    columns_of,
    fitted_bounds,
    merged,
    partial_of,
    refuse_misfits,
)
from labkit.answer import as_table
from labkit.merge import concatenated, join_parts
from labkit.report import skipped
from labkit.result import AggregateResult
from labkit.router import RangeRouter
from labkit.scatter import Question, Scatter, in_turns

__all__ = ["Aggregation"]


class Aggregation:
    """Aggregates of a reader's rows. It remembers the constraints of shards that have answered."""

    def __init__(self, scatter: Scatter, router: RangeRouter, timeout: float) -> None:
        self._scatter, self._router, self._timeout = scatter, router, timeout
        self._constraints: dict[ShardKey, dict[str, Bounds]] = {}

    async def read(
        self,
        aggregates: tuple[Aggregate, ...],
        low: int | None,
        high: int | None,
        filters: Filters | None,
        bounds: Any,
    ) -> list[AggregateResult]:
        """A result for each of the aggregates. See `ShardReader.aggregate`."""
        plan, columns = self._router.prune(low, high), columns_of(aggregates)
        deadline = asyncio.get_running_loop().time() + self._timeout
        outcomes = await self._scatter.ask(
            Question(plan, low, high, deadline, columns=columns, filters=filters, aggregates=aggregates)
        )
        rows = {shard: outcome.rows for shard, outcome in outcomes.items() if outcome.rows is not None}
        schema = next((one.schema for one in rows.values()), None)
        if schema is not None:
            refuse_misfits(aggregates, schema)
        given = {} if bounds is None else fitted_bounds(bounds, self._scatter.known() or schema)
        partials = {}
        for shard, one in rows.items():
            partials[shard] = one if isinstance(one, Partial) else partial_of(as_table(one), aggregates)
            looked_at = partials[shard].schema.names
            before = self._constraints.get(shard, {}).items()
            self._constraints[shard] = {name: pair for name, pair in before if name not in looked_at}
            self._constraints[shard].update(partials[shard].bounds)
        missing = concatenated(await in_turns(join_parts(plan, [shard for shard in plan if shard not in partials])))
        reports = {
            shard: outcomes[shard].report if shard in outcomes else skipped(shard) for shard in self._router.shards
        }
        known = [self._constraints[shard] for shard in plan if shard in self._constraints]
        absent, found = sum(end - start + 1 for start, end in missing), []
        for place, one in enumerate(aggregates):
            limits = given.get(one.column) or _common(known, one.column)
            value, least, most, certain = merged(one, place, list(partials.values()), absent, limits)
            found.append(AggregateResult(one, value, least, most, missing, reports, certain))
        return found


def _common(constraints: Sequence[Mapping[str, Bounds]], column: str) -> Bounds:
    """The bounds that hold on every shard."""
    pairs = [one.get(column, (None, None)) for one in constraints]
    lows, highs = [low for low, _ in pairs], [high for _, high in pairs]
    return None if None in lows else min(lows, default=None), None if None in highs else max(highs, default=None)

"""Rows in string keys `key:id`, each holding JSON; see `labkit.shards.redis.layouts.keys`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from labkit.answer import Answer
from labkit.shards.base import Ask
from labkit.shards.redis.layouts.base import BATCH, Run
from labkit.shards.redis.layouts.bulk import MAX_ONE_BY_ONE
from labkit.shards.redis.layouts.columns import Pairs
from labkit.shards.redis.layouts.keys import KeyPerRow
from labkit.shards.redis.layouts.ordering import Ids
from labkit.shards.redis.layouts.records import Records
from labkit.shards.redis.layouts.rows import as_list, row_under, shown
from labkit.shards.redis.layouts.writing import Rows, batches
from labkit.tables import SCHEMA, InvalidAnswer

__all__ = ["Strings"]


class Strings(KeyPerRow):
    """Rows are fetched by MGET. Without a `schema` they are (id, name)."""

    name = "strings"

    def __init__(self, schema: pa.Schema | None = None) -> None:
        self.schema = SCHEMA if schema is None else schema
        self._pairs = schema is None
        self._form = Pairs() if schema is None else Records(schema)

    def write(self, key: str, rows: Rows) -> Iterator[tuple[Any, ...]]:
        """MSET. See `Layout.write`."""
        for batch in batches(rows, BATCH):
            yield "MSET", *(word for row_id, stored in batch for word in (f"{key}:{row_id}", stored))

    async def _few(self, run: Run, key: str, ids: Ids, ask: Ask) -> Answer:
        if not self._pairs:
            return await super()._few(run, key, ids, ask)
        known = ids.tolist()
        values = await _values(run, key, known)
        return [row_under(row_id, raw) for row_id, raw in zip(known, values, strict=True) if raw is not None]

    def _answer(self, table: pa.Table) -> Answer:
        if not self._pairs or table.num_rows > MAX_ONE_BY_ONE:
            return table
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    async def _fetched(self, run: Run, key: str, ids: Ids, ask: Ask) -> Any:
        return await _values(run, key, ids.tolist())

    def _decoded(self, ids: Ids, found: Any, ask: Ask) -> pa.RecordBatch:
        places = [place for place, raw in enumerate(found) if raw is not None]
        if len(places) < len(found):
            ids, found = ids[places], [found[place] for place in places]
        batch = self._form.rows_under(ids, found)
        if batch is None:
            raise self._form.first_wrong(ids, found)[1]
        return batch


async def _values(run: Run, key: str, ids: Sequence[int]) -> list[Any]:
    """The value of each id; None if the key does not exist."""
    values = as_list(await run("MGET", *(f"{key}:{row_id}" for row_id in ids)), len(ids))
    await _check_types(run, [f"{key}:{row_id}" for row_id, raw in zip(ids, values, strict=True) if raw is None])
    return values


async def _check_types(run: Run, missing: list[str]) -> None:
    """Raises `InvalidAnswer` for keys that are not strings: MGET returns NULL for them, so rows would be lost."""
    if not missing or not await run("EXISTS", *missing):
        return
    for one in missing:
        kind = await run("TYPE", one)
        if kind not in (b"none", b"string"):  # a string was written since: the row did not exist when it was requested
            raise InvalidAnswer(f"key {shown(one)} holds no row: its type is {shown(kind)}")

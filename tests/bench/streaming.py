"""All rows of three Postgres shards in successive Arrow batches: memory depends on the batch, not the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench.bulk import floor, reader_of, warm
from tests.bench.task import Contestant, Ready, Task
from tests.bench.truth import Proof

__all__ = ["BATCH", "CONTESTANTS", "Sums"]

BATCH = 65_536


@dataclass
class Sums:
    """The proof of batches that are not kept; raises ValueError for one that is empty or too large."""

    rows: int = 0
    ids: int = 0
    text: int = 0
    ascending: bool = True
    last: int | None = None

    def add(self, batch: Any) -> None:
        import numpy as np
        import pyarrow.compute as pc

        if not 0 < batch.num_rows <= BATCH:
            raise ValueError(f"a batch has {batch.num_rows:,} rows, not 1 to {BATCH:,}")
        ids = batch.column(0).to_numpy()
        first, last = int(ids[0]), int(ids[-1])
        self.ascending &= bool(np.all(ids[1:] > ids[:-1])) and (self.last is None or first > self.last)
        self.last = last
        self.rows += batch.num_rows
        self.ids += int(ids.sum())
        self.text += pc.sum(pc.utf8_length(batch.column(1))).as_py()

    @property
    def proof(self) -> Proof:
        return Proof(self.rows, self.ascending, self.ids, self.text)


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """`async for batch in reader.stream(batch=65_536)`; each batch is dropped at once."""
    with asyncio.Runner() as runner:
        reader = reader_of(task)

        async def read() -> dict[str, float]:
            began, first, rows = time.perf_counter(), 0.0, 0
            async for batch in reader.stream(batch=BATCH):
                first = first or time.perf_counter() - began
                rows += batch.num_rows
            if rows != task.rows:
                raise ValueError(f"{rows:,} rows were streamed")
            return {"first": first, "share": first / (time.perf_counter() - began)}

        async def proven() -> Proof:
            """Proves in a second pass, since checking batches takes longer than reading them."""
            sums, stream = Sums(), reader.stream(batch=BATCH)
            async for batch in stream:
                sums.add(batch)
            stream.raise_for_missing()
            return sums.proof

        runner.run(warm(reader))
        yield Ready(lambda: runner.run(read()), lambda _: runner.run(proven()), dict)
        runner.run(reader.aclose())


CONTESTANTS: dict[str, Contestant] = {"floor": floor, "labkit": labkit}

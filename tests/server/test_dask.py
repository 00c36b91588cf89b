"""Reads by `dask.distributed` worker processes: right rows, a dead shard in both modes, and nothing left."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import dask
import pandas as pd
import psutil
import pytest
from distributed import Client, LocalCluster

import labkit.dask
from labkit import Lab, RangeRouter, errors, faults
from labkit.shards import MemoryShard
from labkit.tables import SCHEMA
from labkit.topology import Topology
from tests.server.conftest import EMBEDDED
from tests.support.watching import PATIENCE, becomes_true, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]  # two workers import everything first


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of two worker processes; asserts that they end when it is closed."""
    folder = str(tmp_path_factory.mktemp("dask"))
    with (
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        assert os.getpid() not in {worker.pid for worker in workers}
        yield client
    assert becomes_true(lambda: not running(workers))


def dialled(ports: set[int]) -> bool:
    """Whether the calling process has a connection to one of these ports."""
    return any(one.raddr and one.raddr.port in ports for one in psutil.Process().net_connections("inet"))


@EMBEDDED
async def test_workers_read_the_truth(client: Client, lab: Lab) -> None:
    """Workers return all rows, and those of a filter, as they were loaded, and keep no connection."""
    frame = labkit.dask.read(lab, timeout=PATIENCE)
    pd.testing.assert_frame_equal(frame.compute().reset_index(), lab.rows)
    assert frame.loc[8:13].compute().index.tolist() == [*range(8, 14)]
    ports = {urlsplit(url).port for url in lab.urls.values()}
    assert becomes_true(lambda: not any(client.run(dialled, ports).values()))


@EMBEDDED
async def test_a_dead_shard_raises_or_is_reported(client: Client, lab: Lab) -> None:
    """A dead shard raises `IncompleteRead` with its full message, or gives the same rows and gaps as a read."""
    frame = labkit.dask.read(lab, timeout=PATIENCE)
    rows, gaps = labkit.dask.read(lab, timeout=PATIENCE, missing="report")
    async with lab.fault(3, faults.Kill()):
        with pytest.raises(errors.IncompleteRead, match=r"-[36]0 \(shard 3 is unreachable: connection refused\)"):
            frame.compute()
        assert len(frame.loc[:20].compute()) == 20
        found, lost = dask.compute(rows, gaps)
        result = await lab.read()
    pd.testing.assert_frame_equal(found.reset_index(), result.frame)
    assert tuple(zip(lost.index, lost["high"], strict=True)) == result.missing
    assert lost[["shard", "status", "cause"]].to_numpy().tolist() == [[3, "unreachable", "connection refused"]] * 2
    assert len(frame.compute()) == 60


@dataclass(frozen=True)
class Noted:
    """The place of a broken shard; it logs every time its source is made."""

    file: Path

    def source(self) -> MemoryShard:
        with self.file.open("a") as file:
            file.write("dialled\n")
        return MemoryShard(error=ConnectionResetError("reset"))


async def test_a_failed_range_is_not_tried_again(client: Client, tmp_path: Path) -> None:
    """Neither labkit nor the scheduler retries a failed range, and the gaps need no second read."""
    places = Topology(2.0, RangeRouter({1: [(1, 9)]}), {1: Noted(tmp_path / "notes")})  # type: ignore[dict-item]
    with pytest.raises(errors.IncompleteRead, match="1-9"):
        labkit.dask.read(places, schema=SCHEMA).compute()
    found, lost = dask.compute(*labkit.dask.read(places, schema=SCHEMA, missing="report"))
    assert (len(found), lost["cause"].tolist()) == (0, ["reset"])
    assert (tmp_path / "notes").read_text() == "dialled\n" * 2

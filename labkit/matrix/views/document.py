"""The report as JSON types, without the rows themselves."""

from __future__ import annotations

from typing import Any

from labkit.faults import Sample
from labkit.lab.connections import Bytes, Connection
from labkit.matrix.evidence import Read
from labkit.matrix.outcome import Outcome, Outcomes

__all__ = ["report_dict"]


def report_dict(report: Outcomes) -> dict[str, Any]:
    """Times are in seconds, those of connections since the reads of the cell began; shard keys are text."""
    return {
        "versions": report.versions,
        "launchers": dict(report.launchers),
        "timeout": report.timeout,
        "seed": report.seed,
        "reader": report.reader or None,
        "contract": report.contract.value,
        "table": report.table,
        "interrupted": report.interrupted,
        "elapsed": round(report.elapsed, 3),
        "right": len(report.cells) - len(report.wrong),
        "wrong": len(report.wrong),
        "cells": [_cell(outcome) for outcome in report.cells],
    }


def _cell(outcome: Outcome) -> dict[str, Any]:
    cell = outcome.cell
    return {
        "title": cell.title,
        "backend": cell.backend,
        "layer": cell.layer,
        "summary": cell.summary,
        "faults": {str(shard): [_sample(sample) for sample in samples] for shard, samples in cell.samples.items()},
        "verdict": outcome.verdict,
        "complaints": [{"kind": c.kind.value, "reader": c.reader or None, "text": c.text} for c in outcome.complaints],
        "reads": [_read(read) for read in outcome.reads],
        "wire": [_connection(one) for one in outcome.wire],
        "left": [_connection(one) for one in outcome.left],
        "healed": None if outcome.healed is None else round(outcome.healed, 3),
        "elapsed": round(outcome.elapsed, 3),
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "kind": type(sample.fault).__name__,
        "written": repr(sample.fault),
        "warm": sorted(sample.warm),
        "cold": sorted(sample.cold),
    }


def _connection(one: Connection) -> dict[str, Any]:
    return {
        "shard": str(one.shard),
        "port": one.port,
        "opened": round(one.opened, 4),
        "asked": _bytes(one.asked),
        "answered": _bytes(one.answered),
        "closed": _at(one.closed),
        "closed_by": one.closed_by or None,
    }


def _bytes(passed: Bytes) -> dict[str, Any]:
    return {"bytes": passed.count, "first": _at(passed.first), "last": _at(passed.last)}


def _at(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _read(read: Read) -> dict[str, Any]:
    seen = read.seen
    return {
        "reader": read.who,
        "rows": None if seen.rows is None else len(seen.rows),
        "missing": None if seen.missing is None else [list(gap) for gap in seen.missing],
        "statuses": None if seen.statuses is None else {str(s): status.value for s, status in seen.statuses.items()},
        "error": seen.error,
        "malformed": seen.malformed,
        "crashed": seen.crashed,
        "blocked": round(seen.blocked, 3),
        "elapsed": round(seen.elapsed, 3),
        "starved": round(seen.starved, 3),
    }

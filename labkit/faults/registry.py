"""An entry per fault; the docs, the matrix and the tests use this list."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from labkit.faults.base import Fault, Sample
from labkit.report import Status

__all__ = ["Entry", "entries"]


@dataclass(frozen=True)
class Entry:
    """One kind of fault."""

    name: str
    kind: type[Fault]
    layer: str
    backends: tuple[str, ...]
    parameters: dict[str, Any]
    """Names and defaults; `dataclasses.MISSING` for a required one."""
    may: frozenset[Status]
    """The statuses that a correct read may report for a shard with it, over all samples of the matrix."""
    summary: str
    """The first sentence of its docstring."""

    @classmethod
    def of(cls, kind: type[Fault]) -> Entry:
        """The entry of a class."""
        return cls(
            name=kind.__name__,
            kind=kind,
            layer=kind.layer,
            backends=kind.backends,
            parameters=_parameters(kind),
            may=frozenset(status for sample in kind.samples(2.0) for status in sample.cold | sample.warm),
            summary=_first_sentence(inspect.getdoc(kind) or ""),
        )

    def samples(self, timeout: float) -> list[Sample]:
        """How the failure matrix tries it, with reads of `timeout` seconds."""
        return list(self.kind.samples(timeout))


def entries(kinds: Iterable[type[Fault]]) -> dict[str, Entry]:
    """The entries of these kinds by name, in the given order."""
    return {kind.__name__: Entry.of(kind) for kind in kinds}


def _parameters(kind: type[Any]) -> dict[str, Any]:
    """Its own parameters, then those that all toxics have."""
    own_first = sorted(fields(kind), key=lambda field: field.kw_only is True)
    return {field.name: field.default for field in own_first}


def _first_sentence(text: str) -> str:
    head = " ".join(text.split("\n\n")[0].split())
    return head if ". " not in head else head[: head.index(". ") + 1]

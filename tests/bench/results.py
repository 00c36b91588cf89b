"""The measurements: every raw sample, with medians and ratios computed from them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

__all__ = ["FAILED", "FLOOR", "OURS", "Part", "Results", "Score", "percentile"]

FLOOR, OURS = "floor", "labkit"
"""The contestants in every part."""
FAILED = "failed: "
"""The prefix of a failed contestant's note."""


@dataclass
class Score:
    """One contestant in one part."""

    contestant: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    """`seconds`; `peak` and `bytes` in bytes; and whatever else a part measures. In the order measured."""
    note: str = ""
    """Why there are no samples, or fewer than others have."""
    out: bool = False
    """Whether it is not installed or has failed, and is not measured again."""

    @property
    def failed(self) -> bool:
        """Whether it is out for a reason other than not being installed."""
        return self.out and self.note.startswith(FAILED)

    def add(self, name: str, values: Iterable[float]) -> None:
        self.samples.setdefault(name, []).extend(values)

    def median(self, name: str = "seconds") -> float | None:
        """The median; None if not measured."""
        values = self.samples.get(name)
        return median(values) if values else None


@dataclass
class Part:
    """One comparison over `size` rows (or shards)."""

    kind: str
    size: int
    title: str
    scores: dict[str, Score] = field(default_factory=dict)
    """By contestant, in the order shown."""

    def median(self, contestant: str, name: str = "seconds") -> float | None:
        """A contestant's median; None if not measured."""
        score = self.scores.get(contestant)
        return None if score is None else score.median(name)

    def ratio(self, contestant: str, name: str = "seconds") -> float | None:
        """A contestant's median divided by the floor's; None if either is missing."""
        own, floor = self.median(contestant, name), self.median(FLOOR, name)
        return None if own is None or not floor else own / floor

    def peers(self, name: str = "seconds") -> dict[str, float]:
        """The medians of all contestants other than the floor and labkit."""
        others = [one for one in self.scores if one != FLOOR and not one.startswith(OURS)]
        found = {one: self.median(one, name) for one in others}
        return {one: value for one, value in found.items() if value is not None}


@dataclass
class Results:
    """One run."""

    date: str
    """Its start, ISO 8601, UTC."""
    machine: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    """Its options: rounds, seed, quick."""
    parts: list[Part] = field(default_factory=list)
    proxy: dict[str, Any] | None = None
    """The results of `tests.bench.proxy`."""

    def of(self, kind: str) -> list[Part]:
        """All parts of a kind, smallest first."""
        return sorted((part for part in self.parts if part.kind == kind), key=lambda part: part.size)

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON types. Medians and ratios are for readers; `load` recomputes them from the samples."""
        told = asdict(self)
        for part, words in zip(self.parts, told["parts"], strict=True):
            for name, score in words["scores"].items():
                score["medians"] = {kind: part.median(name, kind) for kind in score["samples"]}
                score["ratio"] = part.ratio(name)
        return told

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads what `save` wrote."""
        told = json.loads(path.read_text(encoding="utf-8"))
        parts = [
            Part(
                part["kind"],
                part["size"],
                part["title"],
                {
                    name: Score(name, score["samples"], score["note"], score["out"])
                    for name, score in part["scores"].items()
                },
            )
            for part in told["parts"]
        ]
        return cls(told["date"], told["machine"], told["run"], parts, told["proxy"])


def percentile(values: list[float], part: int) -> float:
    """The value that `part` percent do not exceed."""
    return quantiles(values, n=100, method="inclusive")[part - 1] if len(values) > 1 else values[0]

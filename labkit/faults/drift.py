"""What becomes of a table's columns by a migration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["HOWS", "Drift"]

HOWS = ("missing", "renamed", "type", "extra")
"""The ways in which a column can differ from the other shards'."""


@dataclass(frozen=True)
class Drift:
    """What became of the columns of a table."""

    column: str
    how: str
    """One of `HOWS`."""
    name: str
    """What the renamed column, or the extra one, is called."""
    kind: pa.DataType
    """The type of `column`, as reads return it; of an extra one, the key's."""

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row in the types of `to_json`, as a server without declared columns then has it.

        Another type is one that JSON tells from the column's own, also where the value was NULL: text and what is
        written as text become numbers; integers, booleans and lists text; other numbers, which may be text, booleans.
        """
        if self.how == "extra":
            return {**row, self.name: 1}
        if self.how == "missing":
            return {name: value for name, value in row.items() if name != self.column}
        if self.how == "renamed":
            return {self.name if name == self.column else name: value for name, value in row.items()}
        return {**row, self.column: self._mistyped(row.get(self.column))}

    @property
    def is_text(self) -> bool:
        """Whether the column is text."""
        return str(self.kind) in ("string", "large_string")

    def _mistyped(self, value: Any) -> Any:
        name = str(self.kind)
        if name.startswith(("int", "bool", "list")):
            return str(value)
        if name.startswith(("decimal", "float", "double")):
            return value is not None
        return len(value or "")

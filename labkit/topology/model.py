"""The keys of a topology file and their types; a mistake becomes one line that names the key and the fix."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labkit._checks import did_you_mean, safe_repr, shown
from labkit.errors import TopologyError

__all__ = ["FileModel", "ShardModel", "checked", "named", "redacted"]

ADDRESS = re.compile(r"://|:.*@", re.DOTALL)


def redacted(value: Any) -> str:
    """`repr(value)`, clipped; anything that looks like an address is not shown at all."""
    if ADDRESS.search(safe_repr(value)):
        return "an address (not shown: it may hold a password)"
    return shown(value)


STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class ShardModel(BaseModel):
    """One `[[shards]]`."""

    model_config = STRICT

    name: int | str
    url: str = Field(repr=False)
    table: str | None = None
    key: str | None = None
    columns: list[str] | None = None
    types: dict[str, str] | None = Field(default=None, alias="schema")
    layout: str | None = None
    only_these: bool | None = None
    ranges: list[Any]
    """Pairs; the router checks them, with better messages."""


class FileModel(BaseModel):
    """The whole file."""

    model_config = STRICT

    timeout: float = 2.0
    table: str | None = None
    key: str | None = None
    columns: list[str] | None = None
    types: dict[str, str] | None = Field(default=None, alias="schema")
    layout: str | None = None
    only_these: bool | None = None
    shards: list[ShardModel]


KINDS = {
    "timeout": "a number of seconds",
    "shards": "tables: write [[shards]] above each",
    "key": "text",
    "columns": 'a list of names such as ["name", "amount"]',
    "schema": 'a table of types as text such as { order_id = "int64", amount = "decimal128(12, 2)" }',
    "ranges": "a list of [low, high] pairs",
    "url": "text",
    "table": "text",
    "layout": "text",
    "only_these": "true or false",
    "name": "an integer or text",
}
EXAMPLES = {
    "shards": "[[shards]] with name, url, table and ranges",
    "name": "name = 1",
    "url": 'url = "postgresql+asyncpg://user@host:5432/database" or "redis://host:6379/0"',
    "ranges": "ranges = [[1, 10]]",
}


def checked(values: Mapping[str, Any]) -> FileModel:
    """The file's values, each of the right type; `TopologyError` for a wrong type, a missing key or an unknown key."""
    try:
        return FileModel.model_validate(values)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)
    # A mistyped key is missing as well; the key as it was written says more.
    wrong.sort(key=lambda one: one["type"] != "extra_forbidden")
    raise TopologyError(_message(wrong[0]["type"], wrong[0]["loc"], wrong[0]["input"], values))


def named(name: int | str) -> str:
    """What messages call a shard."""
    return f"shard {redacted(name)}"


def _message(kind: str, path: tuple[int | str, ...], value: Any, values: Mapping[str, Any]) -> str:
    where, model, keys = _place(path, values)
    if not keys:
        return f"{where}must be a table, not {redacted(value)}"
    key = str(keys[-1])
    if kind == "missing":
        return f"{where}{key} is missing: add {EXAMPLES[key]}"
    if kind == "extra_forbidden":
        return f"{where}unknown key {redacted(key)}; {did_you_mean(key, _names(model))}"
    if key == "columns" and isinstance(value, Mapping):
        return f"{where}{_of_two_columns(value)}"
    return f"{where}{key} must be {KINDS[key]}" + ("" if key in ("url", "shards") else f", not {redacted(value)}")


def _place(
    path: tuple[int | str, ...], values: Mapping[str, Any]
) -> tuple[str, type[BaseModel], tuple[int | str, ...]]:
    """The place as a prefix for messages, the model that has the key, and the rest of the path: at most one key."""
    where, keys = "", path
    model: type[BaseModel] = FileModel
    if len(keys) > 1 and keys[0] == "shards":
        where, model, keys = _nth(int(keys[1]), values["shards"]), ShardModel, keys[2:]
    return where, model, keys[:1]  # after `name`, pydantic lists the types that it tried


def _names(model: type[BaseModel]) -> list[str]:
    """The keys of a model as a file has them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _of_two_columns(value: Mapping[Any, Any]) -> str:
    """What to write instead of the `columns = { id = …, name = … }` of earlier versions."""
    quoted = {"id": '"id"', "name": '"name"'}
    quoted |= {
        name: json.dumps(text) for name, text in value.items() if isinstance(text, str) and not ADDRESS.search(text)
    }
    key = f"key = {quoted['id']} and " if "id" in value else ""
    return f"columns is a list of names now, and results keep the table's own: write {key}columns = [{quoted['name']}]"


def _nth(position: int, shards: list[Any]) -> str:
    """A shard by its name if that is valid, else by its position in the file."""
    name = shards[position].get("name") if isinstance(shards[position], Mapping) else None
    if isinstance(name, int | str) and not isinstance(name, bool):
        return f"{named(name)}: "
    return f"[[shards]] number {position + 1}: "

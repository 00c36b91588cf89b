"""Query parameters, checked strictly, so that a typo does not silently read everything."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from labkit._checks import as_names
from labkit._filters import parsed as parsed_filter
from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import UsageError

__all__ = [
    "LOW_ABOVE_HIGH",
    "MAX_PAGE",
    "CountQuery",
    "DataQuery",
    "Int64",
    "WatchQuery",
    "openapi_parameters",
    "parsed",
]

MAX_PAGE = 10_000
"""Rows per page."""
LOW_ABOVE_HIGH = "low_above_high"
"""The type of the only error that concerns two parameters."""


def _integer(low: int, high: int, **schema: Any) -> BeforeValidator:
    """Integers in [low, high] in ASCII decimal digits: not 1.0, 1_000, +1 or the digits of other scripts."""

    def parse(text: Any) -> int:
        number = int(text) if re.fullmatch(r"-?[0-9]{1,19}", str(text)) else None
        if number is None or not low <= number <= high:
            raise PydanticCustomError("integer", f"must be an integer from {low} to {high}")
        return number

    documented = Annotated[int, Field(ge=low, le=high, json_schema_extra=schema)]
    return BeforeValidator(parse, json_schema_input_type=documented)


def _one_of(documented: Any, **meanings: Any) -> BeforeValidator:
    """One of these words, converted to its meaning."""

    def parse(text: Any) -> Any:
        if text not in meanings:
            raise PydanticCustomError("word", f"must be {' or '.join(meanings)}")
        return meanings[text]

    return BeforeValidator(parse, json_schema_input_type=documented)


def _read_by(parse: Callable[[Any], Any], documented: Any) -> BeforeValidator:
    """What `parse` makes of it; its `UsageError` says why it cannot."""

    def checked(given: Any) -> Any:
        try:
            return parse(given)
        except UsageError as error:
            raise PydanticCustomError("usage", "{why}", {"why": str(error)}) from None

    return BeforeValidator(checked, json_schema_input_type=documented)


def _names(given: list[str]) -> tuple[str, ...]:
    return as_names([name for line in csv.reader(given, skipinitialspace=True) for name in line])


# The document describes only what can be sent: a parameter can be omitted (None), but null cannot be sent.
_INT64 = _integer(INT64_MIN, INT64_MAX, format="int64")
Int64: TypeAlias = Annotated[int, _INT64]
_Bound: TypeAlias = Annotated[int | None, _INT64]
_PageSize: TypeAlias = Annotated[int | None, _integer(1, MAX_PAGE)]
_Complete: TypeAlias = Annotated[Literal["complete"] | None, _one_of(Literal["complete"], complete="complete")]
_Columns: TypeAlias = Annotated[tuple[str, ...] | None, _read_by(_names, list[str])]
_Filter: TypeAlias = Annotated[tuple[Any, ...], _read_by(parsed_filter, str)]
_Flag: TypeAlias = Annotated[bool, _one_of(bool, true=True, false=False)]

_REQUIRE = Field(default=None, description="`complete`: 503 instead of an answer with gaps.", examples=["complete"])


class _Window(BaseModel):
    REPEATABLE: ClassVar = frozenset({"columns", "filter"})

    low: _Bound = Field(default=None, description="Only rows with this ID or higher.", examples=[9])
    high: _Bound = Field(default=None, description="Only rows with this ID or lower; not below `low`.", examples=[12])
    filter: list[_Filter] = Field(
        default=[],
        description="Only rows for which this holds: `amount>100`, `status in open,late`, `note is null`, "
        '`"unit price" <= 9.50`. Repeatable: all must hold. No comparison with NULL holds; text compares by '
        "code points.",
        examples=[["id>9"]],
    )

    @model_validator(mode="after")
    def _low_not_above_high(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise PydanticCustomError(
                LOW_ABOVE_HIGH,
                "low must not be above high: got low={low}, high={high}; swap them",
                {"low": self.low, "high": self.high},
            )
        return self


class _Rows(_Window):
    columns: _Columns = Field(
        default=None,
        description="Only these columns besides the key; all without it. Repeatable, and names may be separated by "
        "commas; a name with a comma is in double quotes.",
        examples=[["name"]],
    )


class DataQuery(_Rows):
    """The parameters of GET /data."""

    after: _Bound = Field(
        default=None, description="Only rows with a higher ID: the `next` of the previous page.", examples=[10]
    )
    limit: _PageSize = Field(
        default=None,
        description="The maximum number of rows. The answer's `next` is the `after` of the next page. "
        "Without it the whole window is read at once.",
        examples=[100],
    )
    require: _Complete = _REQUIRE


class WatchQuery(_Rows):
    """The parameters of GET /data/watch."""

    deltas: _Flag = Field(
        default=False,
        description="After the first result send only changes: rows added, changed, removed or lost.",
        examples=[True],
    )


class CountQuery(_Window):
    """The parameters of GET /data/count."""

    require: _Complete = _REQUIRE


_Query = TypeVar("_Query", bound=_Window)


def parsed(query: type[_Query], request: Request) -> _Query:
    """The parameters of the request. Raises `RequestValidationError`, which names each invalid, unknown or repeated
    parameter; if there are too many, it says only that.
    """
    text: bytes = request.scope["query_string"]
    if not text:
        return query()
    limit: int = request.app.state.limits.parameters
    count = text.count(b"&") + 1
    if count > limit:
        raise RequestValidationError([_error("too_many", "&", str(count), f"{count} parameters; at most {limit}")])
    given = request.query_params.multi_items()
    values: dict[str, Any] = dict(given)
    several = values.keys() & query.REPEATABLE
    once = [name for name, _ in given if name not in several]
    if len(set(once)) < len(once) or values.keys() - query.model_fields.keys():
        raise RequestValidationError(list(_wrong_names(query, given)))
    values |= {name: request.query_params.getlist(name) for name in several}
    try:
        return query.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**each, "loc": ("query", *each["loc"])} for each in found]) from None


def openapi_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """The parameters as the OpenAPI document describes them."""
    parameters = []
    for name, schema in query.model_json_schema()["properties"].items():
        if not schema.get("default", 0):  # stands for an omitted parameter; null cannot be sent
            schema.pop("default", None)
        parameters.append(
            {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
        )
    return parameters


def _wrong_names(query: type[_Window], given: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    values: dict[str, list[str]] = {}
    for name, value in given:
        values.setdefault(name, []).append(value)
    for name, each in values.items():
        if name not in query.model_fields:
            message = f"unknown parameter; expected one of {', '.join(query.model_fields)}"
            yield _error("unknown", name, ", ".join(each), message)
        elif len(each) > 1 and name not in query.REPEATABLE:
            yield _error("repeated", name, ", ".join(each), f"given {len(each)} times; give it once")


def _error(kind: str, name: str, value: str, message: str) -> dict[str, Any]:
    """An error in pydantic's form."""
    return {"type": kind, "loc": ("query", name), "msg": message, "input": value}

"""What may be asked: query parameters, checked strictly, so that a typo does not silently read everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from labkit._types import INT64_MAX, INT64_MIN

__all__ = ["LARGEST_PAGE", "LOW_ABOVE_HIGH", "TOO_MANY", "DataQuery", "Int64", "WatchQuery", "asked", "documented"]

LARGEST_PAGE = 10_000
"""Rows that one page has at the most."""
LOW_ABOVE_HIGH = "low_above_high"
"""The type of the one error that is about two parameters."""
TOO_MANY = "too_many"
"""The type of the one error that is about all of them."""


def _integer(low: int, high: int, **documented: Any) -> BeforeValidator:
    """Integers in [low, high], in plain decimal digits: not 1.0, 1_000, +1 or the digits of other scripts."""

    def parse(text: Any) -> int:
        number = int(text) if re.fullmatch(r"-?[0-9]{1,19}", str(text)) else None
        if number is None or not low <= number <= high:
            raise PydanticCustomError("integer", f"must be an integer from {low} to {high}")
        return number

    sent = Annotated[int, Field(ge=low, le=high, json_schema_extra=documented)]
    return BeforeValidator(parse, json_schema_input_type=sent)


def _one_of(sent: Any, **meanings: Any) -> BeforeValidator:
    """Text that is one of these words, as what it means."""

    def parse(text: Any) -> Any:
        if text not in meanings:
            raise PydanticCustomError("word", f"must be {' or '.join(meanings)}")
        return meanings[text]

    return BeforeValidator(parse, json_schema_input_type=sent)


# What can be sent is said apart: a parameter that is left out has no value, but null is none that can be sent.
_INT64 = _integer(INT64_MIN, INT64_MAX, format="int64")
Int64: TypeAlias = Annotated[int, _INT64]
_Bound: TypeAlias = Annotated[int | None, _INT64]
_PageSize: TypeAlias = Annotated[int | None, _integer(1, LARGEST_PAGE)]
_Complete: TypeAlias = Annotated[Literal["complete"] | None, _one_of(Literal["complete"], complete="complete")]
_Flag: TypeAlias = Annotated[bool, _one_of(bool, true=True, false=False)]

_Query = TypeVar("_Query", bound=BaseModel)


class _Window(BaseModel):
    low: _Bound = Field(default=None, description="Only rows with this ID or a higher one.", examples=[9])
    high: _Bound = Field(
        default=None, description="Only rows with this ID or a lower one; not below `low`.", examples=[12]
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


class DataQuery(_Window):
    """The parameters of GET /data."""

    after: _Bound = Field(
        default=None, description="Only rows with a higher ID than this: the `next` of the page before.", examples=[10]
    )
    limit: _PageSize = Field(
        default=None,
        description="So many rows at the most. The answer's `next` is the `after` of the page that follows. "
        "Without it the whole window is read at once.",
        examples=[100],
    )
    require: _Complete = Field(
        default=None,
        description="`complete`: rather 503 than an answer with gaps.",
        examples=["complete"],
    )


class WatchQuery(_Window):
    """The parameters of GET /data/watch."""

    deltas: _Flag = Field(
        default=False,
        description="After the first result send only what is different: rows added, changed, removed or lost.",
        examples=[True],
    )


def asked(query: type[_Query], request: Request) -> _Query:
    """The parameters of the request. `RequestValidationError` names each that is not valid, unknown or repeated, or
    says that there are too many: those are not looked at.
    """
    text: bytes = request.scope["query_string"]
    if not text:
        return query()
    most: int = request.app.state.limits.parameters
    count = text.count(b"&") + 1
    if count > most:
        raise RequestValidationError([_error(TOO_MANY, "&", str(count), f"{count} parameters; at most {most}")])
    given = request.query_params.multi_items()
    values = dict(given)
    if len(values) < len(given) or values.keys() - query.model_fields.keys():
        raise RequestValidationError(list(_wrong_names(query, given)))
    try:
        return query.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**each, "loc": ("query", *each["loc"])} for each in found]) from None


def documented(query: type[BaseModel]) -> list[dict[str, Any]]:
    """The same for the OpenAPI document."""
    parameters = []
    for name, schema in query.model_json_schema()["properties"].items():
        if schema.get("default", 0) is None:  # what is left out has no value; null is none that can be sent
            del schema["default"]
        parameters.append(
            {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
        )
    return parameters


def _wrong_names(query: type[BaseModel], given: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    values: dict[str, list[str]] = {}
    for name, value in given:
        values.setdefault(name, []).append(value)
    for name, each in values.items():
        if name not in query.model_fields:
            message = f"unknown parameter; expected one of {', '.join(query.model_fields)}"
            yield _error("unknown", name, ", ".join(each), message)
        elif len(each) > 1:
            yield _error("repeated", name, ", ".join(each), f"given {len(each)} times; give it once")


def _error(kind: str, name: str, value: str, message: str) -> dict[str, Any]:
    """An error as pydantic has them."""
    return {"type": kind, "loc": ("query", name), "msg": message, "input": value}

"""What may be asked: query parameters, checked strictly, so that a typo does not silently read everything."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeAlias

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from labkit.router import INT64_MAX, INT64_MIN

__all__ = ["LARGEST_PAGE", "LOW_ABOVE_HIGH", "TOO_MANY", "DataQuery", "Int64", "Names", "WatchQuery"]

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
        if text is False:  # FastAPI below 0.148 has the default checked as well
            return text
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


class Names:
    """A dependency that lets each parameter of `query` through once, and nothing else."""

    def __init__(self, query: type[BaseModel]) -> None:
        self._known = tuple(query.model_fields)

    async def __call__(self, request: Request) -> None:
        """Raises `RequestValidationError` that names each unknown and each repeated parameter, or says that there are
        too many: those are not looked at.
        """
        most: int = request.app.state.limits.parameters
        count = request.scope["query_string"].count(b"&") + 1
        if count > most:
            raise RequestValidationError([_error(TOO_MANY, "&", str(count), f"{count} parameters; at most {most}")])
        given = request.query_params.multi_items()
        if len(given) == len({name for name, _ in given} & set(self._known)):
            return
        values: dict[str, list[str]] = {}
        for name, value in given:
            values.setdefault(name, []).append(value)
        errors = []
        for name, each in values.items():
            if name not in self._known:
                message = f"is no parameter; there are {', '.join(self._known)}"
                errors.append(_error("unknown", name, ", ".join(each), message))
            elif len(each) > 1:
                message = f"is there {len(each)} times; give it once"
                errors.append(_error("repeated", name, ", ".join(each), message))
        raise RequestValidationError(errors)


def _error(kind: str, name: str, value: str, message: str) -> dict[str, Any]:
    """An error as pydantic has them."""
    return {"type": kind, "loc": ("query", name), "msg": message, "input": value}

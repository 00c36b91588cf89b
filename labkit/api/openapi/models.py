"""Schemas of all bodies, for the OpenAPI document. Responses are not built from them; tests check against them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from labkit._types import INT64_MAX, INT64_MIN
from labkit.report import Status

__all__ = [
    "Column",
    "Count",
    "Delta",
    "Health",
    "IncompleteRead",
    "InvalidParameter",
    "InvalidParameters",
    "NotAcceptable",
    "NotReady",
    "Problem",
    "ReadResult",
    "Readiness",
    "Row",
    "ShardReport",
    "ShardUnavailable",
    "StreamEnd",
]

RowId = Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX, json_schema_extra={"format": "int64"})]
Gap = tuple[RowId, RowId]
Seconds = Annotated[float, Field(ge=0)]
Rows = Annotated[int, Field(ge=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(BaseModel):
    """One row of the table, by the names of its columns. As soon as a shard has answered, this document lists them."""

    model_config = ConfigDict(extra="allow")


class Column(_Body):
    """A column of the table."""

    name: str
    type: str = Field(description="Its Arrow type, such as `int64`, `string` or `decimal128(12, 2)`.")


class ShardReport(_Body):
    """The outcome of one shard in one read."""

    status: Status = Field(description="The outcome.")
    rows: int = Field(ge=0, description="Rows from this shard in the answer.")
    started: Seconds = Field(description="Seconds from the start of the read until this shard was queried.")
    elapsed: Seconds = Field(description="Seconds from the query to the answer, the failure or the deadline.")
    error: str | None = Field(description="The cause in one line; null if the shard answered or was skipped.")
    ranges: list[Gap] = Field(description="The ID ranges queried on it, both ends inclusive; empty if it was skipped.")


Shards = Annotated[dict[str, ShardReport], Field(description="A report for each shard, by its key as text.")]
Missing = Annotated[
    list[Gap], Field(description="The exact ID ranges that went unanswered, both ends inclusive, ascending.")
]


class _State(_Body):
    complete: bool = Field(description="true if every range that was queried was answered.")
    missing: Missing
    shards: Shards


class _Timed(_State):
    elapsed: Seconds = Field(description="Seconds the read took.")
    timeout: Seconds = Field(description="The time limit of the read in seconds.")


class ReadResult(_Timed):
    """The rows, and which are missing."""

    columns: list[Column] = Field(
        min_length=1,
        description="The columns of `rows`. The first is the key, the ID. Decimals are text, as are NaN and the "
        "infinities; times are in ISO 8601; binary is in Base64; 64-bit integers are exact.",
    )
    rows: list[Row] = Field(description="Ascending by ID.")
    next: RowId | None = Field(description="Of a page: the `after` of the next page; null on the last page.")


class Count(_State):
    """How many rows there are."""

    aggregate: Literal["count()"]
    value: Rows = Field(description="The number of rows on the shards that answered.")
    at_least: Rows = Field(description="What the true number cannot be below.")
    at_most: Rows = Field(description="What it cannot be above: each missing ID may be a row.")


class StreamEnd(_State):
    """The last line of a stream of rows."""

    next: RowId | None = Field(description="If the stream ended early: the `after` to resume with; else null.")


class Delta(_Timed):
    """The changes since the previous event: delete `removed` and `lost`, insert or replace `added` and `changed`."""

    added: list[Row] = Field(description="Rows that are new, or that were in a missing range.")
    changed: list[Row] = Field(description="Rows of which a value changed, as they are now.")
    removed: list[RowId] = Field(description="IDs of deleted rows.")
    lost: list[RowId] = Field(description="IDs of rows in ranges that are now missing.")


class Health(_Body):
    """The service is running."""

    status: Literal["ok"]


class Readiness(_Body):
    """Whether shards answer."""

    ready: Literal[True]
    shards: Shards


class Problem(_Body):
    """A problem document, RFC 9457."""

    type: str = Field(description="A URI that identifies the problem type; `about:blank` if the status says it all.")
    title: str = Field(description="The problem type in words.")
    status: int = Field(ge=400, le=599, description="The HTTP status.")
    detail: str = Field(description="What went wrong this time, and how to fix it.")
    instance: str = Field(description="The path of the request.")


class InvalidParameter(_Body):
    """What is wrong with one parameter."""

    where: Literal["query", "path"] = Field(alias="in")
    parameter: str = Field(description="Its name as sent; cut if long.")
    value: str = Field(description="Its value as sent; cut if long.")
    detail: str = Field(description="What it must be.")


class InvalidParameters(Problem):
    """422: invalid, unknown or repeated parameters."""

    errors: list[InvalidParameter] = Field(min_length=1, description="One entry per wrong parameter.")


class NotAcceptable(Problem):
    """406: the Accept header allows no available representation."""

    available: list[str] = Field(description="The available media types.")


class IncompleteRead(Problem):
    """503: a complete answer was required, and a shard failed."""

    missing: Missing
    shards: Shards


class ShardUnavailable(Problem):
    """503: the shard that owns the ID failed."""

    shards: Shards


class NotReady(Problem):
    """503: no shard answers."""

    ready: Literal[False]
    shards: Shards

"""The bodies of answers, for the OpenAPI document. Answers are not made from these; tests hold them to these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from labkit._types import INT64_MAX, INT64_MIN
from labkit.report import Status

__all__ = [
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


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(_Body):
    """One row of the table."""

    id: RowId
    name: str | None = Field(description="null where the table has NULL.")


class ShardReport(_Body):
    """How one shard did in one read."""

    status: Status = Field(description="How its part of the read ended.")
    rows: int = Field(ge=0, description="Rows of this shard in the answer.")
    started: Seconds = Field(description="Seconds from the start of the read until this shard was asked.")
    elapsed: Seconds = Field(description="Seconds from being asked until the answer, the failure or the deadline.")
    error: str | None = Field(description="The cause in one line; null when it answered or was not asked.")
    ranges: list[Gap] = Field(description="The ID ranges asked of it, both ends inclusive; empty when it was skipped.")


Shards = Annotated[dict[str, ShardReport], Field(description="A report for each shard, by its key as text.")]
Missing = Annotated[
    list[Gap], Field(description="Exact ID ranges that no shard answered for, both ends inclusive, ascending.")
]


class _State(_Body):
    complete: bool = Field(description="true when every asked range answered.")
    missing: Missing
    shards: Shards


class _Timed(_State):
    elapsed: Seconds = Field(description="Seconds the read took.")
    timeout: Seconds = Field(description="Seconds it was allowed to take.")


class ReadResult(_Timed):
    """The rows that were read, and what of them is missing."""

    rows: list[Row] = Field(description="Ascending by ID.")
    next: RowId | None = Field(description="Of a page: the `after` of the page that follows; null where none does.")


class StreamEnd(_State):
    """The last line of a stream of rows."""

    next: RowId | None = Field(description="Where to go on (`after`) when the stream ended early; else null.")


class Delta(_Timed):
    """The steps from the event before to now: `removed` and `lost` are taken out, `added` and `changed` put in."""

    added: list[Row] = Field(description="Rows that were not there: new, or in a range that was missing.")
    changed: list[Row] = Field(description="Rows that have another name, as they are now.")
    removed: list[RowId] = Field(description="IDs of rows that are gone.")
    lost: list[RowId] = Field(description="IDs of rows in ranges that are missing now.")


class Health(_Body):
    """The service runs."""

    status: Literal["ok"]


class Readiness(_Body):
    """Whether shards answer."""

    ready: Literal[True]
    shards: Shards


class Problem(_Body):
    """A problem document, RFC 9457."""

    type: str = Field(description="A URI that names the kind of problem; `about:blank` where the status says it all.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(ge=400, le=599, description="The HTTP status.")
    detail: str = Field(description="What went wrong this time, and what to do.")
    instance: str = Field(description="The path that was asked for.")


class InvalidParameter(_Body):
    """What is wrong with one parameter."""

    where: Literal["query", "path"] = Field(alias="in")
    parameter: str = Field(description="Its name, as it was sent.")
    value: str = Field(description="Its value, as it was sent; cut where it is long.")
    detail: str = Field(description="What it must be.")


class InvalidParameters(Problem):
    """422: parameters that are not valid, unknown, or there twice."""

    errors: list[InvalidParameter] = Field(min_length=1, description="An entry for each parameter that is wrong.")


class NotAcceptable(Problem):
    """406: the Accept header allows nothing that there is."""

    available: list[str] = Field(description="The media types that there are.")


class IncompleteRead(Problem):
    """503: a complete answer was required, and shards failed."""

    missing: Missing
    shards: Shards


class ShardUnavailable(Problem):
    """503: the one shard that could know failed."""

    shards: Shards


class NotReady(Problem):
    """503: no shard answers."""

    ready: Literal[False]
    shards: Shards

"""A migration half done, as a pure function: which column of which table becomes what."""

from __future__ import annotations

from random import Random
from typing import Any

import pyarrow as pa
import pytest

from labkit.errors import UsageError
from labkit.faults import ALL, SchemaDrift, Undo
from labkit.faults.base import BACKENDS
from labkit.faults.drift import HOWS, Drift
from labkit.lab.backends.tables import migration
from labkit.report import Status
from labkit.shards.redis.layouts.values import WRONG, of_json

ORDERS = pa.schema([("order_id", pa.int64()), ("amount", pa.decimal128(12, 2)), ("note", pa.large_string())])
ROW = {"order_id": 12, "amount": "9.50", "note": "late"}


def drift(column: str | None, how: str, schema: pa.Schema = ORDERS, seed: Any = 0) -> Drift:
    return SchemaDrift(column, how).drift(schema, Random(seed))


@pytest.mark.parametrize(
    ("how", "row", "sql"),
    [
        ("missing", {"order_id": 12, "note": "late"}, 'DROP COLUMN "amount"'),
        ("renamed", {"order_id": 12, "amount_2": "9.50", "note": "late"}, 'RENAME COLUMN "amount" TO "amount_2"'),
        ("type", {**ROW, "amount": True}, 'ALTER COLUMN "amount" TYPE text USING "amount"::text'),
        ("extra", {**ROW, "amount_2": 1}, 'ADD COLUMN "amount_2" integer NOT NULL DEFAULT 1'),
    ],
)
def test_each_kind_changes_one_column(how: str, row: dict[str, Any], sql: str) -> None:
    """Rows keep the order of their other values; a table is altered as the migration would."""
    found = drift("amount", how)
    assert list(found.of(ROW).items()) == list(row.items())
    assert migration(found) == sql


def test_another_type_shows_where_a_value_is_null_too() -> None:
    """No value fits the declared type any more, so that a reader of JSON sees it in every row."""
    written = {
        pa.large_string(): [("late", 4), ("", 0), (None, 0)],
        pa.timestamp("us", "UTC"): [("2024-02-29T12:00:00.000000Z", 27), (None, 0)],
        pa.large_binary(): [("AA==", 4), (None, 0)],
        pa.month_day_nano_interval(): [("P1M0DT0S", 8), (None, 0)],
        pa.int32(): [(5, "5"), (None, "None")],
        pa.bool_(): [(True, "True"), (None, "None")],
        pa.list_(pa.int64()): [([1], "[1]"), (None, "None")],
        pa.float64(): [(0.5, True), ("NaN", True), (None, False)],
        pa.decimal128(12, 2): [("9.50", True), (None, False)],
    }
    for kind, pairs in written.items():
        found = drift("n", "type", pa.schema([("id", pa.int64()), ("n", kind)]))
        for value, other in pairs:
            row = found.of({"id": 1, "n": value})
            assert (row, type(row["n"])) == ({"id": 1, "n": other}, type(other))
            with pytest.raises(WRONG):
                of_json([row["n"]], kind)
    assert migration(drift("note", "type")) == 'ALTER COLUMN "note" TYPE integer USING length("note"::text)'


def test_a_column_is_drawn_from_those_besides_the_key() -> None:
    """The same seed draws the same column; other seeds draw others; the key is never drawn."""
    for how in HOWS:
        drawn = [drift(None, how, seed=seed).column for seed in range(20)]
        assert set(drawn) == {"amount", "note"}
        assert drawn == [drift(None, how, seed=seed).column for seed in range(20)]


def test_a_new_name_is_free() -> None:
    """A renamed or extra column is called as no other column is, and so that Postgres does not cut it."""
    taken = pa.schema([("id", pa.int64()), ("n", pa.int32()), ("n_2", pa.int32()), ("x" * 63, pa.int32())])
    assert drift("n", "renamed", taken).name == drift("n", "extra", taken).name == "n_2_2"
    assert drift("new", "extra", taken).name == "new"
    assert drift("x" * 63, "renamed", taken).name == "drifted"
    assert drift(None, "extra", pa.schema([("id", pa.int64())])).name == "id_2"


@pytest.mark.parametrize(
    ("column", "how", "said"),
    [
        ("notes", "missing", "SchemaDrift: unknown column 'notes'; did you mean note?"),
        ("x", "type", "SchemaDrift: unknown column 'x'; expected one of amount, note"),
        ("order_id", "missing", "SchemaDrift: order_id is the key, which stays as it is: name another column"),
        ("order_id", "renamed", "SchemaDrift: order_id is the key"),
        ("order_id", "type", "SchemaDrift: order_id is the key"),
        ("note", "gone", "SchemaDrift: how must be missing, renamed, type or extra, not 'gone'"),
        ("note", None, "SchemaDrift: how must be missing, renamed, type or extra, not None"),
        (5, "missing", "SchemaDrift: column must be the name of a column, or None, not 5"),
        ("", "extra", "SchemaDrift: column must be the name of a column, or None, not ''"),
    ],
)
def test_what_cannot_be_is_one_clear_error(column: Any, how: Any, said: str) -> None:
    """The error names the value, and what to pass instead."""
    with pytest.raises(UsageError) as caught:
        drift(column, how)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_a_key_alone_can_only_get_a_column() -> None:
    """Where there is no other column, the error says so."""
    with pytest.raises(UsageError, match="id is the key, which stays as it is: the table has no other column"):
        drift(None, "missing", pa.schema([("id", pa.int64())]))


def test_the_matrix_tries_every_kind_on_every_server() -> None:
    """A correct reader says `invalid` for each, whatever connections it has."""
    entry = ALL["SchemaDrift"]
    assert (entry.layer, entry.backends, entry.may) == ("data", BACKENDS, {Status.INVALID})
    assert [sample.fault for sample in entry.samples(2.0)] == [SchemaDrift(how=how) for how in HOWS]
    assert [repr(SchemaDrift("note", "type")), repr(SchemaDrift())] == [
        "SchemaDrift('note', how='type')",
        "SchemaDrift()",
    ]


class Broken:
    """A shard that fails while its table is moved aside."""

    schema = ORDERS

    def __init__(self) -> None:
        self.calls: list[str] = []

    def random(self, fault: Any) -> Random:
        return Random(repr(fault))

    async def drift(self, drift: Drift) -> None:
        self.calls.append(f"{drift.column} is {drift.how}")
        raise ConnectionError("lost half-way")

    async def bring_back(self) -> None:
        self.calls.append("bring back")


async def test_a_start_that_fails_half_way_can_be_undone() -> None:
    """The undo is registered before anything is changed."""
    target, undo = Broken(), Undo()
    with pytest.raises(ConnectionError):
        await SchemaDrift("note").start(target, undo)  # type: ignore[arg-type]
    await undo.run()
    assert target.calls == ["note is missing", "bring back"]

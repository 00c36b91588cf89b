"""The tables of the matrix: awkward, the same for the same seed, and of every type that a lab loads."""

from __future__ import annotations

import pyarrow as pa
import pytest

from labkit.errors import UsageError
from labkit.matrix.dataset import ROWS, TABLES, dataset, flat
from labkit.router import CLASSIC
from labkit.tables import SCHEMA


def test_both_tables_have_a_row_for_every_id_under_the_same_name():
    """The wide table is the classic one with further columns; each shard has its twenty rows."""
    classic, wide = map(dataset, TABLES)
    assert classic.schema.equals(SCHEMA)
    assert classic.rows == {row_id: (row_id, name) for row_id, name in ROWS.items()}
    assert {row_id: row[:2] for row_id, row in wide.rows.items()} == classic.rows
    for made in (classic, wide):
        assert [len(rows) for rows in made.by_shard.values()] == [20, 20, 20]
        assert {CLASSIC.locate(row[0]) for row in made.by_shard[2]} == {2}


def test_the_wide_table_has_many_types_with_nulls_and_extremes():
    """Each of its columns has another type, NULLs and every value at least once; some columns need quoting."""
    table = dataset("wide").table
    kinds = {str(kind) for kind in table.schema.types}
    assert len(table.schema) == 18
    assert len(kinds) >= 16
    assert all(column.null_count >= 8 for column in table.columns[2:])
    assert "Paid?" in table.schema.names
    assert {2**63 - 1, -(2**63), 2**53 + 1} <= set(table["total"].to_pylist())
    assert {float("inf"), None} <= set(table["weight"].to_pylist())


def test_the_seed_deals_the_values():
    """The same seed makes the same table, another one another; the rows are the same in number and name."""
    assert dataset("wide", 1).table.equals(dataset("wide", 1).table)
    assert not dataset("wide", 1).table.equals(dataset("wide", 2).table)


def test_values_are_judged_in_the_types_of_json():
    """Decimals, times and bytes are text, as `to_json` writes them; lists are lists."""
    wide = dataset("wide")
    columns = dict(zip(wide.schema.names, zip(*wide.rows.values(), strict=True), strict=True))
    assert {None, "0.01", "-9999999999.99", "1000.00"} == set(columns["amount"])
    assert "9999-12-30T01:02:03.000004Z" in columns["created_at"]
    assert {None, "", "AP9ceA==", "e30="} == set(columns["raw"])
    assert [None] in columns["scores"]


def test_a_row_of_a_lab_is_laid_flat():
    """(id, name) stays; the values of another table stand beside their key."""
    assert flat((1, "a")) == (1, "a")
    assert flat((1, ("a", None))) == (1, "a", None)


@pytest.mark.parametrize("name", ["wied", "", None])
def test_an_unknown_table_is_refused(name):
    """One line names the value and what there is."""
    with pytest.raises(UsageError, match=r"unknown table .*(did you mean wide|expected one of classic, wide)"):
        dataset(name)


def test_a_lab_loads_the_wide_table_as_it_is():
    """Its types are those that reads return, so that no value changes on the way."""
    assert dataset("wide").table.schema.types.count(pa.large_string()) == 1

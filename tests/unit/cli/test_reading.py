"""`labkit read` and `labkit count` of any table: columns, filters, counts with a hole, and one line for a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from labkit.cli.group import main
from labkit.shards import MemoryShard
from labkit.topology import ShardPlace

Run = Callable[..., tuple[int, str, str]]
BROKEN = ConnectionRefusedError("connection refused")


def orders(low: int, high: int) -> pa.Table:
    """Orders with these IDs: every second one is open, every third has no note."""
    ids = range(low, high + 1)
    return pa.table(
        {
            "order_id": pa.array(ids, pa.int64()),
            "amount": pa.array([Decimal(i * 100 + 5) / 100 for i in ids], pa.decimal128(12, 2)),
            "the status": pa.array(["open" if i % 2 else "paid, late" for i in ids], pa.large_string()),
            "note": pa.array([None if i % 3 == 0 else "" for i in ids], pa.large_string()),
        }
    )


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> dict[str, MemoryShard]:
    """The shards that the places of a topology lead to, by their table."""
    found = {"one": MemoryShard(orders(1, 10)), "two": MemoryShard(orders(11, 20))}
    monkeypatch.setattr(ShardPlace, "source", lambda place: found[place.table])
    return found


@pytest.fixture
def labkit(shards: dict[str, MemoryShard], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """A command on these shards: exit code, stdout, stderr."""
    file = tmp_path / "orders.toml"
    parts = [("one", [[1, 10]]), ("two", [[11, 20]])]
    file.write_text(
        "".join(
            f'[[shards]]\nname = "{name}"\nurl = "redis://h"\ntable = "{name}"\nranges = {ranges}\n'
            for name, ranges in parts
        )
    )

    def run(command: str, *options: Any) -> tuple[int, str, str]:
        code: Any = 0
        try:
            main([command, "--topology", str(file), *map(str, options)])
        except SystemExit as ended:
            code = ended.code
        out, err = capfdbinary.readouterr()
        return int(code or 0), out.decode(), err.decode()

    return run


def test_columns_and_filters(labkit: Run) -> None:
    """The key comes first, then the columns as asked for, perhaps none; all filters hold."""
    asked = ["--columns", "note, amount", "--filter", "amount>12", "--filter", "'the status' = open"]
    code, out, err = labkit("read", *asked, "--format", "csv")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        '"order_id","note","amount"', '13,"",13.05', "15,,15.05", '17,"",17.05', '19,"",19.05',
    ]  # fmt: skip
    assert labkit("read", "--columns", "", "--high", 2, "--format", "csv") == (0, '"order_id"\n1\n2\n', "")
    code, out, _ = labkit("read", "--filter", "'the status' in 'paid, late'", "--limit", 2, "--format", "ndjson")
    assert [json.loads(line)["order_id"] for line in out.splitlines()] == [2, 4]


def test_names_with_commas_are_quoted(labkit: Run, shards: dict[str, MemoryShard]) -> None:
    """As in CSV."""
    for one in shards.values():
        one.rows = one.rows.rename_columns(["order_id", "a,b", 'say "no"', "note"])
    _, out, _ = labkit("read", "--columns", '"a,b","say ""no"""', "--high", 1, "--format", "json")
    assert json.loads(out)["rows"] == [{"order_id": 1, "a,b": "1.05", 'say "no"': "open"}]


def test_a_count(labkit: Run) -> None:
    """One number, of a window and of filters."""
    assert labkit("count") == (0, "20\n", "")
    assert labkit("count", "--low", 5, "--high", 14) == (0, "10\n", "")
    assert labkit("count", "--filter", "note is null", "--filter", "amount<=12.05") == (0, "4\n", "")


def test_a_count_with_a_hole(labkit: Run, shards: dict[str, MemoryShard]) -> None:
    """Both bounds on stdout, the gap and its cause on stderr; exit 0 as for `read`, 1 if it has to be exact."""
    shards["two"].error = BROKEN
    said = "labkit: incomplete: missing 11–20 (10 IDs); shard two unreachable: connection refused\n"
    assert labkit("count") == (0, "10 to 20\n", said)
    assert labkit("count", "--filter", "note is null") == (0, "3 to 13\n", said)
    assert labkit("count", "--strict") == (1, "", said)
    assert labkit("count", "--strict", "--high", 10) == (0, "10\n", "")
    code, out, err = labkit("count", "--json")
    told = json.loads(out)
    assert (code, err) == (0, said)
    assert told.pop("shards")["two"]["status"] == "unreachable"
    assert told == {
        "aggregate": "count()", "value": 10, "at_least": 10, "at_most": 20, "complete": False, "missing": [[11, 20]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--columns", "amont"], "unknown column 'amont'; did you mean amount?"),
        (["--columns", "note,"], "columns must be a list of different names, not"),
        (["--columns", "note,note"], "columns must be a list of different names, not"),
        (["--filter", "amont>1"], "unknown column 'amont'; did you mean amount?"),
        (["--filter", "amount>much"], "the filter on amount (decimal128(12, 2)): 'much' is not one"),
        (["--filter", "amount"], "'amount' is not a filter such as amount>100"),
        (["--low", 5, "--high", 4], "low"),
    ],
)
def test_a_mistake_is_one_line(labkit: Run, options: list[Any], words: str) -> None:
    """It names the value, exits with the code of wrong use, and writes nothing."""
    for command in ("read", "count") if "--columns" not in options else ("read",):
        code, out, err = labkit(command, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err
        assert err.startswith("labkit: ")

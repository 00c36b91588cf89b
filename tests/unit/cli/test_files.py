"""A result as a file: each format holds all it can, and a file is written whole or not at all."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace as changed
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from labkit.cli import formats
from labkit.cli.files import STDOUT, check_target, replace, write
from labkit.cli.formats import FORMATS, format_of, render
from labkit.cli.read import _ended_by_sigterm, summary
from labkit.errors import LabkitError, UsageError
from labkit.report import ShardReport, Status
from labkit.result import ReadResult
from labkit.tables import SCHEMA, are_same, to_json

NAMES = ["plain", "", None, 'a "quoted", text', "two\nlines", "ünïcode ☃", "NULL", "[12,x]"]
TABLE = pa.table({"id": range(-1, len(NAMES) - 1), "name": NAMES}, schema=SCHEMA)
OK = ShardReport(1, Status.OK, len(NAMES), 0.0, 0.01, None, ((-1, 10),))
LATE = ShardReport("two", Status.TIMEOUT, 0, 0.0, 2.0, "no answer before the deadline", ((11, 20),))
COMPLETE = ReadResult(TABLE, {1: OK}, (), elapsed=0.01, timeout=2.0)
PARTIAL = ReadResult(TABLE, {1: OK, "two": LATE}, ((11, 20),), elapsed=2.0, timeout=2.0)
SPAN = pa.scalar((14, 3, 500_000_000), pa.month_day_nano_interval())
WIDE = pa.table(
    {
        "order id": pa.array([1, 2], pa.int64()),
        "amount": pa.array([Decimal("123.40"), None], pa.decimal128(12, 2)),
        "at": pa.array([dt.datetime(2026, 11, 28, 12, 0, 0, 1, dt.UTC), None], pa.timestamp("us", "UTC")),
        "day": pa.array([dt.date(2026, 11, 28), None], pa.date32()),
        "note": pa.array(["", None], pa.large_string()),
        "raw": pa.array([b"\x00\xff", None], pa.large_binary()),
        "tags": pa.array([["a", None], None], pa.list_(pa.large_string())),
        "amounts": pa.array([[Decimal("1.50")], None], pa.list_(pa.decimal128(12, 2))),
        "ratio": pa.array([0.1, float("nan")], pa.float64()),
        "paid": pa.array([True, None], pa.bool_()),
        "big": pa.array([2**63 - 1, None], pa.int64()),
        "span": pa.array([SPAN, None], pa.month_day_nano_interval()),
        "spans": pa.array([[SPAN.as_py()], None], pa.list_(pa.month_day_nano_interval())),
        'a"b,c': pa.array(["x", None], pa.large_string()),
    }
)
WIDE_RESULT = changed(COMPLETE, table=WIDE)


def test_csv_tells_null_from_an_empty_text() -> None:
    """NULL is an empty field, empty text is quoted; any name survives the round trip."""
    data = render(PARTIAL, "csv")
    assert data.decode().splitlines()[:4] == ['"id","name"', '-1,"plain"', '0,""', "1,"]
    told = pyarrow.csv.ConvertOptions(
        column_types=SCHEMA, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False
    )
    back = pyarrow.csv.read_csv(
        io.BytesIO(data), parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True), convert_options=told
    )
    assert back.equals(TABLE)


def test_json_is_the_result_and_ndjson_its_rows() -> None:
    """JSON is `to_dict()`, the body of the access point; NDJSON is one row per line and nothing else."""
    assert json.loads(render(PARTIAL, "json")) == json.loads(json.dumps(PARTIAL.to_dict()))
    lines = render(PARTIAL, "ndjson").decode().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == TABLE.to_pylist()
    assert render(changed(PARTIAL, table=SCHEMA.empty_table()), "ndjson") == b""


def test_parquet_holds_rows_and_gaps() -> None:
    """The table keeps its types; gaps and their causes are JSON in the schema's metadata."""
    back = pyarrow.parquet.read_table(io.BytesIO(render(PARTIAL, "parquet")))
    assert back.schema.remove_metadata() == SCHEMA
    assert back.equals(TABLE)
    about = json.loads(back.schema.metadata[b"labkit"])
    assert about == {key: value for key, value in json.loads(render(PARTIAL, "json")).items() if key != "rows"}
    assert (about["complete"], about["missing"]) == (False, [[11, 20]])


def test_csv_of_any_types() -> None:
    """Numbers and booleans as they are; texts, times, binary values and lists quoted, as in JSON; NULL empty."""
    head, first, second = render(WIDE_RESULT, "csv").decode().splitlines()
    assert head == (
        '"order id","amount","at","day","note","raw","tags","amounts","ratio","paid","big","span","spans","a""b,c"'
    )
    assert first == (
        '1,123.40,"2026-11-28T12:00:00.000001Z","2026-11-28","","AP8=","[""a"", null]","[""1.50""]",0.1,true,'
        f'{2**63 - 1},"P14M3DT0.5S","[""P14M3DT0.5S""]","x"'
    )
    assert second == "2,,,,,,,,nan,,,,,"


def test_json_and_ndjson_of_any_types() -> None:
    """Both have every value exactly, as `to_json` documents it."""
    rows = to_json(WIDE)
    assert json.loads(render(WIDE_RESULT, "json"))["rows"] == rows
    assert [json.loads(line) for line in render(WIDE_RESULT, "ndjson").splitlines()] == rows
    assert (rows[0]["amount"], rows[0]["big"], rows[0]["raw"]) == ("123.40", 2**63 - 1, "AP8=")


def test_arrow_holds_every_type() -> None:
    """The file is Arrow's own format: the table comes back as it was, with what is missing in its metadata."""
    back = pa.ipc.open_file(render(changed(WIDE_RESULT, missing=((3, 4),)), "arrow")).read_all()
    assert are_same(back.replace_schema_metadata(None), WIDE)
    assert json.loads(back.schema.metadata[b"labkit"])["missing"] == [[3, 4]]


def test_parquet_holds_every_type_but_intervals() -> None:
    """Intervals, and lists of them, are text as in JSON."""
    back = pyarrow.parquet.read_table(io.BytesIO(render(WIDE_RESULT, "parquet")))
    others = [name for name in WIDE.schema.names if name not in ("span", "spans")]
    assert are_same(back.select(others).replace_schema_metadata(None), WIDE.select(others))
    assert back.column("span").to_pylist() == ["P14M3DT0.5S", None]
    assert back.column("spans").to_pylist() == ['["P14M3DT0.5S"]', None]


def test_the_table_is_what_a_terminal_shows() -> None:
    """Headline, shards and first rows, without colours."""
    text = render(PARTIAL, "table").decode()
    assert text.startswith("incomplete: 8 rows, missing 11–20 (10 IDs)\n")
    assert "no answer before the deadline" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "result",
    [
        COMPLETE,
        changed(COMPLETE, table=SCHEMA.empty_table(), reports={}),
        WIDE_RESULT,
        changed(WIDE_RESULT, table=WIDE.slice(0, 0)),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_every_result(name: str, result: ReadResult) -> None:
    """Results without rows or shards are rendered too."""
    assert isinstance(render(result, name), bytes)


def test_every_format_has_a_suffix() -> None:
    """The command line, which takes its choices from here, does not load pyarrow for its help."""
    assert set(formats.SUFFIXES.values()) == set(FORMATS)
    code = "import sys, labkit.cli.formats, labkit.cli.group; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [("a.csv", "csv"), ("a.b.JSON", "json"), ("x/a.jsonl", "ndjson"), ("a.parquet", "parquet"), ("a.arrow", "arrow")],
)
def test_the_suffix_says_the_format(path: str, name: str) -> None:
    """The suffix may be in upper or lower case."""
    assert format_of(path) == name


@pytest.mark.parametrize("path", ["rows", "rows.xlsx", ".csv", "rows."])
def test_a_suffix_that_says_nothing(path: str) -> None:
    """The error names the known suffixes and the option."""
    with pytest.raises(UsageError, match=r"use one of \.arrow, \.csv, .*, or pass --format"):
        format_of(path)


def test_summaries_are_one_line() -> None:
    """A summary has rows, gaps with their causes, and where the next page continues."""
    assert summary(COMPLETE) == "complete: 8 rows, nothing missing"
    cause = "shard two timeout: no answer before the deadline"
    assert summary(PARTIAL) == f"incomplete: 8 rows, missing 11–20 (10 IDs); {cause}"
    assert summary(changed(COMPLETE, next=6)) == "complete: 8 rows, nothing missing; continue with --after 6"
    many = {n: changed(LATE, shard=n, error="a\nb") for n in range(5)}
    assert summary(changed(PARTIAL, reports=many)).endswith("; shard 2 timeout: a b; 2 more shards")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """The file's mode stays, a link to it stays a link, and no other file is left."""
    file, link = tmp_path / "rows.csv", tmp_path / "link.csv"
    file.write_bytes(b"before")
    file.chmod(0o640)
    link.symlink_to(file)
    write(str(link), b"after")
    assert (file.read_bytes(), file.stat().st_mode & 0o777, link.is_symlink()) == (b"after", 0o640, True)
    assert sorted(os.listdir(tmp_path)) == ["link.csv", "rows.csv"]


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    """The mode is that of `open`, not the private one of temporary files."""
    (tmp_path / "plain").write_bytes(b"")
    replace(tmp_path / "new", b"x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Neither half of the new file nor a temporary one is left."""
    file = tmp_path / "rows.csv"
    file.write_bytes(b"before")

    def fail(_self: Path, _target: Path) -> Path:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(LabkitError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write(str(file), b"after")
    assert not isinstance(error, OSError) or "rows.csv' was not written: no space left" in str(caught.value)
    assert os.listdir(tmp_path) == ["rows.csv"]
    assert file.read_bytes() == b"before"


def test_sigterm_in_the_middle_of_a_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`labkit read` exits with the signal's code and leaves no partial file; afterwards the old handler is back."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended, _ended_by_sigterm():
        write(str(tmp_path / "rows.csv"), b"data")
    assert ended.value.code == 143
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    """A named pipe gets the data and stays a pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_target("--output", str(pipe))
        write(str(pipe), b"data")
        assert os.read(reader, 100) == b"data"
        assert pipe.is_fifo()
    finally:
        os.close(reader)


def test_a_target_is_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder as target, a missing one above it, one without permission: one line with option and path."""
    check_target("--output", STDOUT)
    check_target("--output", str(tmp_path / "new.csv"))
    with pytest.raises(UsageError, match=r"^--output '.*' cannot be written: it is a directory$"):
        check_target("--output", str(tmp_path))
    with pytest.raises(UsageError, match=r"there is no directory '.*nowhere'"):
        check_target("--output", str(tmp_path / "nowhere" / "x.csv"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UsageError, match="permission denied in"):
        check_target("--output", str(tmp_path / "x.csv"))


class Reluctant(io.RawIOBase):
    """Accepts three bytes at a time, as an unbuffered stdout may."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.taken += bytes(data[:3])
        return min(3, len(data))


def test_stdout_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written, however little stdout accepts at a time."""
    raw = Reluctant()

    class Stdout:
        buffer = raw

        def flush(self) -> None: ...

    monkeypatch.setattr("sys.stdout", Stdout())
    write(STDOUT, b"0123456789")
    assert raw.taken == b"0123456789"

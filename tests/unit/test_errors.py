"""The exceptions: one family, each documented, each message says what failed and where."""

from __future__ import annotations

import errno
import inspect
import os
import pickle

import pytest

from labkit import errors
from labkit.errors import IncompleteRead, LabError, LabkitError, RangeError, ShardUnavailable, UsageError
from labkit.report import ShardReport, Status
from labkit.result import ReadResult
from labkit.shards.base import ShardFailure
from labkit.shards.failures import classify, one_line
from labkit.tables import SCHEMA, InvalidAnswer

DOWN = ShardReport("b", Status.UNREACHABLE, 0, 0.0, 0.02, "refused", ((11, 20),))
LATE = ShardReport(3, Status.TIMEOUT, 0, 0.0, 2.0, "no answer before the deadline", ((-5, -1),))
PARTIAL = ReadResult(SCHEMA.empty_table(), {"b": DOWN, 3: LATE}, ((-5, -1), (11, 20)), elapsed=2.0, timeout=2.0)
ALL = [getattr(errors, name) for name in errors.__all__]


def test_all_holds_every_exception_of_the_module():
    """`__all__` names every exception the module defines."""
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("kind", ALL)
def test_every_exception_is_a_labkit_error(kind):
    """One `except LabkitError` catches them all."""
    assert issubclass(kind, LabkitError)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not LabkitError])
def test_every_docstring_says_when_it_is_raised(kind):
    """The first words tell a reader of `help()` when the error is raised."""
    assert inspect.getdoc(kind).startswith("Raised ")


@pytest.mark.parametrize(
    ("kind", "base"), [(UsageError, ValueError), (RangeError, UsageError), (LabError, LabkitError)]
)
def test_wrong_use_is_a_value_error(kind, base):
    """Callers who know nothing of labkit can catch wrong use as ValueError."""
    assert issubclass(kind, base)


@pytest.mark.parametrize("kind", [ShardUnavailable, IncompleteRead, LabError])
def test_a_failure_is_not_wrong_use(kind):
    """A failure of a server is not a ValueError."""
    assert not issubclass(kind, ValueError)


def test_shard_unavailable_names_row_shard_status_and_cause():
    """Message and attributes say which row is unknown and why."""
    error = ShardUnavailable(12, DOWN)
    assert str(error) == "row 12 is unknown: shard 'b' is unreachable: refused"
    assert (error.row_id, error.report) == (12, DOWN)


def test_incomplete_read_names_ranges_shards_and_causes():
    """The message holds every gap and every failed shard; the error carries the result."""
    error = IncompleteRead(PARTIAL, [DOWN, LATE])
    for text in ("11-20", "shard 'b' is unreachable: refused", "shard 3 is timeout: no answer before the deadline"):
        assert text in str(error)
    assert error.result is PARTIAL


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (InvalidAnswer("id 1 is there twice"), Status.INVALID, "id 1 is there twice"),
        (TimeoutError("whatever"), Status.TIMEOUT, "no answer before the deadline"),
        (ConnectionRefusedError("refused"), Status.UNREACHABLE, "refused"),
        (ConnectionResetError("reset"), Status.DISCONNECTED, "reset"),
        (EOFError("end"), Status.DISCONNECTED, "end"),
        (OSError(errno.EHOSTUNREACH, "to another host"), Status.UNREACHABLE, os.strerror(errno.EHOSTUNREACH).lower()),
        (ShardFailure(Status.REJECTED, "no such\ttable"), Status.REJECTED, "no such table"),
        (ValueError("odd\n one"), Status.ERROR, "ValueError: odd one"),
        (KeyError(2), Status.ERROR, "KeyError: 2"),
        (ZeroDivisionError(), Status.ERROR, "ZeroDivisionError"),
        (UsageError("no such thing"), Status.ERROR, "UsageError: no such thing"),
        (RuntimeError("<Lock> is bound to a different event loop"), Status.ERROR, "RuntimeError: <Lock> is"),
        (
            AttributeError("'NoneType' object has no attribute 'rows'"),
            Status.ERROR,
            "AttributeError: 'None",
        ),
        (
            RuntimeError("unable to perform operation on <TCPTransport closed=True 0x5>; the handler is closed"),
            Status.DISCONNECTED,
            "the connection was lost",
        ),
        (
            AttributeError("'NoneType' object has no attribute '_add_writer'"),
            Status.DISCONNECTED,
            "the connection was lost",
        ),
    ],
)
def test_classify_finds_status_and_cause(error, status, cause):
    """The most specific entry of the table wins; an unknown error counts as our own failure, named by its type."""
    found, words = classify(error)
    assert (found, words[: len(cause)]) == (status, cause)


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError(" a\n\n b\tc "), "a b c"), (ValueError(), "ValueError"), (KeyError(), "KeyError")]
)
def test_one_line_is_one_line(error, line):
    """White space folds to single spaces; an error without text is named by its type."""
    assert one_line(error) == line


def chained(outer, inner, *, explicit):
    """`outer` as it is when raised from `inner`, or while handling it."""
    try:
        try:
            raise inner
        except BaseException:
            if explicit:
                raise outer from inner
            raise outer  # noqa: B904 - chained by context alone
    except BaseException as error:
        return error


@pytest.mark.parametrize("explicit", [True, False])
def test_the_systems_words_are_found_below_a_librarys(explicit):
    """A refused connection is reported in the system's words, without an address, whichever library passed it on."""
    inner = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 5)")
    error = chained(ConnectionError("Error 111 connecting to 127.0.0.1:5"), inner, explicit=explicit)
    assert one_line(error) == os.strerror(errno.ECONNREFUSED).lower()


def test_a_servers_no_is_not_hidden_by_an_earlier_broken_connection():
    """A client that reconnects and then fails to authenticate reports that, not that the first socket broke."""
    error = chained(PermissionDenied("WRONGPASS"), ConnectionResetError(errno.ECONNRESET, "reset"), explicit=False)
    assert one_line(error) == "WRONGPASS"


class PermissionDenied(Exception):
    """A server's refusal."""


@pytest.mark.timeout(2)
def test_a_cause_that_is_its_own_ends():
    """A circular chain of causes still gives one line, not an endless loop."""
    error = ValueError("odd")
    error.__cause__ = error
    assert one_line(error) == "odd"


def test_errors_of_a_read_survive_pickling():
    """Errors keep their contents across process boundaries (Dask, multiprocessing)."""
    report = ShardReport(3, Status.UNREACHABLE, 0, 0.0, 0.001, "connection refused", ((21, 30),))
    result = ReadResult(SCHEMA.empty_table(), {3: report}, ((21, 30),), 0.001, 2.0)
    unavailable = pickle.loads(pickle.dumps(ShardUnavailable(25, report)))
    incomplete = pickle.loads(pickle.dumps(IncompleteRead(result, [report])))
    assert (unavailable.row_id, unavailable.report) == (25, report)
    assert str(incomplete) == str(IncompleteRead(result, [report]))
    assert incomplete.result.missing == ((21, 30),)

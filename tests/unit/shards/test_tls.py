"""A TLS failure is reported in words and as a failed connection; OpenSSL's error numbers are never read as the
system's."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from labkit.report import Status
from labkit.shards import PostgresShard, RedisClusterShard, RedisShard
from labkit.shards.failures import classify
from tests.support.mocks import report_of

HERE = Path(__file__).parent / "tls"
SELF_SIGNED = HERE / "good.pem"
"""For localhost, valid until 2126, with its key; trusted only where a test says so."""
EXPIRED = HERE / "expired.pem"
"""For localhost and 127.0.0.1, valid until 2020."""
SECONDS = 3.0


def with_certificate(certificate):
    """The TLS context of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def alert(reason):
    """An error as OpenSSL raises it for a server's alert."""
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()} (_ssl.c:1006)")
    error.reason = reason
    return error


@asynccontextmanager
async def serving(context, *, postgres, says=b""):
    """A port that speaks TLS at once, or after a Postgres client's request; without a context it never does."""

    async def serve(reader, writer):
        try:
            if postgres and len(await reader.read(8)) == 8:
                writer.write(b"S")
            if context is not None:
                await writer.start_tls(context)
            elif says:
                writer.write(says)
            await reader.read(-1)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def redis(host, port, certificate):
    return RedisShard(f"rediss://{host}:{port}/0" + (f"?ssl_ca_certs={certificate}" if certificate else ""), "k")


def cluster(host, port, certificate):
    url = f"rediss+cluster://{host}:{port}" + (f"?ssl_ca_certs={certificate}" if certificate else "")
    return RedisClusterShard(url, "k{a}")


def postgres(host, port, certificate):
    mode = "verify-full" if certificate else "require"
    return PostgresShard(f"postgresql://u@{host}:{port}/d?ssl={mode}", "t")


SELF = "certificate verify failed: self-signed certificate"
FAILURES = {
    "untrusted": (SELF_SIGNED, EXPIRED, "localhost", SELF),
    "another host": (
        SELF_SIGNED,
        SELF_SIGNED,
        "127.0.0.1",
        "certificate verify failed: IP address mismatch, cert",
    ),
    "expired": (EXPIRED, EXPIRED, "127.0.0.1", "certificate verify failed: certificate has expired"),
}


@pytest.mark.parametrize("shard", [redis, cluster, postgres])
@pytest.mark.parametrize(("theirs", "ours", "host", "cause"), FAILURES.values(), ids=FAILURES)
async def test_a_certificate_that_does_not_do_says_why(monkeypatch, shard, theirs, ours, host, cause):
    """An untrusted, mismatched or expired certificate makes the shard UNREACHABLE, in the verifier's words."""
    monkeypatch.setenv("PGSSLROOTCERT", str(ours))
    async with serving(with_certificate(theirs), postgres=shard is postgres) as port:
        source = shard(host, port, ours)
        report = await report_of(source, seconds=SECONDS)
        await source.aclose()
    assert (report.status, report.error[: len(cause)]) == (Status.UNREACHABLE, cause)


@pytest.mark.parametrize("shard", [redis, cluster])
@pytest.mark.parametrize("says", [b"-ERR unknown command\r\n" * 3, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_without_tls_says_so(shard, says):
    """A server that answers in plain text is UNREACHABLE, not REJECTED."""
    async with serving(None, postgres=False, says=says) as port:
        source = shard("127.0.0.1", port, SELF_SIGNED)
        report = await report_of(source, seconds=SECONDS)
        await source.aclose()
    assert (report.status, report.error) == (Status.UNREACHABLE, "TLS failed: the server does not answer in TLS")


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), Status.DISCONNECTED, "TLS failed: eof occurred"),
        (ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed"), Status.DISCONNECTED, "TLS failed: tls/ssl"),
        (ssl.SSLError(1, "[SSL: NO_CIPHERS_AVAILABLE]"), Status.UNREACHABLE, "TLS failed: "),
        (ssl.SSLError(), Status.UNREACHABLE, "TLS failed: sslerror"),
        (alert("SSLV3_ALERT_HANDSHAKE_FAILURE"), Status.UNREACHABLE, "TLS failed: sslv3 alert handshake failure"),
        (
            alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            Status.UNREACHABLE,
            "TLS failed: tlsv13 alert certificate required",
        ),
        (alert("WRONG_VERSION_NUMBER"), Status.UNREACHABLE, "TLS failed: the server does not answer in TLS"),
    ],
)
def test_an_error_of_tls_is_not_the_systems(error, status, cause):
    """Its number is OpenSSL's: 1 does not mean "operation not permitted"."""
    found, words = classify(error)
    assert (found, words[: len(cause)]) == (status, cause)
    assert "permitted" not in words


def test_what_a_library_raises_from_an_error_of_tls_has_its_words():
    """The cause is found when a library wraps the TLS error in another exception."""
    error = ConnectionError("Error 1 connecting to 127.0.0.1:6379. [SSL: …]")
    error.__cause__ = alert("WRONG_VERSION_NUMBER")
    assert classify(error)[1] == "TLS failed: the server does not answer in TLS"

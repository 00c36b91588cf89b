"""Outputs: what is hidden when they are recorded, and how two runs are compared."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from nbformat.v4 import new_output

from labkit._replay import steady
from labkit.notebook.outputs import cleaned, difference

SVG = '<svg><g id="a1"><rect width="1"/></g><use href="#a1"/><path fill="url(#a1)"/></svg>'


def shown(text: str, kind: str = "text/plain") -> Any:
    return new_output("display_data", {kind: text})


def printed(text: str, stream: str = "stdout") -> Any:
    return new_output("stream", name=stream, text=text)


def embedded(svg: str) -> Any:
    return shown(f'<img src="data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}">', "text/html")


HIDDEN = {
    "ok after 3 ms, timeout after 2.00 s": "ok after … s, timeout after … s",
    "ShardReport(started=0.0003, elapsed=1.2e-05)": "ShardReport(started=…, elapsed=…)",
    "{'elapsed': 0.25}": "{'elapsed': …}",
    "12:31:44.125 up": "… up",
    "postgresql://labkit:k3l5@127.0.0.1:40123/lab?sslmode=disable": "postgresql://labkit:…@127.0.0.1:…/lab?sslmode=disable",
    "redis://:k3l5@127.0.0.1:40123/0": "redis://:…@127.0.0.1:…/0",
    "localhost:8000, port 40123": "localhost:…, port …",
    "pid=4711": "pid=…",
    "<Thing at 0x7f33aa55bb66>": "<Thing at …>",
    "/tmp/ipykernel_12/345.py:1: UserWarning": "…:1: UserWarning",
    "in /dev/shm/labkit-a_b9": "in …",
    "container 3f9a0c1b2d4e": "container …",
    "9ae0fb30-6a0c-4b64-a52c-f4cc33a1e3b0": "…",
    "PostgreSQL 16.2 on x86_64, redis_version:7.0.15": "PostgreSQL … on x86_64, redis_version:…",
}
"""Each with what is recorded instead."""
KEPT = [
    "60 rows, missing 11-20, 41-50 (20 IDs)",
    "2024-01-31 12:30:00",
    "9.50 and 1,000.25 and 123456789012",
    "('unreachable', 'connection refused', 0)",
    "a/tmp/b and 1/2",
    "5 shards, 3 replicas",
    "feedbeefcafe",
    "text-align: right; padding:3px 14px 3px 0",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_what_differs_from_run_to_run_is_hidden(text: str) -> None:
    """Times, ports, passwords, processes, identities, paths, versions; hiding twice changes nothing more."""
    assert steady(text) == HIDDEN[text]
    assert steady(HIDDEN[text]) == HIDDEN[text]


@pytest.mark.parametrize("text", KEPT)
def test_data_is_kept(text: str) -> None:
    """Rows, whole minutes, ranges, statuses and style sheets are what a notebook is about."""
    assert steady(text) == text


def test_cleaning_reaches_every_text_and_no_picture() -> None:
    """Streams, HTML and errors are cleaned; the bytes of an embedded picture, which may look like anything, are not."""
    outputs = [
        printed("3 ms"),
        shown("<b>3 ms</b>", "text/html"),
        shown("3 ms", "application/x"),
        embedded("<svg>3 ms</svg>"),
    ]
    error = new_output("error", ename="E", evalue="after 3 ms", traceback=["at 0x7f33aa55bb66"])
    before = embedded("<svg>3 ms</svg>")
    for output in (*outputs, error):
        cleaned(output)
    assert outputs[0].text == "… s"
    assert outputs[1].data["text/html"] == "<b>… s</b>"
    assert outputs[2].data["application/x"] == "3 ms"
    assert outputs[3] == before
    assert (error.evalue, error.traceback) == ("after … s", ["at …"])


def test_equal_outputs_have_no_difference() -> None:
    """Whatever pieces a stream arrives in, in whatever order it mixes with others, and whatever time it took."""
    recorded = [printed("a\nb … s\n"), printed("warned", "stderr"), shown("c")]
    again = [shown("c"), printed("a\n"), printed("warned", "stderr"), printed("b 17 ms\n")]
    assert difference(recorded, again) is None
    assert difference([new_output("execute_result", {"text/plain": "c"}, execution_count=7)], [shown("c")]) is None


def test_a_difference_is_one_line_with_both_texts() -> None:
    """The first line that differs, cut to the place."""
    assert difference([printed("a\n41-50\n")], [printed("a\n41-51\n")]) == "shows '41-51' where '41-50' is recorded"
    assert difference([shown("a")], [shown("a\nb")]) == "shows 'b' where nothing is recorded"
    long = "x" * 500
    told = difference([printed(f"{long}1{long}")], [printed(f"{long}2{long}")])
    assert told is not None
    assert "x2x" in told
    assert "x1x" in told
    assert len(told) < 200


def test_more_and_less_outputs_are_differences() -> None:
    """Also of another kind."""
    assert difference([shown("a")], []) == "no longer shows the text/plain 'a'"
    assert difference([], [shown("a")]) == "shows the text/plain 'a' in addition to what is recorded"
    assert difference([printed("a")], [printed("a", "stderr")]) == "no longer shows the stdout 'a'"
    assert difference([new_output("error", ename="E", evalue="x")], []) == "no longer shows the error 'E: x'"


@pytest.mark.parametrize("show", [embedded, lambda svg: shown(svg, "image/svg+xml")])
def test_pictures_are_compared_by_their_text(show: Any) -> None:
    """Identities, which some libraries draw by lot, and metadata do not matter; one attribute does."""
    assert difference([show(SVG)], [show(SVG.replace("a1", "b77"))]) is None
    assert difference([show(SVG)], [show(SVG.replace("<svg>", "<svg><metadata>\n2026</metadata>"))]) is None
    told = difference([show(SVG)], [show(SVG.replace('width="1"', 'width="2"'))])
    assert told == """shows another picture, with '<rect width="2"/>' where '<rect width="1"/>' is recorded"""
    assert difference([show(SVG)], [show(SVG.replace('href="#a1"', 'href="#c"'))]) is not None

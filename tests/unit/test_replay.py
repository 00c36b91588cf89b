"""Where outputs are compared, labkit shows nothing that differs from run to run."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.lib.pretty import pretty

from labkit import Lab, ReadResult
from labkit._replay import Urls, replaying
from labkit.report import Status, Window
from tests.unit.show.test_show import ONE, TWO, report, result

URLS = {1: "redis://:k3l5m7@127.0.0.1:40123/0", "b": "postgresql://labkit:k3l5@127.0.0.1:40124/lab?sslmode=disable"}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The content of the request that a kernel is executing; this process is that kernel."""
    content: dict[str, Any] = {}
    running = SimpleNamespace(get_parent=lambda: {"content": content})
    shell = SimpleNamespace(kernel=running, has_trait=lambda name: name == "kernel")
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    return content


def read(shift: float, windows: tuple[Window, ...] = ()) -> ReadResult:
    """A read of the same rows and gaps, with other times, and another port in its cause."""
    cause = f"no route to 127.0.0.1:{40000 + shift * 1000:.0f}"
    late = report(2, Status.UNREACHABLE, *TWO, elapsed=0.1 + shift, error=cause)
    read = result(report(1, Status.OK, *ONE, elapsed=0.2 + shift), late, missing=TWO, elapsed=0.3 + shift)
    return replace(read, windows=windows)


def test_only_requests_outside_of_the_history_are_compared(kernel: dict[str, Any]) -> None:
    """nbval sends such requests; a person's, and those of other runners, are kept in the history."""
    assert not replaying()
    kernel["store_history"] = True
    assert not replaying()
    kernel["store_history"] = False
    assert replaying()


def test_outside_of_a_kernel_nothing_is_compared() -> None:
    """Scripts, terminals and tests show everything."""
    assert not replaying()


def test_a_result_shows_the_same_on_every_run(kernel: dict[str, Any]) -> None:
    """HTML, picture and text, whatever was measured; a person sees the times, the port and the scale."""
    kernel["store_history"] = True
    assert read(0.0)._repr_html_() != read(0.5)._repr_html_()
    assert "200 ms" in read(0.0)._repr_html_()
    assert "127.0.0.1:40500" in read(0.5)._repr_html_()
    kernel["store_history"] = False
    one, other = (
        read(shift, (Window(2, "Kill", shift, None), Window(2, "Latency", 0.0, shift + 0.1))) for shift in (0.0, 0.5)
    )
    assert pretty(one) == pretty(other) != repr(other)
    assert pretty(dict(one.reports)) == pretty(dict(other.reports)) != repr(other.reports)
    assert one._repr_html_() == other._repr_html_()
    assert one.timeline()._repr_html_() == other.timeline()._repr_html_()
    assert "elapsed" not in one._repr_html_()
    assert "127.0.0.1:…" in one._repr_html_()
    assert 'data-shard="2" data-status="unreachable"' in one._repr_html_()


def test_the_picture_without_times_says_so_and_differs_by_outcome(kernel: dict[str, Any]) -> None:
    """It has statuses, gaps and faults; as text, the picture always has its times."""
    kernel["store_history"] = False
    picture = read(0.5, (Window(2, "Kill", 0.0, None),)).timeline()
    assert "data-elapsed" in str(picture)
    shown = str(picture._untimed)
    for part in ("not to scale", 'data-status="unreachable"', 'data-low="11" data-high="20"', 'data-label="Kill"'):
        assert part in shown
    for part in ("data-elapsed", "data-started", "data-ended", " ms", "40500"):
        assert part not in shown
    healthy = result(report(1, Status.OK, *ONE), report(2, Status.OK, *TWO))
    assert healthy.timeline()._repr_html_() != picture._repr_html_()
    assert picture._repr_html_() != read(0.5).timeline()._repr_html_()


def test_an_outline_has_rows_gaps_statuses_and_causes_only() -> None:
    """The same for the same outcome, in columns, without times and ports."""
    assert read(0.0).outline() == read(0.5).outline()
    assert read(0.0).outline().splitlines() == [
        "incomplete: 20 rows, missing 11-20, 41-50 (20 IDs)",
        "shard 1  ok · 20 rows  1-10, 31-40",
        "shard 2  unreachable   11-20, 41-50  no route to 127.0.0.1:…",
    ]
    nothing = result()
    assert nothing.outline() == "complete: 0 rows, no shard owns an ID that was asked for"


def test_urls_are_a_dict_that_hides_ports_and_passwords_only_where_compared(kernel: dict[str, Any]) -> None:
    """They compare, print, pickle and serialise as the dict that they are."""
    urls = Urls(URLS)
    assert urls == URLS
    assert repr(urls) == repr(URLS)
    assert json.loads(json.dumps(urls)) == json.loads(json.dumps(URLS))
    assert pickle.loads(pickle.dumps(urls)) == URLS
    kernel["store_history"] = True
    assert pretty(urls) == pretty(URLS)
    kernel["store_history"] = False
    assert eval(pretty(urls)) == {
        1: "redis://:…@127.0.0.1:…/0",
        "b": "postgresql://labkit:…@127.0.0.1:…/lab?sslmode=disable",
    }


def test_a_lab_is_shown_without_its_launcher_only_where_compared(kernel: dict[str, Any]) -> None:
    """Outputs hold for server processes and for containers."""
    labs = [Lab("redis", launcher=launcher) for launcher in ("embedded", "docker")]
    blocking = [lab.sync() for lab in labs]
    kernel["store_history"] = True
    assert [pretty(lab) for lab in (*labs, *blocking)] == [repr(lab) for lab in (*labs, *blocking)]
    assert "launcher='docker'" in repr(labs[1])
    kernel["store_history"] = False
    assert {pretty(lab) for lab in labs} == {"Lab('redis', 3 shards, not running)"}
    assert {pretty(lab) for lab in blocking} == {"Lab('redis', 3 shards, not running).sync()"}


def test_a_starting_lab_is_one_output_without_its_launcher_where_compared(
    kernel: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """nbval sees no updates. A start that fails shows nothing."""
    from labkit.lab.progress import READY, Progress

    shown: list[str] = []
    monkeypatch.setattr("IPython.display.display", lambda html: shown.append(html.data))
    kernel["store_history"] = False
    for launcher in ("embedded", "docker"):
        with Progress("redis", [1, 2]) as progress:
            progress.title, progress.note = f"redis lab ({launcher})", "no Docker engine"
            for shard in (1, 2):
                progress.step(shard, "starting")
                progress.step(shard, READY)
    assert len(shown) == 2
    assert shown[0] == shown[1]
    assert "<b>redis lab</b>" in shown[0]
    with Progress("redis lab (docker)", [1]) as progress:
        progress.step(1, "starting")
    assert len(shown) == 2

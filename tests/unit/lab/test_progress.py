"""What is shown while a lab starts."""

from __future__ import annotations

from labkit.lab.progress import READY, Progress, _badges


def test_the_line_has_title_note_and_each_shard() -> None:
    """In a terminal it is one line: title, note (why this launcher) and each shard."""
    with Progress("redis lab (docker)", [1, "two"]) as progress:
        progress.step(1, "starting")
        assert progress.line() == "redis lab (docker): shard 1 starting · shard two waiting"
        progress.title, progress.note = "redis lab (embedded)", "no Docker engine"
        progress.step("two", READY)
        assert progress.line() == "redis lab (embedded) (no Docker engine): shard 1 starting · shard two ready"


def test_badges_show_the_note_in_small_print_and_escape_it() -> None:
    """In a notebook the note, which may quote the engine, is small and HTML-escaped."""
    badges = _badges("redis lab (embedded)", {1: READY}, "image <b>x</b> is not here")
    assert "<small" in badges
    assert "image &lt;b&gt;x&lt;/b&gt; is not here" in badges
    assert "<br>" not in _badges("redis lab (embedded)", {1: READY})

"""Shows the progress of a starting lab, live in a notebook or a terminal, else not at all."""

from __future__ import annotations

import asyncio
import html
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from labkit._replay import replaying
from labkit._streams import visible
from labkit._types import ShardKey

__all__ = ["Progress"]

READY = "ready"


class Progress:
    """`with Progress(title, shards) as progress: progress.step(shard, "starting")`.

    `title` and `note` (in small print after it) may be changed: the next step shows them. All output happens on the
    event loop, and so on the thread, that made this object, wherever the steps are taken.
    """

    def __init__(self, title: str, shards: Iterable[ShardKey], note: str = "") -> None:
        self.title = title
        self.note = note
        self.steps: dict[ShardKey, str] = dict.fromkeys(shards, "waiting")
        self._screen = _screen()
        self._loop = _running()

    def step(self, shard: ShardKey, step: str) -> None:
        """Shows that the shard has reached `step`; the last one is "ready"."""
        self.steps[shard] = step
        self._call(self._screen.show, self)

    def __enter__(self) -> Progress:
        self._call(self._screen.open, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._screen.close)

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._loop is None or self._loop is _running():
            call(*arguments)
            return
        with suppress(RuntimeError):  # that loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def line(self) -> str:
        """The whole progress on one line."""
        note = f" ({self.note})" if self.note else ""
        steps = " · ".join(f"shard {shard} {step}" for shard, step in self.steps.items())
        return visible(f"{self.title}{note}: {steps}")


class _Silent:
    def open(self, progress: Progress) -> None: ...
    def show(self, progress: Progress) -> None: ...
    def close(self) -> None: ...


class _Terminal(_Silent):
    """A spinner that disappears when the lab is ready."""

    def open(self, progress: Progress) -> None:
        from labkit._streams import console

        self._status = console(stderr=True).status(progress.line())
        self._status.start()

    def show(self, progress: Progress) -> None:
        self._status.update(progress.line())

    def close(self) -> None:
        self._status.stop()


class _Notebook(_Silent):
    """One output, updated in place; it stays as a record of what was started."""

    def open(self, progress: Progress) -> None:
        from IPython import display

        self._display: Any = display
        self._handle = self._display.display(self._html(progress), display_id=True)

    def show(self, progress: Progress) -> None:
        self._handle.update(self._html(progress))

    def _html(self, progress: Progress) -> Any:
        return self._display.HTML(_badges(progress.title, progress.steps, progress.note))


class _Replay(_Silent):
    """One output at the end, the same whatever starts the servers; nbval does not see updates."""

    def open(self, progress: Progress) -> None:
        self._progress = progress

    def close(self) -> None:
        from IPython import display

        screen: Any = display
        if set(self._progress.steps.values()) <= {READY}:
            title = self._progress.title.partition(" (")[0]
            screen.display(screen.HTML(_badges(title, self._progress.steps)))


def _screen() -> _Silent:
    if replaying():
        return _Replay()
    if "ipykernel" in sys.modules and _in_kernel():
        return _Notebook()
    return _Terminal() if _is_terminal(sys.stderr) else _Silent()


def _is_terminal(stream: TextIO | None) -> bool:
    """Daemons have None or a closed stream."""
    return stream is not None and not stream.closed and stream.isatty()


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _in_kernel() -> bool:
    from IPython import get_ipython

    shell: Any = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def _badges(title: str, steps: Mapping[ShardKey, str], note: str = "") -> str:
    dots = "".join(
        f'<span style="margin-right:1.2em"><span style="color:{"#2a9d5c" if step == READY else "#c9a227"}">●</span> '
        f"shard {html.escape(str(shard))} <small>{html.escape(step)}</small></span>"
        for shard, step in steps.items()
    )
    small = f'<br><small style="opacity:.6">{html.escape(note)}</small>' if note else ""
    return f'<div style="font-family:sans-serif"><b>{html.escape(title)}</b>&emsp;{dots}{small}</div>'

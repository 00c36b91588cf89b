"""A lab for code without an event loop."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from labkit.errors import UsageError
from labkit.faults import Fault

__all__ = ["SyncLab"]

T = TypeVar("T")


class SyncLab:
    """`Lab` without `await`: its methods return when they are done, and `with` takes the place of `async with`.

    >>> with Lab("redis").sync() as lab, lab.fault(2, faults.Pause()):  # doctest: +SKIP
    ...     print(lab.read())

    The lab runs on an event loop in a thread of its own, so it may be used where another loop is running. `call` is for
    what is not the lab's own, such as `lab.call(lab.reader.get, 12)`. Raises what the lab raises, and `UsageError` for
    a use that needs a running lab while it is not running.
    """

    def __init__(self, lab: Any) -> None:
        self._lab = lab  # a `Lab`, whose module imports this one
        self._portal: BlockingPortal | None = None
        self._running = ExitStack()

    def start(self) -> SyncLab:
        """See `Lab.start`."""
        if self._portal is None:
            with ExitStack() as running:
                portal = running.enter_context(start_blocking_portal())
                running.enter_context(portal.wrap_async_context_manager(self._lab))
                self._portal, self._running = portal, running.pop_all()
        return self

    def stop(self) -> None:
        """See `Lab.stop`."""
        self._portal = None
        self._running.close()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Awaits `function(*args, **kwargs)` on the lab's event loop."""
        if self._portal is None:
            raise UsageError("this lab is not running: use `with`, or call start() first")
        return self._portal.call(partial(function, *args, **kwargs))

    def fault(self, shard: Any, *faults: Fault) -> AbstractContextManager[None]:
        """See `Lab.fault`."""
        if self._portal is None:
            raise UsageError("this lab is not running: use `with`, or call start() first")
        return self._portal.wrap_async_context_manager(self._lab.fault(shard, *faults))

    def __getattr__(self, name: str) -> Any:
        """Everything else that a lab has; its coroutine functions wait."""
        found = getattr(self._lab, name)
        return partial(self.call, found) if inspect.iscoroutinefunction(found) else found

    def __enter__(self) -> SyncLab:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"{self._lab!r}.sync()"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What IPython shows: where outputs are compared, the same with every launcher."""
        printer.pretty(self._lab)
        printer.text(".sync()")

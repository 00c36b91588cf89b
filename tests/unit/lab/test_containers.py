"""Freezing and thawing a container, where the engine's word for its state may be an old one."""

from __future__ import annotations

from typing import Any

import pytest
from docker.errors import APIError

from labkit.lab.keeper import blocking

RUNS = "Cannot unpause container 5: cannot resume a running process: unknown"


class Container:
    """As testcontainers' and docker's in one. `states` is what the engine says, one word a question; the last stays."""

    def __init__(self, *states: str, refuses: str = "") -> None:
        self.states, self.refuses = list(states), refuses
        self.status = ""
        self.done: list[str] = []

    def get_wrapped_container(self) -> Container:
        return self

    def reload(self) -> None:
        self.status = self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def pause(self) -> None:
        self.done.append("pause")

    def unpause(self) -> None:
        if self.refuses:
            raise APIError(self.refuses)
        self.done.append("unpause")


@pytest.mark.parametrize(("state", "done"), [("running", ["pause"]), ("paused", []), ("exited", [])])
def test_only_what_runs_is_frozen(state: str, done: list[str]) -> None:
    """A container that is paused or has exited is not paused again."""
    container: Any = Container(state)
    blocking.pause(container)
    assert container.done == done


@pytest.mark.parametrize(("state", "done"), [("running", []), ("paused", ["unpause"]), ("exited", [])])
def test_only_what_is_paused_is_thawed(state: str, done: list[str]) -> None:
    """A container that runs or has exited is not unpaused."""
    container: Any = Container(state)
    blocking.resume(container)
    assert container.done == done


def test_an_engine_that_has_not_heard_yet_is_asked_again() -> None:
    """Its state lags behind: it refuses to unpause a container that it still calls paused."""
    container: Any = Container("paused", "paused", "running", refuses=RUNS)
    blocking.resume(container)
    assert container.states == ["running"]


@pytest.mark.parametrize("refusal", [RUNS, "no such container"])
def test_what_cannot_be_thawed_is_an_error(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, or after as long as the engine may take to hear."""
    monkeypatch.setattr(blocking, "THAW_TIMEOUT", 0.1 if refusal == RUNS else 60.0)
    container: Any = Container("paused", refuses=refusal)
    with pytest.raises(APIError, match=refusal[-20:]):
        blocking.resume(container)

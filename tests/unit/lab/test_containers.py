"""Freezing and thawing a container, even if the engine's view of its state is outdated."""

from __future__ import annotations

from typing import Any

import pytest
from docker.errors import APIError

from labkit.lab.keeper import blocking

RUNS = "Cannot unpause container 5: cannot resume a running process: unknown"
BUSY = "Cannot pause container 5: OCI runtime pause failed: unable to freeze: unknown"


class Container:
    """A testcontainers and a docker container in one; the engine answers with `states`, the last one repeatedly."""

    def __init__(self, *states: str, refuses: str = "") -> None:
        self.states, self.refuses = list(states), refuses
        self.is_stubborn = False
        self.status = ""
        self.done: list[str] = []

    def get_wrapped_container(self) -> Container:
        return self

    def reload(self) -> None:
        self.status = self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def pause(self) -> None:
        if self.refuses:
            error = APIError(self.refuses)
            if not self.is_stubborn:
                self.refuses = ""
            raise error
        self.done.append("pause")

    def unpause(self) -> None:
        if self.refuses:
            raise APIError(self.refuses)
        self.done.append("unpause")


@pytest.mark.parametrize(("state", "done"), [("running", ["pause"]), ("paused", []), ("exited", [])])
def test_only_what_runs_is_frozen(state: str, done: list[str]) -> None:
    """Only a running container is paused."""
    container: Any = Container(state)
    blocking.pause(container)
    assert container.done == done


@pytest.mark.parametrize(("state", "done"), [("running", []), ("paused", ["unpause"]), ("exited", [])])
def test_only_what_is_paused_is_thawed(state: str, done: list[str]) -> None:
    """Only a paused container is unpaused."""
    container: Any = Container(state)
    blocking.resume(container)
    assert container.done == done


def test_an_engine_that_has_not_heard_yet_is_asked_again() -> None:
    """An engine that refuses to unpause a container it still lists as paused is queried again."""
    container: Any = Container("paused", "paused", "running", refuses=RUNS)
    blocking.resume(container)
    assert container.states == ["running"]


def test_a_busy_machine_that_could_not_freeze_it_is_asked_again() -> None:
    """A container that runc gave up freezing is frozen by the next attempt."""
    container: Any = Container("running", refuses=BUSY)
    blocking.pause(container)
    assert container.done == ["pause"]


@pytest.mark.parametrize("refusal", [BUSY, "no such container"])
def test_what_cannot_be_frozen_is_an_error(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is raised at once, or after the time that freezing may take."""
    monkeypatch.setattr(blocking, "FREEZER_TIMEOUT", 0.1 if refusal == BUSY else 60.0)
    container: Any = Container("running", refuses=refusal)
    container.is_stubborn = True
    with pytest.raises(APIError, match=refusal[-20:]):
        blocking.pause(container)


@pytest.mark.parametrize("refusal", [RUNS, "no such container"])
def test_what_cannot_be_thawed_is_an_error(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is raised at once, or after the time that the engine's view may lag."""
    monkeypatch.setattr(blocking, "FREEZER_TIMEOUT", 0.1 if refusal == RUNS else 60.0)
    container: Any = Container("paused", refuses=refusal)
    with pytest.raises(APIError, match=refusal[-20:]):
        blocking.resume(container)

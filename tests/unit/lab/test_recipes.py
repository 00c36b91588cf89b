"""Which image is used, how its containers are set up, and which launcher is chosen."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from labkit import Lab, errors
from labkit.lab.backends import backend
from labkit.lab.launch import chosen
from labkit.lab.launchers.docker import image_of, recipe


def test_official_images_unless_the_environment_names_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """postgres:18 and redis:8, unless LABKIT_POSTGRES_IMAGE or LABKIT_REDIS_IMAGE is set and not empty."""
    for name in ("POSTGRES", "REDIS"):
        monkeypatch.delenv(f"LABKIT_{name}_IMAGE", raising=False)
    assert (image_of("postgres"), image_of("redis")) == ("postgres:18", "redis:8")
    monkeypatch.setenv("LABKIT_POSTGRES_IMAGE", "mine:1")
    monkeypatch.setenv("LABKIT_REDIS_IMAGE", "")
    assert (image_of("postgres"), recipe("postgres", "").image, image_of("redis")) == ("mine:1", "mine:1", "redis:8")


def test_what_was_written_survives_a_kill() -> None:
    """Commits are flushed and Redis keeps a log; otherwise `Kill` would lose rows unnoticed."""
    assert "synchronous_commit=on" in recipe("postgres", "").command
    command = recipe("redis", "").command
    assert command[command.index("--appendonly") + 1] == "yes"


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_a_container_is_told_hashes(name: str) -> None:
    """Containers get hashes of passwords only: others can read their commands and environment."""
    made = backend(name)
    told = recipe(name, made.credentials)
    passwords = list(vars(made.access).values())
    assert len(passwords) == 3
    for password in passwords:
        assert password not in str(asdict(told))
        assert password not in repr(told) + repr(made.access)
    assert made.credentials not in repr(told)


def test_the_environment_decides_what_the_caller_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """LABKIT_LAUNCHER replaces only "auto"; without it "auto" is resolved at the start."""
    monkeypatch.setenv("LABKIT_LAUNCHER", "docker")
    assert (chosen("auto"), chosen("embedded")) == ("docker", "embedded")
    monkeypatch.delenv("LABKIT_LAUNCHER")
    assert chosen("auto") == "auto"
    assert Lab("redis").launcher == "auto"
    assert "launcher='auto', not running" in repr(Lab("redis"))


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_an_unknown_launcher_is_named(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown launcher is a one-line error that lists the known ones."""
    monkeypatch.setenv("LABKIT_LAUNCHER", "moon")
    with pytest.raises(errors.UsageError, match="unknown launcher 'moon': choose one of auto, docker, embedded"):
        chosen("moon" if where == "argument" else "auto")

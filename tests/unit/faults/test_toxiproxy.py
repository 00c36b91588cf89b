"""Faults to Toxiproxy's JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import faults
from labkit.errors import UsageError
from labkit.faults.toxiproxy import TYPES, from_toxiproxy, to_toxiproxy

quick = settings(derandomize=True, database=None, deadline=None, max_examples=150)

numbers = st.integers(0, 10**6) | st.floats(min_value=0, max_value=10**6)
whole = st.integers(0, 10**6)
common = {"stream": st.sampled_from(["upstream", "downstream"]), "toxicity": st.floats(min_value=0, max_value=1)}
sizes = st.tuples(st.integers(1, 5000), st.integers(0, 4999)).map(lambda pair: (pair[0], pair[1] % pair[0]))

TOXICS: dict[str, st.SearchStrategy[faults.Toxic]] = {
    "bandwidth": st.builds(
        faults.Bandwidth, st.floats(min_value=0.001, max_value=10**6) | st.integers(1, 2**63 - 1), **common
    ),
    "latency": st.builds(faults.Latency, numbers, numbers, **common),
    "limit_data": st.builds(faults.LimitData, whole, **common),
    "reset_peer": st.builds(faults.ResetPeer, numbers, **common),
    "slicer": st.builds(lambda pair, delay, **more: faults.Slicer(*pair, delay, **more), sizes, numbers, **common),
    "slow_close": st.builds(faults.SlowClose, numbers, **common),
    "timeout": st.builds(faults.Timeout, numbers, **common),
}
OURS = [
    (faults.Corrupt(), "Corrupt"),
    (faults.HalfClose(), "HalfClose"),
    (faults.BlackHole(), "BlackHole"),
    (faults.Kill(), "Kill"),
    (faults.Empty(), "Empty"),
]


def test_every_type_of_toxiproxy_is_there() -> None:
    """Exactly the toxics of Toxiproxy's README are supported."""
    assert set(TYPES) == set(TOXICS)


@quick
@given(toxic=st.one_of(*TOXICS.values()))
def test_a_toxic_comes_back_as_it_was(toxic: faults.Toxic) -> None:
    """A toxic written as JSON text and read back is equal, and its name consists of type and stream."""
    told = json.loads(json.dumps(to_toxiproxy(toxic)))
    assert from_toxiproxy(told) == toxic
    assert told["name"] == f"{told['type']}_{toxic.stream}"
    assert set(told) == {"name", "type", "stream", "toxicity", "attributes"}
    assert TYPES[told["type"]] is type(toxic)


@pytest.mark.parametrize(
    ("toxic", "kind", "attributes"),
    [
        (faults.Latency(50, 5), "latency", {"latency": 50, "jitter": 5}),
        (faults.Bandwidth(100), "bandwidth", {"rate": 100}),
        (faults.SlowClose(7), "slow_close", {"delay": 7}),
        (faults.Timeout(9), "timeout", {"timeout": 9}),
        (faults.ResetPeer(3), "reset_peer", {"timeout": 3}),
        (faults.Slicer(64, 32, 10), "slicer", {"average_size": 64, "size_variation": 32, "delay": 10}),
        (faults.LimitData(200), "limit_data", {"bytes": 200}),
    ],
)
def test_the_words_are_toxiproxys(toxic: faults.Toxic, kind: str, attributes: dict[str, Any]) -> None:
    """Types and attributes are spelled as in Toxiproxy's README."""
    told = to_toxiproxy(toxic)
    assert (told["type"], told["attributes"]) == (kind, attributes)
    assert (told["stream"], told["toxicity"]) == ("downstream", 1.0)


def test_down_is_a_proxy_that_is_not_enabled() -> None:
    """`Down` is {"enabled": false}, and no other JSON is `Down`."""
    assert to_toxiproxy(faults.Down()) == {"enabled": False}
    assert from_toxiproxy({"enabled": False}) == faults.Down()
    with pytest.raises(UsageError, match="not a toxic of Toxiproxy: None"):
        from_toxiproxy({"enabled": True})


def test_what_is_left_out_has_toxiproxys_default() -> None:
    """Omitted fields have Toxiproxy's defaults, not labkit's: attributes 0, stream downstream, toxicity 1."""
    assert from_toxiproxy({"type": "latency"}) == faults.Latency(0, 0)
    assert from_toxiproxy({"type": "slow_close", "attributes": {}, "stream": "upstream"}) == faults.SlowClose(
        0, stream="upstream"
    )
    assert from_toxiproxy({"type": "slicer", "attributes": {"average_size": 3}}) == faults.Slicer(3, 0, 0)


@pytest.mark.parametrize(("fault", "name"), OURS)
def test_what_toxiproxy_cannot_say_is_one_error(fault: faults.Fault, name: str) -> None:
    """A fault unknown to Toxiproxy is one error that names it and lists what Toxiproxy has."""
    with pytest.raises(UsageError) as caught:
        to_toxiproxy(fault)
    assert str(caught.value).startswith(f"Toxiproxy has no {name}; it has bandwidth, latency, ")


def test_a_parameter_that_toxiproxy_does_not_have_is_named() -> None:
    """ResetPeer's after_bytes can only be expressed if it is 0."""
    with pytest.raises(UsageError) as caught:
        to_toxiproxy(faults.ResetPeer(5, 200))
    assert str(caught.value) == "Toxiproxy's reset_peer has no after_bytes: ResetPeer(5, after_bytes=200)"


class Mine(faults.Latency):
    """A user-defined toxic derived from one of Toxiproxy's."""


def test_a_subclass_is_not_taken_for_what_it_derives_from() -> None:
    """A user-defined toxic has no Toxiproxy name, whatever its base class."""
    with pytest.raises(UsageError, match="Toxiproxy has no Mine"):
        to_toxiproxy(Mine())


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "not a toxic of Toxiproxy: None; it has bandwidth, latency"),
        ({"type": "latencies"}, "not a toxic of Toxiproxy: 'latencies'; it has bandwidth, latency"),
        ({"type": "latency", "attributes": {"delay": 5}}, "Toxiproxy's latency has no attribute 'delay'"),
        ({"type": "reset_peer", "attributes": {"after_bytes": 5}}, "Toxiproxy's reset_peer has no attribute 'after_b"),
        ({"type": "slicer"}, "Toxiproxy's slicer needs an average_size"),
        ({"type": "latency", "latency": 5}, "a toxic of Toxiproxy has no field 'latency'; it has name, type, stream,"),
        ({"type": "latency", "toxicty": 0.5}, "a toxic of Toxiproxy has no field 'toxicty'"),
        ({"type": "latency", "attributes": {"latency": "5"}}, "Latency: latency must be a number from 0"),
        ({"type": "latency", "stream": "both"}, "Latency: stream must be one of upstream, downstream, not 'both'"),
        ({"type": "bandwidth"}, "Bandwidth: rate must be above 0"),
    ],
)
def test_json_that_says_no_toxic_is_one_error(told: dict[str, Any], words: str) -> None:
    """Unknown or wrong fields are named in an error; none is silently dropped."""
    with pytest.raises(UsageError) as caught:
        from_toxiproxy(told)
    assert str(caught.value).startswith(words)

"""Faults to Toxiproxy's JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import faults
from labkit.errors import UsageError
from labkit.faults.toxiproxy import OUR_TYPES, TYPES, from_toxiproxy, to_toxiproxy

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
    "packet_loss": st.builds(faults.PacketLoss, st.floats(0, 1), st.floats(0, 1), **common),
    "reset_peer": st.builds(faults.ResetPeer, numbers, **common),
    "slicer": st.builds(lambda pair, delay, **more: faults.Slicer(*pair, delay, **more), sizes, numbers, **common),
    "slow_close": st.builds(faults.SlowClose, numbers, **common),
    "timeout": st.builds(faults.Timeout, numbers, **common),
}
conditions = {
    "when": st.none() | st.text(min_size=1) | st.binary(min_size=1),
    "nth": st.none() | st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=1),
    "share": st.floats(min_value=0, max_value=1),
}
OUR_TOXICS: dict[str, st.SearchStrategy[faults.Fault]] = {
    "black_hole": st.just(faults.BlackHole()),
    "corrupt": st.builds(faults.Corrupt, st.integers(1, 10**6), **common, **conditions),
    "half_close": st.builds(faults.HalfClose, whole, **common, **conditions),
    "latency": st.builds(faults.Latency, numbers, numbers, **common, **conditions),
    "reset_peer": st.builds(faults.ResetPeer, numbers, whole, **common, **conditions),
}
OURS = [
    (faults.Corrupt(), "Corrupt"),
    (faults.HalfClose(), "HalfClose"),
    (faults.BlackHole(), "BlackHole"),
    (faults.Kill(), "Kill"),
    (faults.Empty(), "Empty"),
]


def test_every_type_of_toxiproxy_is_there() -> None:
    """Exactly the toxics of Toxiproxy's README are supported, beside labkit's own."""
    assert set(TYPES) - set(OUR_TYPES) == set(TOXICS)
    assert set(OUR_TYPES) < set(OUR_TOXICS)
    ours = [entry.kind for entry in faults.ALL.values() if entry.layer == "network" and entry.kind is not faults.Down]
    assert set(TYPES.values()) == set(ours)


@quick
@given(toxic=st.one_of(*TOXICS.values()))
def test_a_toxic_comes_back_as_it_was(toxic: faults.Toxic) -> None:
    """A toxic written as JSON text and read back is equal, and its name consists of type and stream."""
    told = json.loads(json.dumps(to_toxiproxy(toxic)))
    assert from_toxiproxy(told) == toxic
    assert told["name"] == f"{told['type']}_{toxic.stream}"
    assert set(told) == {"name", "type", "stream", "toxicity", "attributes"}
    assert TYPES[told["type"]] is type(toxic)


@quick
@given(fault=st.one_of(*TOXICS.values(), *OUR_TOXICS.values()))
def test_labkits_own_json_comes_back_too(fault: faults.Fault) -> None:
    """With `ours`, every toxic, attribute and condition survives JSON; what Toxiproxy has is told as Toxiproxy does."""
    told = json.loads(json.dumps(to_toxiproxy(fault, ours=True)))
    assert from_toxiproxy(told) == fault
    assert set(told) == {"name", "type", "stream", "toxicity", "attributes"}
    assert TYPES[told["type"]] is type(fault)
    try:
        plain = to_toxiproxy(fault)
    except UsageError:
        plain = None
    assert plain in (None, told) or json.loads(json.dumps(plain)) == told


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
        (faults.PacketLoss(0.2, 0.5), "packet_loss", {"loss_rate": 0.2, "correlation": 0.5}),
    ],
)
def test_the_words_are_toxiproxys(toxic: faults.Toxic, kind: str, attributes: dict[str, Any]) -> None:
    """Types and attributes are spelled as in Toxiproxy's README."""
    told = to_toxiproxy(toxic)
    assert (told["type"], told["attributes"]) == (kind, attributes)
    assert (told["stream"], told["toxicity"]) == ("downstream", 1.0)


@pytest.mark.parametrize(
    ("fault", "kind", "attributes"),
    [
        (faults.HalfClose(3), "half_close", {"after_bytes": 3}),
        (faults.Corrupt(9), "corrupt", {"every": 9}),
        (faults.BlackHole(), "black_hole", {}),
        (faults.ResetPeer(3, 200), "reset_peer", {"timeout": 3, "after_bytes": 200}),
        (faults.ResetPeer(3), "reset_peer", {"timeout": 3}),
        (faults.Latency(5, when="COPY"), "latency", {"latency": 5, "jitter": 0, "when": "COPY"}),
        (faults.Timeout(5, nth=range(2, 4), share=0.5), "timeout", {"timeout": 5, "nth": (2, 3), "share": 0.5}),
    ],
)
def test_our_words_are_snake_case(fault: faults.Fault, kind: str, attributes: dict[str, Any]) -> None:
    """What Toxiproxy lacks has its Python name in snake case; conditions are attributes, left out if there are none."""
    told = to_toxiproxy(fault, ours=True)
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
    assert from_toxiproxy({"type": "packet_loss", "attributes": None}) == faults.PacketLoss(0, 0)
    assert from_toxiproxy({"type": "corrupt"}) == faults.Corrupt()


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
    with pytest.raises(UsageError) as caught:
        to_toxiproxy(faults.Latency(5, nth=2))
    assert str(caught.value) == "Toxiproxy's latency has no nth: Latency(5, nth=2)"


class Mine(faults.Latency):
    """A user-defined toxic derived from one of Toxiproxy's."""


def test_a_subclass_is_not_taken_for_what_it_derives_from() -> None:
    """A user-defined toxic has no Toxiproxy name, whatever its base class."""
    with pytest.raises(UsageError, match="Toxiproxy has no Mine"):
        to_toxiproxy(Mine())
    with pytest.raises(UsageError, match=r"labkit's JSON has no Mine; it has bandwidth, .*half_close and down"):
        to_toxiproxy(Mine(), ours=True)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "not a toxic of Toxiproxy: None; it has bandwidth, latency"),
        ({"type": "latencies"}, "not a toxic of Toxiproxy: 'latencies'; it has bandwidth, latency"),
        ({"type": "latency", "attributes": {"delay": 5}}, "Toxiproxy's latency has no attribute 'delay'"),
        ({"type": "latency", "attributes": [5]}, "the attributes of Toxiproxy's latency must be an object, not [5]"),
        ({"type": ["latency"]}, "not a toxic of Toxiproxy: ['latency']"),
        ({"type": "black_hole", "attributes": {"when": "x"}}, "Toxiproxy's black_hole has no attribute 'when'"),
        ({"type": "black_hole", "toxicity": 0.5}, "black_hole hits every connection: toxicity must be 1, not 0.5"),
        (
            {"type": "latency", "attributes": {"nth": 0}},
            "Latency: nth must be a number from 1, or",
        ),
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

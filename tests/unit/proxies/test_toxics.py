"""Every network fault as a toxic of Toxiproxy's API, and back."""

from __future__ import annotations

from typing import Any

import pytest

from labkit import faults
from labkit.errors import UsageError
from labkit.proxies.toxics import ToxicFields, attributes_of, fault_of, kinds, shown_as
from tests.support.own_toxics import Renames

NETWORK = [entry for entry in faults.ALL.values() if entry.layer == "network" and entry.name != "Down"]


def toxic(type_: str, stream: str = "downstream", toxicity: float = 1.0, **attributes: Any) -> ToxicFields:
    return ToxicFields("x", type_, stream, toxicity, attributes)


@pytest.mark.parametrize("entry", NETWORK, ids=lambda entry: entry.name)
def test_every_network_fault_is_a_toxic(entry: faults.Entry) -> None:
    """Each sample of the matrix survives the way to the API's fields and back, with stream and toxicity."""
    for sample in entry.samples(2.0):
        shown = shown_as(sample.fault)
        assert kinds()[shown.type] is entry.kind
        assert shown.name == f"{shown.type}_{shown.stream}"
        assert fault_of(shown) == sample.fault
    if issubclass(entry.kind, faults.Toxic):
        turned = type(sample.fault)(**{**vars(sample.fault), "stream": "upstream", "toxicity": 0.5})
        assert (shown_as(turned).stream, shown_as(turned).toxicity) == ("upstream", 0.5)
        assert fault_of(shown_as(turned)) == turned


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (toxic("latency"), faults.Latency(0)),
        (toxic("latency", latency=5, jitter=2), faults.Latency(5, 2)),
        (toxic("limit_data"), faults.LimitData(0)),
        (toxic("noop"), faults.Latency(0)),
        (toxic("reset_peer", timeout=5), faults.ResetPeer(5)),
        (toxic("reset_peer", after_bytes=5), faults.ResetPeer(0, 5)),
        (toxic("slow_close"), faults.SlowClose(0)),
        (toxic("timeout", "upstream", 0.5), faults.Timeout(0, stream="upstream", toxicity=0.5)),
        (toxic("corrupt"), faults.Corrupt()),
        (toxic("half_close", after_bytes=3), faults.HalfClose(3)),
        (toxic("black_hole"), faults.BlackHole()),
        (toxic("packet_loss", loss_rate=0.5), faults.PacketLoss(0.5, 0)),
        (toxic("latency", when="COPY", nth=[1, 2], share=0.5), faults.Latency(0, when="COPY", nth=(1, 2), share=0.5)),
    ],
)
def test_defaults_are_those_of_toxiproxy_or_else_labkits(given: ToxicFields, fault: faults.Fault) -> None:
    """Toxiproxy's attributes are 0 unless given; labkit's own have labkit's defaults."""
    assert fault_of(given) == fault


def test_a_bandwidth_of_nothing_holds_everything_back() -> None:
    """As in Toxiproxy, a rate of 0 is valid, and no byte passes while anybody waits."""
    fault = fault_of(toxic("bandwidth"))
    assert isinstance(fault, faults.Bandwidth)
    assert 1 / (fault.rate * 1000) > 86_400  # seconds for the first byte
    assert attributes_of(toxic("bandwidth"), fault) == {"rate": 0}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (toxic("latency", latncy=5), "latency has no attribute 'latncy'"),
        (toxic("noop", x=1), "noop has no attribute 'x'"),
        (toxic("bandwidth", rate=""), "rate must be a number"),
        (toxic("latency", latency="5"), "latency must be a number"),
        (toxic("latency", latency=-1), "latency must be a number from 0"),
        (toxic("latency", toxicity=2), "toxicity must be a number from 0 to 1"),
        (toxic("slicer"), "slicer needs an average_size"),
        (toxic("black_hole", toxicity=0.5), "black_hole hits every connection: toxicity must be 1"),
    ],
)
def test_what_no_toxic_can_be(given: ToxicFields, words: str) -> None:
    """A misspelt attribute is refused, since the fault would be weaker than intended; so are wrong values."""
    with pytest.raises(UsageError, match=words):
        fault_of(given)


def test_a_toxic_of_ones_own_is_a_type_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that a user adds to the registry is there by its name in snake case, with its parameters."""
    monkeypatch.setitem(faults.ALL, "Renames", faults.Entry.of(Renames))
    made = fault_of(toxic("renames", "upstream", 0.5))
    assert made == Renames(stream="upstream", toxicity=0.5)
    assert (shown_as(made).name, fault_of(shown_as(made))) == ("renames_upstream", made)
    with pytest.raises(UsageError, match="renames has no attribute 'x'"):
        fault_of(toxic("renames", x=1))

"""What firewalld is asked for, over a bus that is made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from corten.linux import dbus, nftables, nftlist
from corten.network import firewalld, neighbours
from corten.network.firewalld import Firewalld

CHAINS = [nftlist.Chain(nftables.INET, "firewalld", "filter_FORWARD", nftables.FORWARD, drops=False)]


class Bus:
    """firewalld at the other end: its zones by interface, and whether it answers."""

    def __init__(self) -> None:
        self.zones: dict[str, str] = {}
        self.calls: list[str] = []
        self.fails: Exception | None = None

    def __call__(self, path: str, *, timeout_s: float) -> Bus:
        assert path == "/run/dbus/system_bus_socket"
        assert timeout_s
        return self

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *failure: object) -> None:
        pass

    def call(self, name: str, path: str, interface: str, member: str, signature: str = "", *words: str) -> list[str]:
        self.calls.append(member)
        if member == "Hello":
            return [":1.1"]
        assert (name, len(signature)) == ("org.fedoraproject.FirewallD1", len(words))
        if self.fails is not None:
            raise self.fails
        if member == "getZoneOfInterface":
            return [self.zones.get(words[0], "")]
        zone, device = words
        if member == "addInterface":
            assert device not in self.zones
            self.zones[device] = zone
        else:
            assert member == "removeInterface"
            assert self.zones.pop(device) == zone
        return [zone]


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    made = Bus()
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(dbus, "Connection", made)
    return made


def test_bridges_are_trusted_as_long_as_they_are_there(bus: Bus) -> None:
    bus.zones = {"br-chosen": "dmz"}
    asked = Firewalld()
    asked.trust(CHAINS, ["br-chosen", "br-new"])
    assert bus.zones == {"br-chosen": "dmz", "br-new": "trusted"}, "what somebody has chosen stays"
    asked.trust(CHAINS, ["br-other"])
    assert bus.zones == {"br-chosen": "dmz", "br-other": "trusted"}
    asked.trust(CHAINS, [])
    assert bus.zones == {"br-chosen": "dmz"}


def test_a_bridge_that_was_given_another_zone_meanwhile_is_left_there(bus: Bus) -> None:
    asked = Firewalld()
    asked.trust(CHAINS, ["br-0"])
    bus.zones["br-0"] = "work"
    asked.trust(CHAINS, [])
    assert bus.zones == {"br-0": "work"}


def test_loaded_anew_it_has_forgotten(bus: Bus) -> None:
    asked = Firewalld()
    asked.trust(CHAINS, ["br-0"])
    bus.zones.clear()
    asked.trust(CHAINS, ["br-0"])
    assert bus.zones == {"br-0": "trusted"}
    change = nftlist.Change("chain", nftables.INET, "firewalld", firewalld.CHAIN, deleted=False, port=7)
    assert neighbours.concerns(change)
    assert not neighbours.concerns(replace(change, kind="rule"))


def test_without_its_table_nobody_is_asked(bus: Bus) -> None:
    Firewalld().trust([], ["br-0"])
    Firewalld().trust(CHAINS, [])
    assert bus.calls == []


@pytest.mark.parametrize("failure", [dbus.CallFailed("org.x.Error", "no"), TimeoutError("no answer"), OSError("gone")])
def test_one_that_does_not_answer_is_told_of(bus: Bus, failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    bus.fails = failure
    Firewalld().trust(CHAINS, ["br-0"])
    assert "firewalld does not answer" in caplog.text

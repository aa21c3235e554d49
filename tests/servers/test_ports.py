"""Ports are free when they are given, and given to one trial at a time."""

import socket

import pytest

from kit.servers import ports
from kit.servers.ports import PortClaim


def test_ports_are_different_free_and_below_those_of_outgoing_connections() -> None:
    with PortClaim(3) as claim:
        assert len(set(claim.ports)) == 3
        for port in claim.ports:
            assert port < ports._first_outgoing_port()
            with socket.create_server(("127.0.0.1", port)):
                pass


def test_a_claimed_port_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_LOWEST", 20_000)
    monkeypatch.setattr(ports, "_first_outgoing_port", lambda: 20_012)
    with PortClaim(4) as first, PortClaim(4) as second:
        assert not set(first.ports) & set(second.ports)


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST", taken)
        monkeypatch.setattr(ports, "_first_outgoing_port", lambda: taken + 20)
        for _ in range(20):
            with PortClaim(1) as claim:
                assert claim.ports != (taken,)


def test_a_released_port_can_be_claimed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with PortClaim(1) as claim:
        [port] = claim.ports
    monkeypatch.setattr(ports, "_LOWEST", port)
    monkeypatch.setattr(ports, "_first_outgoing_port", lambda: port + 1)
    with PortClaim(1) as again:
        assert again.ports == (port,)


def test_a_claim_that_cannot_be_met_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_LOWEST", 20_000)
    monkeypatch.setattr(ports, "_first_outgoing_port", lambda: 20_002)
    monkeypatch.setattr(ports, "_TRIES", 50)
    with pytest.raises(ports.ServerStartError, match="no free port"):
        PortClaim(3)
    with PortClaim(1):
        pass

"""Tells whether a server is on this machine, and what carries its port here if it is not."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

import psutil

#: Programs whose open port leads to another machine.
TUNNELS: Final = ("kubectl", "oc", "ssh", "autossh", "chisel", "cloudflared")
#: Of them, those that break under interrupted requests (kubernetes#78446).
FRAGILE: Final = ("kubectl", "oc")


def is_on_this_machine(host: str, port: int) -> bool:
    """Whether what listens at host:port runs on this machine, as far as can be seen from here.

    A port of this machine that a tunnel holds leads to another one.
    """
    return is_own_address(host) and tunnel_at(port) is None


def is_own_address(host: str) -> bool:
    """Whether a name or address is loopback, or an address of this machine's own.

    A name that cannot be resolved is not.

    >>> is_own_address("127.0.0.1"), is_own_address("192.0.2.1")
    (True, False)
    """
    try:
        found = {str(row[4][0]) for row in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    own = {
        str(address.address).partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
    }
    plain = [address.partition("%")[0] for address in found]
    return bool(plain) and all(one in own or ipaddress.ip_address(one).is_loopback for one in plain)


def tunnel_at(port: int) -> str | None:
    """The program of TUNNELS that listens on this port of this machine; None: none that can be
    seen (another user's program cannot)."""
    try:
        listening = [
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
        ]
    except (psutil.Error, OSError):
        return None
    for pid in filter(None, listening):
        try:
            name = psutil.Process(pid).name()
        except psutil.Error:
            continue
        if name in TUNNELS:
            return name
    return None

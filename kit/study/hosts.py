"""The hosts of a cluster that ran trials of a study: what they are, and in what they differ.

`hosts.json` in the study's folder lists them, the refused ones too; `TrialResult.host` is the label
of the one that a trial ran on. No name and no address of a host is kept: `machine` is a digest of
the kernel's boot id, which is a random number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kit.study.encoding import from_json, to_json
from kit.study.files import read_file, write_whole
from kit.study.words import listing

FILE = "hosts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One machine of a cluster.

    >>> one = HostFacts(machine="a", kit="1.0", source="f", python="3.11.2", libc="glibc 2.36",
    ...     system="Linux x86_64", processor="?", cores=2, memory_gib=8)
    >>> differences([one, one])
    []
    """

    machine: str  # tells it from others for as long as it is up
    kit: str
    source: str  # digest of the kit's files: equal for equal checkouts
    python: str
    libc: str
    system: str  # "Linux x86_64"
    processor: str
    cores: int  # that its processes may use
    memory_gib: int
    gpus: tuple[str, ...] = ()
    refused: str = ""  # why no trial runs there; "": they do
    label: str = ""  # "host 1", by order of appearance in the study


#: What may differ without a trial being refused, and what it is called.
FACTS = {
    "system": "system",
    "processor": "processor",
    "cores": "cores",
    "memory_gib": "memory (GiB)",
    "gpus": "GPUs",
    "libc": "C library",
    "python": "Python",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostList:
    """The content of hosts.json."""

    hosts: tuple[HostFacts, ...] = ()
    schema: int = 1


def read_hosts(study: Path) -> tuple[HostFacts, ...]:
    """The hosts that a study's folder lists; empty for one that ran on one machine.

    Raises:
        StoreError, SpecError: the list is damaged.
    """
    if not os.path.lexists(study / FILE):
        return ()
    return from_json(read_file(study / FILE, within=study), HostList).hosts


def note_host(study: Path, found: HostFacts) -> HostFacts:
    """Add a host to the study's list, or put what is known of it now in its place; with its label.

    Raises:
        StoreError: the list is damaged or cannot be written.
    """
    known = read_hosts(study)
    same = next((one for one in known if one.machine == found.machine), None)
    label = same.label if same else f"host {len(known) + 1}"
    noted = replace(found, label=label)
    if noted != same:
        hosts = (*(one for one in known if one is not same), noted)
        ordered = tuple(sorted(hosts, key=lambda one: int(one.label.rpartition(" ")[2])))
        write_whole(study / FILE, to_json(HostList(hosts=ordered)))
    return noted


def differences(hosts: Sequence[HostFacts]) -> list[str]:
    """In what these hosts differ, a line a fact: "cores: 2 on host 1, 8 on host 2 and host 3"."""
    lines = []
    for name, word in FACTS.items():
        by_value: dict[str, list[str]] = {}
        for host in hosts:
            by_value.setdefault(_shown(getattr(host, name)), []).append(host.label)
        if len(by_value) > 1:
            said = (f"{value} on {listing(labels)}" for value, labels in by_value.items())
            lines.append(f"{word}: {', '.join(said)}")
    return lines


def hosts_words(labels: Iterable[str | None]) -> str:
    """What stands beneath figures of trials of several hosts; "" if one host ran them all.

    labels: of each trial; None: the machine that the study is on.

    >>> hosts_words(["host 1", "host 2", "host 1"])
    'trials of 2 hosts, whose latencies differ by the host as well'
    >>> hosts_words([None, None])
    ''
    """
    number = len(set(labels))
    if number < 2:
        return ""
    return f"trials of {number} hosts, whose latencies differ by the host as well"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value)) or "none"
    return str(value)

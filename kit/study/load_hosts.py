"""The hosts from which the load of one trial came, and what is known of their clocks and shares.

Worker w of a trial with H load hosts runs on the host at place w modulo H.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kit.study.words import listing

#: Starts that are further apart than this are said beside the figures.
SKEW_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadHost:
    """One of them. A clock's offset: the host's CLOCK_MONOTONIC less that of the trial's machine.

    None = not known: it was lost before.
    """

    label: str  # in hosts.json of the study
    workers: tuple[int, ...]
    requests: int  # on record
    offset_before_ns: int | None = None
    offset_before_error_ns: int | None = None
    offset_after_ns: int | None = None
    offset_after_error_ns: int | None = None
    clock_error_ns: int | None = None  # of any time on its records, at the most
    #: From when its first request was due, as the common start has it, until it was sent.
    began_late_s: float | None = None
    unsent: int = 0  # of its requests up to the last that any host sent: those not on record
    unsent_numbers: str = ""  # "17, 20-23", the first of them
    failed: str = ""  # why it, or its part of the load, was lost


def start_skew_s(hosts: Iterable[LoadHost]) -> float | None:
    """How far apart the hosts began; None: at most one is known to have begun.

    >>> one, two = (LoadHost(label=f"host {n}", workers=(n,), requests=1, began_late_s=n / 1000)
    ...     for n in (1, 4))
    >>> start_skew_s([one, two])
    0.003
    """
    late = [host.began_late_s for host in hosts if host.began_late_s is not None]
    return max(late) - min(late) if len(late) > 1 else None


def clock_error_s(hosts: Iterable[LoadHost]) -> float | None:
    """By how much times of these hosts may be wrong, at the most; None: nothing is known."""
    errors = [host.clock_error_ns for host in hosts if host.clock_error_ns is not None]
    return max(errors) / 1e9 if errors else None


def load_hosts_sentence(trials: Sequence[Sequence[LoadHost]]) -> str:
    """What is to be said of trials whose load came from several hosts; "": of none it did."""
    several = [hosts for hosts in trials if hosts]
    if not several:
        return ""
    most, least = (pick(len(hosts) for hosts in several) for pick in (max, min))
    count = f"{most}" if most == least else f"{least} to {most}"
    text = f"The load of a trial came from {count} host{'s' if most > 1 else ''}."
    errors = [error for hosts in several if (error := clock_error_s(hosts)) is not None]
    if errors:
        text += f" Their clocks were compared to ±{max(errors) * 1e3:.2f} ms"
        skews = [skew for hosts in several if (skew := start_skew_s(hosts)) is not None]
        text += f", and they began within {max(skews) * 1e3:.1f} ms." if skews else "."
        if skews and max(skews) > SKEW_S:
            text += f" More than {SKEW_S * 1e3:g} ms is no common start."
    named = sorted({host.label for hosts in several for host in hosts if host.failed})
    if named:
        text += f" Of the load of {listing(named)} a part was lost."
    return text

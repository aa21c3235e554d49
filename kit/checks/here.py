"""Checks this machine for a study: what `kit doctor` sees, ports, and the client's head room."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import psutil

from kit.checks.finding import Finding, Severity
from kit.errors import ServerStartError
from kit.servers.doctor import PROBES, SHM_TOPIC, Check, CheckState, best_python, check_with
from kit.servers.ports import PortClaim
from kit.servers.prepare import lacks_here
from kit.servers.python import ways_to_get
from kit.study.hybrids import get_hybrid
from kit.study.releases import get_release
from kit.study.spec import FaultKind, ServerKind, TrialSpec

CLIENT: Final = "client"
PORTS: Final = "ports"
#: Processor time of a load worker: measured 9 microseconds a request and 17 an event that comes by
#: itself (benchmarks/results.json, closed_loop_cpu_kit and sse_paced_64_cpu_kit), taken three
#: times, for slower machines.
REQUEST_CPU_S: Final = 27e-6
EVENT_CPU_S: Final = 51e-6
#: How long is looked at how busy this machine is.
_LOOK_S: Final = 0.3
#: A worker that is busier than this soon measures itself.
MOST_BUSY_FRACTION: Final = 0.7
#: Files of a trial process beside those of its clients.
OTHER_FILES: Final = 100
#: For so long the system keeps the port of a connection that this side closed.
TIME_WAIT_S: Final = 60.0
#: Of the doctor's checks, those that a study depends on and that take no time.
_CHEAP: Final = ("disk", "limits", "clock")
_SEVERITY: Final = {
    CheckState.OK: Severity.OK,
    CheckState.LACKS: Severity.WARNS,
    CheckState.WITHOUT: Severity.NOTES,
}


def here_findings(
    trials: Sequence[TrialSpec], *, parallel: int | None, is_quick: bool = False
) -> Iterator[Finding]:
    """What this machine has for these trials; nothing is started or fetched.

    parallel: trials at a time; None: one a processor core. is_quick: leave out whether a release
    can run here, which the study finds out by itself.
    """
    embedded = [trial for trial in trials if trial.server.kind is ServerKind.EMBEDDED]
    hybrids = [trial for trial in trials if trial.server.kind is ServerKind.HYBRID]
    own = [*embedded, *hybrids]
    topics = (*_CHEAP, SHM_TOPIC) if own else _CHEAP
    yield from map(_of_doctor, check_with({topic: PROBES[topic] for topic in topics}))
    if not is_quick:
        yield from _embedded(embedded)
        yield from _hybrids(hybrids)
    at_a_time = parallel or os.cpu_count() or 1
    if own:
        yield _ports(3 * at_a_time)
    busy = None if is_quick else psutil.cpu_percent(_LOOK_S) / 100
    yield from client_findings(trials, at_a_time=at_a_time, busy_fraction=busy)


def _of_doctor(check: Check) -> Finding:
    return Finding(
        topic=check.topic,
        severity=_SEVERITY[check.state],
        found=check.found,
        hint=check.hint or "",
    )


def _embedded(trials: Sequence[TrialSpec]) -> Iterator[Finding]:
    releases = dict.fromkeys(t.server.release for t in trials if t.server.release)
    for name in releases:
        lacks = lacks_here(get_release(name))
        how = ways_to_get(best_python([name]))
        if lacks is None:
            yield Finding(
                topic="runs here",
                severity=Severity.OK,
                found=f"{name} runs on this machine",
                server=name,
            )
        else:
            yield Finding(
                topic="runs here",
                severity=Severity.WARNS,
                found=f"{name} wants {lacks}",
                hint=f"the study fetches a Python if it can; else {how}",
                server=name,
            )


def _hybrids(trials: Sequence[TrialSpec]) -> Iterator[Finding]:
    from kit.servers.hybrid.files import hybrid_lacks_here  # only where a study has one

    for server in dict.fromkeys(trial.server for trial in trials):
        hybrid = get_hybrid(server.frontends or "", server.release or "")
        lacks = hybrid_lacks_here(hybrid)
        yield Finding(
            topic="runs here",
            severity=Severity.OK if lacks is None else Severity.WARNS,
            found=f"{hybrid.name} {'runs on this machine' if lacks is None else f'wants {lacks}'}",
            hint="" if lacks is None else "the study fetches what it can: a Python, a C library",
            server=hybrid.name,
        )


def _ports(count: int) -> Finding:
    try:
        with PortClaim(count):
            pass
    except ServerStartError as error:
        return Finding(topic=PORTS, severity=Severity.WARNS, found=error.given, hint=error.hint)
    return Finding(
        topic=PORTS, severity=Severity.OK, found=f"{count} free ones for servers on 127.0.0.1"
    )


def client_findings(
    trials: Sequence[TrialSpec], *, at_a_time: int = 1, busy_fraction: float | None = None
) -> Iterator[Finding]:
    """Whether this machine can send that traffic and still measure the server, not itself.

    busy_fraction: of its processor time, what goes to others now; None: not known.
    """
    problems = list(dict.fromkeys(_too_much(trials)))
    yield from problems
    cores = os.cpu_count() or 1
    if busy_fraction is not None and busy_fraction > MOST_BUSY_FRACTION:
        yield Finding(
            topic=CLIENT,
            severity=Severity.WARNS,
            found=f"{busy_fraction:.0%} of this machine's processor time is in use now",
            reason="latencies will show what else runs here",
            hint="wait until it is quiet",
        )
    workers = max(0 if t.workload.load_hosts else t.workload.processes for t in trials)
    if workers * at_a_time > cores and workers > 1:
        yield Finding(
            topic=CLIENT,
            severity=Severity.WARNS,
            found=f"{workers} load processes for each of {at_a_time} trials at a time on {cores} "
            "processor cores",
            reason="they take the time from each other",
            hint="lower processes, or parallel",
        )
    if not problems:
        open_loop = all(not trial.workload.is_closed_loop for trial in trials)
        yield Finding(
            topic=CLIENT,
            severity=Severity.OK if open_loop else Severity.NOTES,
            found="enough processor time for this rate"
            if open_loop
            else "a closed loop is as fast as the server, which nobody knows yet",
            hint="" if open_loop else "the result says whether the client was the limit",
        )


def _too_much(trials: Sequence[TrialSpec]) -> Iterator[Finding]:
    for trial in trials:
        load = trial.workload
        busy = _worker_busy(trial)
        if busy is not None and busy > MOST_BUSY_FRACTION:
            yield Finding(
                topic=CLIENT,
                severity=Severity.WARNS,
                found=f"a rate of {load.rate:,g} requests/s takes {busy:.1f} of a processor core "
                f"in each of {load.processes} load processes",
                reason="a client at its limit measures itself",
                hint="raise processes, or lower the rate",
            )
        files = (load.concurrency or 0) + OTHER_FILES
        most = _open_files()
        if most is not None and files > most:
            yield Finding(
                topic=CLIENT,
                severity=Severity.WARNS,
                found=f"{load.concurrency:,} clients, and a process may open {most:,} files",
                hint="raise the limit (`ulimit -Hn`), or send from fewer clients",
            )
        yield from _connections(trial)


def _worker_busy(trial: TrialSpec) -> float | None:
    """Share of a core that each load process of an open loop needs; None: not known."""
    load = trial.workload
    if load.rate is None:
        return None
    events = load.output_tokens.mean or load.output_tokens.high or 0.0
    each_s = REQUEST_CPU_S + (EVENT_CPU_S * events if load.protocol.is_streamed else 0.0)
    return load.rate * each_s / load.workers


def _connections(trial: TrialSpec) -> Iterator[Finding]:
    """Each client that leaves costs a connection, whose port is not free at once."""
    load = trial.workload
    leaving = load.share(FaultKind.DISCONNECT) + load.share(FaultKind.CANCEL)
    if load.protocol.is_grpc or load.rate is None or not leaving:
        return
    held, there = leaving * load.rate * TIME_WAIT_S, _outgoing_ports()
    if there is not None and held > there:
        yield Finding(
            topic=PORTS,
            severity=Severity.WARNS,
            found=f"{held:,.0f} connections in {TIME_WAIT_S:g} s, and the system has {there:,} "
            "ports for them",
            reason="the client then cannot connect, which looks like a server that refuses",
            hint="lower the rate, or widen net.ipv4.ip_local_port_range",
        )


def _outgoing_ports() -> int | None:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read().split())
    except (OSError, ValueError):
        return None
    return high - low + 1


def _open_files() -> int | None:
    """The most files that a process may open; None: no limit, or not known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if most == resource.RLIM_INFINITY else int(most)

"""The load of one trial from one, two and four "machines", against one server.

The machines are network namespaces of this one, each with a clock of its own (a time namespace),
by whole thousands of seconds ahead of ours: so it is known by how much the kit is wrong about it.
They share this machine's cores, so that they are together no faster than one of them. That several
hosts hold what one cannot is shown with links that are capped: each machine sends so much, and no
more. Needs root, `ip`, `tc` and `unshare`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.hosts import NETWORK, cap_links, machines
from benchmarks.results import Result, Results, over_rounds
from benchmarks.source import Source, own_source
from kit.runner.study import run_study
from kit.study.folder import TrialFolder
from kit.study.load_hosts import LoadHost, clock_error_s
from kit.study.result import TrialResult
from kit.study.spec import ServerKind, ServerSpec, StudySpec, Workload, fixed, uniform

COMMAND = "python -m benchmarks load-hosts"
HOSTS = (2, 4)
CLOCK_STEP_S = 1_000
REQUESTS = 2_000
SAME = (
    *("request", "conversation", "turn", "warmup", "prompt_tokens", "output_tokens_asked"),
    *("fault", "outcome"),
)
#: Of each machine's link; a request of the capped load takes about 1,300 bytes of it.
LINK = "800kbit"
RATE_PER_S = 240.0
SECONDS = 12.0


def load_hosts(results: Results, rounds: int) -> None:
    """The same requests from several hosts, a common start, and a rate that one cannot hold."""
    needs = [word for word in ("ip", "tc", "unshare") if shutil.which(word) is None]
    if os.geteuid() != 0 or needs:
        note = f"needs root and {' and '.join(needs or ['network namespaces'])}"
        name = "load_hosts_requests_that_differ_2"
        results.add(Result(name=name, value=None, unit="requests", target="<= 0", note=note))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # namespaces are to go then, too
    with (
        tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
        machines(max(HOSTS), Path(scratch), CLOCK_STEP_S) as address,
        own_source(is_pinned=False, stamps=8 * REQUESTS, host=f"{NETWORK}.1") as source,
    ):
        runs = _Runs(source, address, Path(scratch))
        _compare(results, runs, rounds)
        cap_links(max(HOSTS), source.port, LINK)
        _hold(results, runs)


@dataclass
class _Runs:
    """Trials against one source. address: of the scheduler."""

    source: Source
    address: str
    folder: Path
    number: int = 0

    def trial(self, workload: Workload) -> tuple[TrialFolder, TrialResult]:
        """The records of one trial; load_hosts of the workload: from so many machines."""
        self.number += 1
        url = f"http://{NETWORK}.1:{self.source.port}"
        server = ServerSpec(kind=ServerKind.ATTACHED, url=url, model="m")
        spec = StudySpec(name="hosts", servers=(server,), workload=workload, repeats=1)
        on = None if workload.load_hosts is None else self.address
        [trial] = run_study(spec, self.folder / f"s{self.number}", on=on).trials()
        assert trial.result is not None
        if not trial.result.verdict.is_counted:
            raise RuntimeError(trial.result.reason)
        return trial, trial.result


def _compare(results: Results, runs: _Runs, rounds: int) -> None:
    plain = Workload(
        concurrency=16,
        requests=REQUESTS,
        prompt_tokens=uniform(4, 40),
        output_tokens=uniform(4, 32),
        disconnect=0.1,
    )
    alone, _ = runs.trial(plain)
    wanted = alone.requests().select(SAME).sort_by("request")
    for hosts in HOSTS:
        differ, skews, wrong, errors = 0, [], [], []
        for _ in range(rounds):
            trial, result = runs.trial(replace(plain, load_hosts=hosts))
            differ += _differing(wanted, trial.requests().select(SAME).sort_by("request"))
            skews.append(_true_skew_s(result.load_hosts) * 1e3)
            wrong.append(max(map(_wrong, result.load_hosts)))
            errors.append((clock_error_s(result.load_hosts) or 0.0) * 1e3)
        common = {"command": COMMAND, "rounds": rounds}
        name, unit = f"load_hosts_requests_that_differ_{hosts}", f"of {rounds * REQUESTS} requests"
        results.add(Result(name=name, value=differ, unit=unit, target="<= 0", **common))  # type: ignore[arg-type]
        for name, values, unit, target in (
            ("load_hosts_start_skew", skews, "ms between the first and the last host", "<= 5"),
            ("load_hosts_clock_error_stated", errors, "ms", None),
            ("load_hosts_clock_wrong", wrong, "of the stated error", "<= 1"),
        ):
            results.add(
                Result(
                    name=f"{name}_{hosts}",
                    unit=unit,
                    target=target,
                    command=COMMAND,
                    **over_rounds(values),  # type: ignore[arg-type]
                )
            )


def _differing(wanted: pa.Table, found: pa.Table) -> int:
    """Requests that are not the same in both; of another number of them, all."""
    if wanted.num_rows != found.num_rows:
        return max(wanted.num_rows, found.num_rows)
    return sum(
        one != other for one, other in zip(wanted.to_pylist(), found.to_pylist(), strict=True)
    )


def _ahead_ns(host: LoadHost) -> int:
    """By how much the machine's clock is ahead in truth."""
    assert host.offset_before_ns is not None
    step_ns = CLOCK_STEP_S * 10**9
    return round(host.offset_before_ns / step_ns) * step_ns


def _true_skew_s(hosts: tuple[LoadHost, ...]) -> float:
    """How far apart the hosts began in truth: what the comparison of clocks was wrong by, too."""
    began = [
        (host.began_late_s or 0.0) + ((host.offset_before_ns or 0) - _ahead_ns(host)) / 1e9
        for host in hosts
    ]
    return max(began) - min(began)


def _wrong(host: LoadHost) -> float:
    """The true error of the offsets before and after, as a share of what was stated."""
    pairs = (
        (host.offset_before_ns, host.offset_before_error_ns),
        (host.offset_after_ns, host.offset_after_error_ns),
    )
    return max(
        abs(offset - _ahead_ns(host)) / error
        for offset, error in pairs
        if offset is not None and error
    )


def _hold(results: Results, runs: _Runs) -> None:
    load = Workload(
        arrivals="constant",
        rate=RATE_PER_S,
        duration_s=SECONDS,
        prompt_tokens=fixed(200),
        output_tokens=fixed(4),
    )
    for hosts in (1, *HOSTS):
        trial, result = runs.trial(replace(load, load_hosts=hosts))
        rows = trial.requests()
        ended_ns = pc.max(rows["end_ns"]).as_py()
        seconds = max(SECONDS, (ended_ns - (result.load_started_ns or 0)) / 1e9)
        answered = pc.sum(pc.equal(rows["outcome"], "ok")).as_py()
        results.add(
            Result(
                name=f"load_hosts_rate_on_capped_links_{hosts}",
                value=answered / seconds / RATE_PER_S,
                unit=f"of {RATE_PER_S:g} requests/s, {LINK} a host",
                target=">= 0.98" if hosts == max(HOSTS) else None,
                command=COMMAND,
                rounds=1,
            )
        )

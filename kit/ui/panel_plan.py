"""What a study will do and cost, in sentences, before it is run; by the pace of recorded trials."""

from __future__ import annotations

import os
from functools import cache
from statistics import median

import msgspec

from kit.servers.owner_commands import commands_for
from kit.study.paths import RECORDED
from kit.study.plan import most_trials, trials_of
from kit.study.spec import EngineKind, ServerKind, StudySpec

#: vLLM on a processor loads its model before each trial.
VLLM_START_S = 20.0


def plan_sentences(
    spec: StudySpec,
    trials: int,
    minutes: float,
    budget: float | None,
    *,
    parallel: int | None = None,
    on: str | None = None,
) -> list[str]:
    """What Run will do, before it is pressed: its product, time, servers and memory.

    budget: minutes; None: no limit. parallel: trials at a time; None: one a core. on: a Dask
    cluster that runs the trials, of which it is not known how many at a time.
    """
    at_once = _at_once(spec, trials, parallel)
    kinds = {server.kind for server in spec.servers}
    if kinds == {ServerKind.ATTACHED}:
        labels = ", ".join(server.label for server in spec.servers)
        most = "" if budget is None else f"; for {_minutes(budget)} at the most"
        source = f" from hosts of {on}" if spec.has_load_hosts else ""
        return [
            _product(spec, trials),
            f"sends to {labels}{source}, which is {_what_is_done(spec)}{most}",
        ]
    if on is not None:
        return [_product(spec, trials), *_on_hosts(on, budget)]
    time = f"about {_minutes(minutes)}, {at_once} at a time, by the pace of recorded trials"
    if budget is not None and budget < minutes:
        time += f"; the budget of {_minutes(budget)} ends it at about "
        time += f"{max(1, int(trials * budget / minutes)):,} trials"
    labels = ", ".join(server.label for server in spec.servers)
    place = "on 127.0.0.1" if kinds == {ServerKind.EMBEDDED} else "here or in containers"
    said = [
        _product(spec, trials),
        time,
        f"starts {_many(trials, 'server')} {place}, one a trial, and removes each afterwards: "
        f"{labels}",
    ]
    if kinds == {ServerKind.EMBEDDED}:
        servers = _many(at_once, "server")
        said.append(f"memory: about {at_once * server_gib():.1f} GiB for {servers} at a time")
    else:
        said.append("images that are not here yet are pulled first, some 10 to 20 GB each")
    return said


def _on_hosts(on: str, budget: float | None) -> list[str]:
    """What is known of trials on a cluster."""
    said = [f"runs on the hosts of {on}, one trial at a time on each, with the servers there"]
    return said if budget is None else [*said, f"{_minutes(budget)} at the most"]


def _what_is_done(spec: StudySpec) -> str:
    """What becomes of a server that somebody else runs."""
    if all(commands_for(server.url or "", os.environ).restart for server in spec.servers):
        return "restarted before each trial"
    later = "" if spec.repeats == 1 else "; after a death the trials that are left find no server"
    return f"neither started nor stopped{later}"


def planned(
    spec: StudySpec,
    *,
    requests: int | None,
    minutes: float | None,
    parallel: int | None = None,
    is_here: bool = True,
) -> list[str]:
    """A study's trials, time and budget, to be said before it begins.

    requests, minutes: its budget; None: no limit. is_here: this machine runs it; of a cluster it is
    not known how many trials run at a time, so no time is said.
    """
    trials = most_trials(spec)
    took = expected_minutes(spec, trials, parallel) if is_here else 0.0
    product, time, *_ = plan_sentences(spec, trials, took, minutes, parallel=parallel)
    said = [product]
    if is_here:
        said.append(time)
    elif minutes is not None:
        said.append(f"{_minutes(minutes)} at the most")
    return said if requests is None else [*said, f"{requests:,} requests at the most"]


def _at_once(spec: StudySpec, trials: int, parallel: int | None) -> int:
    """Trials at a time. A search, a soak and what shares a server take one after the other."""
    if spec.limit is not None or spec.soak is not None or spec.shares_a_server:
        return 1
    return min(trials, parallel or os.cpu_count() or 1)


def _product(spec: StudySpec, trials: int) -> str:
    """ "24 trials: 2 releases × 1 scenario × …", or what a search or a soak will do."""
    if spec.soak is not None:
        return f"1 server, {spec.soak.requests:,} requests: {spec.soak.words}"
    if spec.limit is not None:
        return (
            f"up to {_many(trials, 'trial')} of {spec.limit.requests:,} requests, each at the load "
            f"where it tells most: how much it can take with {spec.limit.goals.words}"
        )
    is_mixed = any(server.kind is not ServerKind.EMBEDDED for server in spec.servers)
    parts = [_many(len(spec.servers), "server" if is_mixed else "release")]
    parts.append(_many(len(spec.scenarios), "scenario") if spec.scenarios else "own traffic")
    parts += [
        f"{len(values)} values of {name}" if len(values) > 1 else f"{name} {values[0]}"
        for name, values in spec.grid.items()
    ]
    parts.append(_many(spec.repeats, "repeat"))
    most = "up to " if spec.sequential else ""
    return f"{most}{_many(trials, 'trial')}: {' × '.join(parts)}"


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return "a minute" if minutes > 0.5 else "half a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


@cache
def _pace() -> dict[str, tuple[float, float, int]]:
    """Of each scenario, by the recorded release map: seconds before the load, seconds of load,
    requests asked; "" = over all."""
    import pyarrow.parquet as pq

    rows: dict[str, list[tuple[float, float]]] = {}
    table = pq.read_table(RECORDED / "release_map" / "trials.parquet", columns=["result"])
    for text in table["result"].to_pylist():
        result = msgspec.json.decode(text)
        start, load, end = (result.get(f"{n}_ns") for n in ("started", "load_started", "ended"))
        if None in (start, load, end):
            continue
        seconds = (load - start) / 1e9, (end - load) / 1e9
        for name in (result["trial_id"].split("_")[1], ""):
            rows.setdefault(name, []).append(seconds)
    return {
        name: (median(a for a, _ in found), median(b for _, b in found), 200)
        for name, found in rows.items()
    }


def expected_minutes(spec: StudySpec, trials: int, parallel: int | None = None) -> float:
    """Minutes that so many trials take, by recorded ones of the same scenarios (2 cores).

    parallel: trials at a time; None: one a core.
    """
    pace = _pace()
    names = spec.scenarios or ("",)
    asked = [float(str(n)) for n in spec.grid.get("requests", ())]
    requests = sum(asked) / len(asked) if asked else float(spec.requests or 200)
    requests = float(spec.limit.requests) if spec.limit is not None else requests
    each = []
    for name in names:
        before, load, of = pace.get(name, pace[""])
        each.append(before + load * requests / of)
    seconds = sum(each) / len(each)
    if any(engine.kind is EngineKind.VLLM_CPU for engine in spec.engines):
        seconds += VLLM_START_S
    return seconds * trials / _at_once(spec, trials, parallel) / 60


@cache
def server_gib() -> float:
    """Memory of one embedded server with its stubs, GiB: the median peak of recorded trials."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = RECORDED / "first_light" / "samples.parquet"
    names = ("server_rss_bytes", "stub_rss_bytes")
    table = pq.read_table(path, columns=["trial", "name", "value"])
    total = 0.0
    for name in names:
        own = table.filter(pc.equal(table["name"], name))
        peaks = own.group_by("trial").aggregate([("value", "max")])["value_max"].to_pylist()
        total += median(peaks) if peaks else 0.0
    return total / 2**30


def known_before(spec: StudySpec) -> tuple[str, tuple[str, ...]]:
    """What is known before a run, as `kit advise` tells it of one release: a line, and more."""
    from kit.crash.outlook import outlook
    from kit.crash.traffic import traffic_of

    traffic = spec.scenarios or traffic_of(next(trials_of(spec)))
    found = outlook(spec.releases, traffic)
    faults = (f"{one.crash}: {one.text}. {one.advice}" for one in found.faults)
    sentences = (f"{text[:1].upper()}{text[1:]}." for text in found.more)
    return found.line, (*faults, *sentences)

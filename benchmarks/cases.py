"""The comparisons, each by name: what `python -m benchmarks` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from benchmarks import (
    compare,
    load_hosts,
    many_streams,
    memory,
    parallel,
    reading,
    real,
    truth,
    watching,
)
from benchmarks.compare import absolutes, ratios, side_by_side
from benchmarks.results import Results
from benchmarks.source import nginx_source, own_source
from kit.study.spec import AnswerCheck

#: An event every so often: what tokens of a real model are like.
PACE_US = 20_000


def closed_loop(results: Results, rounds: int) -> None:
    """Whole small answers, 64 clients, one core: records and integrity checks on."""
    small = {"clients": 64, "tokens": 16, "streams": False, "rounds": rounds}
    fast = ("wrk", "perf_analyzer", "aiohttp", "locust")
    taken, commands = side_by_side(own_source, fast, seconds=6.0, **small)  # type: ignore[arg-type]
    _closed(results, taken, commands)
    slow = ("aiperf", "guidellm")
    taken, commands = side_by_side(own_source, slow, seconds=6.0, **(small | {"rounds": 1}))  # type: ignore[arg-type]
    ratios(results, "closed_loop_rate", taken, commands, _rate, dict.fromkeys(slow, ">= 100"))
    taken.pop(compare.KIT)
    absolutes(results, "closed_loop_rate", taken, commands, _rate, "requests/s")


def closed_loop_all_cores(results: Results, rounds: int) -> None:
    """The same with nobody pinned: one core penalises tools that have many processes."""

    def taken_by(names: tuple[str, ...], rounds: int) -> tuple[compare.Taken, dict[str, str]]:
        return side_by_side(
            lambda: own_source(is_pinned=False),
            names,
            clients=64,
            tokens=16,
            streams=False,
            seconds=6.0,
            rounds=rounds,
            on_all_cores=True,
        )

    for names, times in (
        (("wrk", "perf_analyzer", "aiohttp", "locust"), rounds),
        (("aiperf", "guidellm"), 1),
    ):
        taken, commands = taken_by(names, times)
        name = "closed_loop_all_cores_rate"
        ratios(results, name, taken, commands, _rate, dict.fromkeys(names))
        if "aiperf" in names:
            taken.pop(compare.KIT)
        absolutes(results, name, taken, commands, _rate, "requests/s")


def _closed(results: Results, taken: compare.Taken, commands: dict[str, str]) -> None:
    least: dict[str, str | None] = {
        "wrk": ">= 0.6",
        "perf_analyzer": ">= 4",
        "aiohttp": ">= 5",
        "locust": ">= 5",
    }
    ratios(results, "closed_loop_rate", taken, commands, _rate, least)
    cpu: dict[str, str | None] = {"wrk": "<= 2", **dict.fromkeys(list(least)[1:])}
    ratios(results, "closed_loop_cpu", taken, commands, lambda u: u.cpu_us_a_request, cpu)
    absolutes(results, "closed_loop_rate", taken, commands, _rate, "requests/s")
    absolutes(
        results,
        "closed_loop_cpu",
        taken,
        commands,
        lambda u: u.cpu_us_a_request,
        "microseconds of CPU a request",
    )
    absolutes(
        results, "closed_loop_rss", taken, commands, lambda u: u.peak_rss_bytes / 1e6, "MB at most"
    )


def nginx(results: Results, rounds: int) -> None:
    """The same against nginx, which cannot echo: the protocol is checked, the text is not."""
    taken, commands = side_by_side(
        nginx_source,
        ("wrk",),
        clients=64,
        tokens=16,
        streams=False,
        seconds=6.0,
        rounds=rounds,
        change=lambda load: dataclasses.replace(load, answer_check=AnswerCheck.NONE),
    )
    ratios(results, "nginx_rate", taken, commands, _rate, {"wrk": None})
    ratios(results, "nginx_cpu", taken, commands, lambda u: u.cpu_us_a_request, {"wrk": None})


def streams(results: Results, rounds: int) -> None:
    """Event streams of 64 tokens, in one write (coalesced) or an event a write (paced)."""
    peers = ("perf_analyzer", "aiohttp", "locust", "vllm")
    for mode, interval_us in (("coalesced", 0), ("paced", PACE_US)):
        limits: dict[str, str | None] = {
            "perf_analyzer": "<= 1" if mode == "coalesced" else "<= 0.7",
            **dict.fromkeys(peers[1:], "<= 0.3333"),
        }
        for clients in (64, 256):
            taken, commands = side_by_side(
                lambda interval_us=interval_us: own_source(interval_us=interval_us),
                peers,
                clients=clients,
                tokens=64,
                streams=True,
                seconds=6.0,
                rounds=rounds,
                interval_us=interval_us,
            )
            name = f"sse_{mode}_{clients}"
            ratios(results, f"{name}_cpu", taken, commands, lambda u: u.cpu_us_an_event, limits)
            absolutes(
                results,
                f"{name}_cpu",
                taken,
                commands,
                lambda u: u.cpu_us_an_event,
                "microseconds of CPU an event",
            )
            absolutes(
                results,
                f"{name}_rate",
                taken,
                commands,
                lambda u: u.events_per_s,
                "events/s",
                target=">= 300000" if mode == "coalesced" else None,
            )


def _rate(usage: compare.Usage) -> float | None:
    return usage.requests_per_s


CASES: dict[str, Callable[[Results, int], None]] = {
    "closed-loop": closed_loop,
    "closed-loop-all-cores": closed_loop_all_cores,
    "nginx": nginx,
    "streams": streams,
    "real-http": real.http,
    "real-grpc": real.grpc,
    "grpc-clients": real.grpc_clients,
    "grpc-source": real.grpc_clients_on_source,
    "truth": truth.truth,
    "dispatch": truth.dispatch,
    "many-streams": many_streams.many_streams,
    "memory": memory.memory,
    "watching": watching.watching,
    "parallel": parallel.parallel,
    "reading": reading.reading,
    "load-hosts": load_hosts.load_hosts,
}

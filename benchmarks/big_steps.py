"""The steps of `python -m benchmarks big`, each run as a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kit.study.arrow_file import ArrowAppender
from kit.study.files import write_whole
from kit.study.folder import REQUESTS, StudyFolder
from kit.study.pack import pack_study
from kit.study.result import TrialResult, Verdict
from kit.study.spec import Arrivals, Protocol, ServerSpec, StudySpec, TrialSpec, Workload, embedded

#: Requests of a trial, clients, and requests that are drawn at a time.
TRIAL, CLIENTS, CHUNK = 2_500_000, 64, 64 * 4096
BATCH = 4096
START_NS = 5_000_000_000_000
#: Median latency, and share that fails, of each release.
RELEASES = {
    "23.10": (14e6, 0.08),
    "24.05": (12e6, 0.001),
    "24.08": (13e6, 0.01),
    "24.10": (18e6, 0),
}
QUANTILES = (0.5, 0.95, 0.99)


def main(step: str, study: str, *more: str) -> None:
    print(json.dumps(STEPS[step](Path(study), *map(int, more))))


def make(path: Path, begin: int, end: int, tokens: int) -> dict[str, float]:
    """Write trials of these numbers."""
    spec = StudySpec(name="big", servers=embedded(*RELEASES), scenarios=("control",))
    study = StudyFolder.create(path, spec)
    for number in range(begin, end):
        release = list(RELEASES)[number % len(RELEASES)]
        repeat = number // len(RELEASES)
        trial = TrialSpec(
            trial_id=f"{release}_control_c{CLIENTS}_r{repeat}",
            server=ServerSpec(release=release),
            scenario="control",
            model="simulated",
            repeat=repeat,
            workload=Workload(
                protocol=Protocol.HTTP_GENERATE_STREAM if tokens else Protocol.HTTP_GENERATE,
                arrivals=Arrivals(concurrency=CLIENTS),
                requests=TRIAL,
            ),
        )
        folder = study.new_trial(trial)
        with ArrowAppender(folder.path / "requests-0.arrows", REQUESTS) as file:
            for batch in requests(release, number, tokens):
                file.append_batch(batch)
        folder.finish(
            TrialResult(
                trial_id=trial.trial_id,
                verdict=Verdict.SURVIVED,
                reason="synthetic",
                completed=TRIAL,
                exit_code=0,
                load_started_ns=START_NS,
                started_ns=START_NS,
                ended_ns=START_NS + TRIAL * 1_000_000,
                versions={"triton": "synthetic"},
            )
        )
    write_whole(path / "done.json", b"{}\n")
    return {"trials": end - begin}


def requests(release: str, seed: int, tokens: int) -> Iterator[pa.RecordBatch]:
    """The records of one trial, in the order in which its requests ended."""
    rng = np.random.default_rng(seed)
    median_ns, fails = RELEASES[release]
    due = START_NS + rng.integers(0, 10_000_000, CLIENTS)
    for first in range(0, TRIAL, CHUNK):
        count = min(CHUNK, TRIAL - first) // CLIENTS

        def drawn(middle_ns: float, spread: float, count: int = count) -> NDArray[np.int64]:
            return rng.lognormal(np.log(middle_ns), spread, (count, CLIENTS)).astype(np.int64)

        free, dispatch = drawn(60e3, 0.3), drawn(40e3, 0.4)
        latency, tail = drawn(median_ns, 0.35), drawn(15e3, 0.3)
        cycle = free + dispatch + latency
        scheduled = np.cumsum(cycle, axis=0) - cycle + due
        due = due + cycle.sum(axis=0)
        sent = scheduled + dispatch
        end = (sent + latency).ravel()
        failed = rng.random(end.size) < fails
        times = {"scheduled_ns": scheduled.ravel(), "sent_ns": sent.ravel(), "end_ns": end}
        number = np.empty(end.size, np.int64)
        number[np.argsort(times["scheduled_ns"], kind="stable")] = np.arange(end.size) + first
        columns = {
            "request": pa.array(number),
            "worker": pa.repeat(pa.scalar(0, pa.int16()), end.size),
            "client": pa.array(np.tile(np.arange(CLIENTS, dtype=np.int32), count)),
            "warmup": pa.array(number < CLIENTS),
            **{name: pa.array(values) for name, values in times.items()},
            "first_ns": pa.array(end - tail.ravel(), mask=failed),
            "prompt_tokens": pa.array(rng.integers(16, 128, end.size, dtype=np.int32)),
            "output_tokens_asked": pa.repeat(pa.scalar(tokens or 16, pa.int32()), end.size),
            "bytes_received": pa.array(rng.integers(180, 200, end.size)),
            "status": pa.array(np.where(failed, 503, 200).astype(np.int32)),
            "outcome": pa.array(np.where(failed, "http_error", "ok")),
            "cause": pa.array(np.where(failed, "503 of the server", ""), mask=~failed),
            "clock": pa.repeat(pa.scalar("kernel"), end.size),
        }
        if tokens:
            columns |= streamed(rng, sent.ravel(), latency.ravel(), tokens)
        whole = pa.table(
            [columns.get(f.name, pa.nulls(end.size, f.type)) for f in REQUESTS], schema=REQUESTS
        )
        ordered = whole.take(pa.array(np.argsort(end, kind="stable")))
        yield from ordered.combine_chunks().to_batches(max_chunksize=BATCH)


def streamed(
    rng: np.random.Generator, sent: NDArray[np.int64], latency: NDArray[np.int64], tokens: int
) -> dict[str, pa.Array]:
    """Token events of each request, at uneven gaps that fill its latency."""
    gaps = rng.lognormal(0, 0.2, (sent.size, tokens))
    share = np.cumsum(gaps, axis=1) / gaps.sum(axis=1, keepdims=True)
    times = sent[:, None] + (share * latency[:, None]).astype(np.int64)
    offsets = pa.array(np.arange(sent.size + 1, dtype=np.int32) * tokens)
    return {
        "token_ns": pa.ListArray.from_arrays(offsets, pa.array(times.ravel())),
        "first_ns": pa.array(times[:, 0]),
        "tokens": pa.repeat(pa.scalar(tokens, pa.int32()), sent.size),
    }


def pack(path: Path) -> dict[str, float]:
    """Pack what is not packed yet, and remove the Arrow files."""
    done = pack_study(StudyFolder(path), remove=True)
    assert not any(trial.left for trial in done), done
    fields = ("requests", "arrow_bytes", "packed_bytes")
    return {name: sum(getattr(trial, name) for trial in done) for name in fields}


def count(path: Path) -> dict[str, float]:
    """Latency quantiles per release, counted part by part."""
    from kit.stats.counted import latencies_frame
    from kit.stats.latency import latency_table

    table = latency_table(latencies_frame(path), ["release"], quantiles=QUANTILES)
    return by_name(table["release"], table["quantile"], table["ms"])


def sql(path: Path) -> dict[str, float]:
    """The same by study.sql, exactly: a release at a time, since a quantile holds its values."""
    import kit

    shares = ", ".join(map(str, QUANTILES))
    study, found = kit.open(path), {}
    for release in study.sql("select distinct release from trials order by release")["release"]:
        [values] = study.sql(
            f"select quantile_disc(if(ok, e2e_ms, 'inf'::double), [{shares}]) as ms "
            f"from requests where judged and release = '{release}'"
        )["ms"]
        found |= {f"{release} {q}": value for q, value in zip(QUANTILES, values, strict=True)}
    return found


def pandas(path: Path) -> dict[str, float]:
    """The same by pandas, from all rows, exactly."""
    from kit.stats import size
    from kit.stats.frames import requests_frame
    from kit.stats.latency import latency_table

    size.MOST_ROWS = 10**12
    table = latency_table(requests_frame(path), ["release"], quantiles=QUANTILES)
    return by_name(table["release"], table["quantile"], table["ms"])


def report(path: Path) -> dict[str, float]:
    """The whole report."""
    import tempfile

    import kit

    with tempfile.TemporaryDirectory() as into:
        return {"bytes": kit.open(path).report(into).stat().st_size}


def by_name(*columns: object) -> dict[str, float]:
    return {f"{release} {share}": ms for release, share, ms in zip(*columns, strict=True)}  # type: ignore[call-overload]


STEPS = {
    "make": make, "pack": pack, "count": count, "sql": sql, "pandas": pandas, "report": report,
}  # fmt: skip

if __name__ == "__main__":
    main(*sys.argv[1:])

"""Parsed arguments in, an exit code out: `python -m kit load`, the load generator by itself."""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import SpecError
from kit.study.encoding import from_json
from kit.study.spec import (
    AnswerCheck,
    ArrivalKind,
    Arrivals,
    Distribution,
    DistributionKind,
    Protocol,
    Workload,
    fixed,
)
from kit.study.words import aligned
from kit.ui.console import print_json, read_text, remark

if TYPE_CHECKING:
    from kit.load.worker.workers import Workers
    from kit.study.folder import StudyFolder

QUANTILES = (0.5, 0.95, 0.99)
#: Of the latencies, in their columns of kit.stats.frames.requests_frame.
STREAMED = {"ttft_ms": "TTFT ms", "itl_ms_mean": "mean ITL ms"}
_RANGE = re.compile(r"(\d+)(?::(\d+))?")


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Send traffic to a server that is running already, and say what came back. Closed loop "
        "with --concurrency, open loop with --rate. Secrets come from the environment: "
        "KIT_BEARER_TOKEN, KIT_HEADERS (JSON), KIT_CA_FILE, KIT_TLS_VERIFY."
    )
    parser.add_argument("url", help="http://, https://, grpc:// or grpcs://HOST:PORT")
    parser.add_argument("--model", required=True, help="name of the model on that server")
    parser.add_argument("--protocol", choices=list(Protocol), default=Protocol.HTTP_GENERATE)
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="clients (16); with --rate: most in flight (no limit)",
    )
    parser.add_argument("--rate", type=float, metavar="R", help="requests/s, whatever comes back")
    kinds = [ArrivalKind.POISSON, ArrivalKind.CONSTANT, ArrivalKind.GAMMA]
    parser.add_argument("--arrivals", choices=kinds, default=kinds[0], help="gaps (%(default)s)")
    parser.add_argument("--requests", type=int, metavar="N", help="(200 if no --seconds either)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long")
    parser.add_argument("--prompt-tokens", default="32", metavar="N[:M]", help="(%(default)s)")
    parser.add_argument("--output-tokens", default="32", metavar="N[:M]", help="(%(default)s)")
    parser.add_argument(
        "--prompts", metavar="FILE", help="a prompt a line (data/prompts/plain.txt)"
    )
    parser.add_argument("--turns", type=int, default=1, help="of a conversation (1)")
    parser.add_argument("--warmup", type=int, default=0, help="requests left out of latency (0)")
    parser.add_argument(
        "--check",
        choices=list(AnswerCheck),
        default=AnswerCheck.NONE,
        help="what "
        "an answer must hold: its prompt (echo), or all that the simulated "
        "engine would say (exact) (%(default)s)",
    )
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="(%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="load workers (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic (0)")
    parser.add_argument(
        "--workload",
        type=Path,
        metavar="FILE",
        help="all of it as JSON (kit.study.spec.Workload): faults, steps, traces as well",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (studies/load-TIME)")


def load(args: Namespace) -> int:
    """Run the workload and print its outcomes and latencies."""
    from kit.runner.loadtest import endpoint_of, run_load

    workload = workload_of(args)
    endpoint = endpoint_of(args.url, workload.protocol)
    folder = args.out or Path("studies") / time.strftime("load-%Y%m%d-%H%M%S")
    remark(f"study folder: {folder}")
    study = run_load(workload, endpoint, args.model, folder, on_progress=_Line(sys.stderr))
    found = summary(study)
    if args.json:
        print_json({"folder": str(study.path), **found})
    else:
        print("\n".join(_lines(found)))
    return 0


def workload_of(args: Namespace) -> Workload:
    """The workload that was asked for.

    Raises:
        SpecError: it cannot be sent as written.
    """
    if args.workload:
        return from_json(read_text(args.workload).encode(), Workload)
    if args.rate is None:
        arrivals = Arrivals(concurrency=16 if args.concurrency is None else args.concurrency)
    else:
        arrivals = Arrivals(
            kind=ArrivalKind(args.arrivals), rate_per_s=args.rate, concurrency=args.concurrency
        )
    requests = 200 if args.requests is None and args.seconds is None else args.requests
    return Workload(
        protocol=Protocol(args.protocol),
        arrivals=arrivals,
        requests=requests,
        duration_s=args.seconds,
        warmup_requests=args.warmup,
        prompt_tokens=_lengths(args.prompt_tokens),
        output_tokens=_lengths(args.output_tokens),
        prompt_set=args.prompts,
        turns=args.turns,
        answer_check=AnswerCheck(args.check),
        timeout_s=args.timeout,
        processes=args.processes,
        seed=args.seed,
    )


def _lengths(text: str) -> Distribution:
    found = _RANGE.fullmatch(text.strip())
    if not found or int(found[1]) < 1:
        raise SpecError(f"lengths {text!r}", "a number, or two with a colon: 16:48", "correct it")
    if found[2] is None:
        return fixed(float(found[1]))
    return Distribution(kind=DistributionKind.UNIFORM, low=float(found[1]), high=float(found[2]))


def summary(study: StudyFolder) -> dict[str, Any]:
    """Outcomes with their causes, rate, latencies with their intervals, the client's own health."""
    from kit.stats.client_limits import client_limits, client_sentence
    from kit.stats.frames import requests_frame
    from kit.stats.latency import latency_table
    from kit.stats.timings import measured

    requests = requests_frame(study)
    causes = Counter(
        zip(
            requests["outcome"].astype(str),
            requests["cause"].astype(object).where(requests["cause"].notna(), None),
            strict=True,
        )
    )
    span_s = float(requests["end_s"].max() - requests["t_s"].min()) if len(requests) else 0.0
    whole = measured(requests)
    names = {whole: "e2e ms" if whole == "e2e_ms" else "e2e ms from the due time"} | STREAMED
    latencies = [
        {"measure": name, **{key: _plain(row[key]) for key in _SHOWN}}
        for column, name in names.items()
        if column == whole or requests[column].notna().any()  # what nobody streamed has no TTFT
        for row in latency_table(
            requests, ["release"], latency=column, quantiles=QUANTILES
        ).to_dict("records")
    ]
    return {
        "requests": len(requests),
        "ok": int(requests["ok"].sum()),
        "ok_per_s": float(requests["ok"].sum()) / span_s if span_s > 0 else None,
        "outcomes": [
            {"outcome": outcome, "cause": cause, "requests": count}
            for (outcome, cause), count in causes.most_common()
        ],
        "latencies": latencies,
        "client": client_sentence(client_limits(study)),
    }


_SHOWN = ("quantile", "n", "failed_fraction", "ms", "low_ms", "high_ms", "lacks")


def _plain(value: Any) -> Any:
    """As JSON has it: "never" for infinity, null for what is not known."""
    if isinstance(value, float):
        return "never" if value == float("inf") else None if value != value else float(value)
    return value.item() if hasattr(value, "item") else value


def _lines(found: dict[str, Any]) -> list[str]:
    rate = found["ok_per_s"]
    lines = [
        f"{found['ok']:,} of {found['requests']:,} requests answered well"
        + (f", {rate:,.1f} a second" if rate else "")
    ]
    rows = [
        (f"{row['requests']:,}", row["outcome"], row["cause"] or "") for row in found["outcomes"]
    ]
    lines += ["", aligned(("requests", "outcome", "cause"), rows)]
    table = [
        (row["measure"], f"p{100 * row['quantile']:g}", _value(row), f"{row['n']:,}", row["lacks"])
        for row in found["latencies"]
    ]
    if table:
        lines += ["", aligned(("latency", "", "value [95 % interval]", "n", ""), table)]
    return [*lines, "", found["client"]]


def _value(row: dict[str, Any]) -> str:
    if row["lacks"]:
        return "-"
    ms, low, high = (
        edge if isinstance(edge, str) else f"{edge:.3g}"
        for edge in (row["ms"], row["low_ms"], row["high_ms"])
    )
    return f"{ms} [{low} to {high}]"


class _Line:
    """One line on standard error, a second: how far the load is."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._due_s = 1.0

    def __call__(self, workers: Workers, elapsed_s: float) -> None:
        if elapsed_s < self._due_s:
            return
        self._due_s = elapsed_s + 1.0
        self._stream.write(
            f"{elapsed_s:6.0f} s  {workers.sent:,} sent  {workers.ok:,} ok  "
            f"{workers.ended - workers.ok:,} not ok  {workers.in_flight:,} in flight\n"
        )
        self._stream.flush()

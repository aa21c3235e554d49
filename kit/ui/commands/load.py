"""`kit load`: send traffic to a server that runs already, and say what came back."""

from __future__ import annotations

import math
import os
import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import SpecError, StoreError
from kit.study.encoding import from_json, plain
from kit.study.grid import as_grid, with_traffic
from kit.study.result import Outcome, TokensBy
from kit.study.spec import AnswerCheck, ServerKind, ServerSpec, Workload
from kit.study.words import aligned, paragraph
from kit.ui.console import (
    CRASHED,
    DONE,
    NOTHING_LEARNED,
    busy,
    print_json,
    print_text,
    read_text,
    remark,
)
from kit.ui.options import (
    Subparsers,
    add_cap,
    add_command,
    add_json,
    add_on,
    add_traffic,
    option_of,
    traffic_of,
)
from kit.ui.owner_options import add_owner_commands, use_owner_commands

if TYPE_CHECKING:
    import pandas as pd

    from kit.study.folder import StudyFolder

QUANTILES = (0.5, 0.95, 0.99)
#: Of the latencies, in their columns of kit.stats.frames.requests_frame.
STREAMED = {"ttft_ms": "TTFT ms", "itl_ms_mean": "mean ITL ms"}
#: How long a client waits for an answer of a server that nobody knows.
TIMEOUT_S = 60.0


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "load",
        load,
        "send traffic to a server that runs already",
        about="Send traffic to a server that is running already, and say what came back. Closed "
        "loop with --concurrency, open loop with --rate. A server that dies or answers no more "
        "is said, with the time; the exit code is 3. Secrets come from the environment: "
        "KIT_BEARER_TOKEN, KIT_HEADERS (JSON), KIT_CA_FILE, KIT_TLS_VERIFY.",
        examples="http://127.0.0.1:8000 --model llama --concurrency 8 --requests 500\n"
        "https://llm.example --model llama --protocol openai-chat-stream --rate 5 --duration-s 60\n"
        "grpc://127.0.0.1:8001 --model llama --protocol grpc-stream\n"
        "http://127.0.0.1:8000 --model llama --trace mooncake_trace.jsonl --requests 500\n"
        "http://127.0.0.1:8000 --model llama --commands docker:triton",
    )
    parser.add_argument("url", help="http://, https://, grpc:// or grpcs://HOST:PORT")
    parser.add_argument(
        "--metrics-url", metavar="URL", help="(port 8002 of the same host, if it answers)"
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="name of the model on that server"
    )
    parser.add_argument(
        "--workload",
        type=Path,
        metavar="FILE",
        help="all of the traffic as JSON (kit.study.spec.Workload): faults, steps, traces as well",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the traffic (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (studies/load-TIME)")
    add_on(parser, "with --load-hosts N, send from so many hosts of this Dask cluster")
    add_json(parser)
    add_owner_commands(parser)
    add_cap(parser)
    add_traffic(
        parser,
        "What is not given is as in --workload; else 200 requests of 32 + 32 tokens from 16 "
        f"clients, of which any whole answer is right, each within {TIMEOUT_S:g} s. One value "
        "each.",
    )


def load(args: Namespace) -> int:
    """Run the workload as a study of one trial, and print its outcomes and latencies."""
    from kit.ui.beginning import begin, run_within
    from kit.ui.choices import choose
    from kit.ui.consent import Cap
    from kit.ui.dashboard import text_progress

    use_owner_commands(args)
    workload = workload_of(args)
    _check(args.url, workload)
    server = ServerSpec(
        kind=ServerKind.ATTACHED, url=args.url, metrics_url=args.metrics_url, model=args.model
    )
    folder = args.out or Path("studies") / time.strftime("load-%Y%m%d-%H%M%S")
    if (folder / "done.json").exists():
        raise StoreError(f"{folder} holds a load already", "a new folder", "name another one")
    spec = choose(
        server,
        workload=workload,
        name="load",
        # The simulated engine alone is known by all that it says.
        engine="simulated" if workload.answer_check is AnswerCheck.EXACT else None,
        repeats=1,
    )
    cap = Cap(requests=args.most_requests, minutes=args.most_minutes, yes=args.yes)
    minutes = begin(spec, folder, cap, remark, parallel=1, on=args.on)
    show = text_progress(sys.stderr, folder, every_s=1.0)
    try:
        study = run_within(
            spec, folder, cap, minutes, remark, parallel=1, on=args.on, on_progress=show
        )
    finally:
        show.close()
    with busy("reading what came back"):
        found = summary(study)
    if args.json:
        print_json({"folder": str(study.path), **found})
    else:
        print_text("\n".join(_lines(found)))
        print_text(f"\nreport: kit report {study.path}")
    if found["end"]:
        return CRASHED
    if found["ok"]:
        return DONE
    remark(_nothing_answered(args.url, study, found))
    return NOTHING_LEARNED


def _check(url: str, workload: Workload) -> None:
    """Refuse what no worker could send, before anything is written.

    Raises:
        SpecError: the address, the environment's headers or certificates, or the prompts.
    """
    from kit.load.http.target import credentials_from, tls_context
    from kit.load.traffic.prompts import load_corpus
    from kit.servers.attached import endpoint_of

    endpoint = endpoint_of(url, workload.protocol)
    credentials_from(os.environ)
    if endpoint.tls:
        tls_context(os.environ)
    load_corpus(workload.prompt_set)


def _nothing_answered(url: str, study: StudyFolder, found: dict[str, Any]) -> str:
    """Why a load of which no request was answered well may be so."""
    outcomes = {row["outcome"] for row in found["outcomes"]}
    if outcomes == {Outcome.REFUSED.value}:
        return f"nothing listens at {url}: is the server up, and is that its port?"
    results = [trial.result for trial in study.trials() if trial.result]
    reason = results[0].reason if results else "no trial was run to its end"
    if not outcomes:
        return f"no request was sent: {reason}"
    return (
        "no request was answered well: the causes above are the server's words; check --model "
        f"and --protocol. {reason}"
    )


def workload_of(args: Namespace) -> Workload:
    """The workload that was asked for.

    Raises:
        SpecError: it cannot be sent as written.
    """
    given = traffic_of(args)
    if args.workload:
        base = from_json(read_text(args.workload).encode(), Workload)
    else:
        base = Workload(answer_check=AnswerCheck.NONE, timeout_s=TIMEOUT_S, seed=args.seed)
    grid = as_grid(given)
    for name, values in grid.items():
        if len(values) > 1:
            raise SpecError(
                f"{option_of(name)} with {len(values)} values",
                "one value: this load is one trial",
                "run the command once for each",
            )
    return with_traffic(base, {name: values[0] for name, values in grid.items()})


def summary(study: StudyFolder) -> dict[str, Any]:
    """What came of the one trial of `study`, as `--json` prints it.

    Outcomes with their causes, rate, latencies with their intervals, tokens by who counted them,
    and the client's own health.
    Of a server that died or answers no more: `end`, when and how; then rate and latencies are
    those of the requests sent until then, and what was sent afterwards is counted in `end`.
    """
    from kit.report.sentences import load_sentence
    from kit.stats.client_limits import client_limits, client_sentence
    from kit.stats.frames import requests_frame
    from kit.stats.latency import latency_table
    from kit.stats.timings import measured
    from kit.stats.tokens import token_totals

    requests = requests_frame(study)
    end = _end(study, requests)
    timed = requests
    if end and end["after_s"] is not None:
        timed = requests[requests["t_s"] < end["after_s"]]
    causes = Counter(
        zip(
            requests["outcome"].astype(str),
            requests["cause"].astype(object).where(requests["cause"].notna(), None),
            strict=True,
        )
    )
    span_s = float(timed["end_s"].max() - timed["t_s"].min()) if len(timed) else 0.0
    whole = measured(requests)
    names = {whole: "e2e ms" if whole == "e2e_ms" else "e2e ms from the due time"} | STREAMED
    latencies = [
        {"measure": name, **{key: plain(row[key], infinite="never") for key in _SHOWN}}
        for column, name in names.items()
        if column == whole or timed[column].notna().any()  # what nobody streamed has no TTFT
        for row in latency_table(timed, ["release"], latency=column, quantiles=QUANTILES).to_dict(
            "records"
        )
    ]
    return {
        "requests": len(requests),
        "ok": int(requests["ok"].sum()),
        "ok_per_s": float(timed["ok"].sum()) / span_s if span_s > 0 else None,
        # A server may put several tokens into one event, so events are what is counted.
        "token_events_per_s": float(timed["tokens"].sum()) / span_s
        if span_s > 0 and timed["tokens"].notna().any()
        else None,
        # A row a way of counting: by the server, a tokenizer and words are different things.
        "tokens": [
            {
                "by": row["tokens_by"],
                "requests": row["requests"],
                "prompts": row["tokens_in"],
                "answers": row["tokens_out"],
                "answers_per_s": row["tokens_out"] / row["seconds"] if row["seconds"] else None,
            }
            for row in token_totals(study).to_dict("records")
        ],
        "end": end,
        "outcomes": [
            {"outcome": outcome, "cause": cause, "requests": count}
            for (outcome, cause), count in causes.most_common()
        ],
        "latencies": latencies,
        "client": f"{client_sentence(client_limits(study))} {load_sentence(study)}".rstrip(),
    }


def _end(study: StudyFolder, requests: pd.DataFrame) -> dict[str, Any] | None:
    """When and how the server died, hung or stopped answering; None: it did none of these.

    `after_s` is None for a server that is there and hangs: its open requests say since when.
    """
    result = next((r for trial in study.trials() if (r := trial.result)), None)
    if result is None or not result.verdict.is_death:
        return None
    after_s = None
    if result.died_ns is not None and result.load_started_ns is not None:
        after_s = (result.died_ns - result.load_started_ns) / 1e9
    later = requests["t_s"] >= (math.inf if after_s is None else after_s)
    return {
        "verdict": result.verdict.value,
        "reason": result.reason,
        "after_s": after_s,
        "sent_until_then": int((~later).sum()),
        "ok_until_then": int((requests["ok"] & ~later).sum()),
        "sent_afterwards": int(later.sum()),
        "ok_afterwards": int((requests["ok"] & later).sum()),
    }


_SHOWN = ("quantile", "n", "failed_fraction", "ms", "low_ms", "high_ms", "lacks")


def _lines(found: dict[str, Any]) -> list[str]:
    rate, events = found["ok_per_s"], found["token_events_per_s"]
    lines = [
        f"{found['ok']:,} of {found['requests']:,} requests answered well"
        + (f", {rate:,.1f} a second" if rate else "")
        + (f", {events:,.0f} token events a second" if events else "")
    ]
    rows = [
        (f"{row['requests']:,}", row["outcome"], row["cause"] or "") for row in found["outcomes"]
    ]
    lines = [*_end_lines(found["end"]), *lines, "", aligned(("requests", "outcome", "cause"), rows)]
    table = [
        (row["measure"], f"p{100 * row['quantile']:g}", _value(row), f"{row['n']:,}", row["lacks"])
        for row in found["latencies"]
    ]
    if table:
        is_split = found["end"] and found["end"]["after_s"] is not None
        lines += ["", "until then:"] if is_split else [""]
        lines += [aligned(("latency", "", "value [95 % interval]", "n", ""), table)]
    return [*lines, *_token_lines(found["tokens"]), "", found["client"]]


def _token_lines(tokens: list[dict[str, Any]]) -> list[str]:
    """Tokens of prompts and answers, a line for each way in which they were counted."""
    rows = [
        (
            f"{row['prompts']:,}",
            f"{row['answers']:,}",
            "-" if row["answers_per_s"] is None else f"{row['answers_per_s']:,.0f}",
            f"{row['requests']:,}",
            TokensBy(row["by"]).phrase,
        )
        for row in tokens
    ]
    heads = ("tokens in", "tokens out", "out a second", "requests", "counted")
    return ["", aligned(heads, rows)] if rows else []


def _end_lines(end: dict[str, Any] | None) -> list[str]:
    """What is to be read first: that the server is gone, since when, and what came afterwards."""
    if end is None:
        return []
    told = end["reason"]
    if end["after_s"] is not None:
        told += (
            f" {end['ok_until_then']:,} of the {end['sent_until_then']:,} requests sent until then "
            f"were answered well, {end['ok_afterwards']:,} of the {end['sent_afterwards']:,} sent "
            "afterwards."
        )
    return [paragraph(told), ""]


def _value(row: dict[str, Any]) -> str:
    if row["lacks"]:
        return "-"
    ms, low, high = (
        edge if isinstance(edge, str) else f"{edge:.3g}"
        for edge in (row["ms"], row["low_ms"], row["high_ms"])
    )
    return f"{ms} [{low} to {high}]"

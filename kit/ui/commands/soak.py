"""`kit soak`: before you deploy a server, its verdict for a pipeline."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from kit.study.soak import SoakClaim
from kit.ui.commands.limit import add_server, one_value_of
from kit.ui.console import CRASHED, DONE, NOTHING_LEARNED, busy, print_json, print_text, remark
from kit.ui.options import (
    Subparsers,
    add_cap,
    add_command,
    add_folder,
    add_json,
    add_on,
    add_reports,
    add_traffic,
)
from kit.ui.server_words import server_of

#: What --on is for.
ON = "run it on a host of this Dask cluster; with --load-hosts N, send from so many of them"


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "soak",
        soak,
        "before you deploy: how seldom a server crashes, and whether it leaks",
        about="Send one server as many requests as it takes to claim less than one crash in N, "
        "and look whether latency, KV usage, memory, shared memory or open files grow. Exit code "
        "0: passed, 3: failed, 4: not decided.",
        examples="24.05 --scenario control --one-in 1000 --junit soak.xml\n"
        "24.05 --trace conv.csv --concurrency 16 --disconnect 0.05 --one-in 500\n"
        "https://llm.example --model llama --protocol openai-chat-stream --one-in 10000",
    )
    add_server(parser)
    add_on(parser, ON)
    parser.add_argument(
        "--one-in", type=int, default=1000, metavar="N", help="less than one crash in N (1000)"
    )
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P", help="(0.95)")
    parser.add_argument(
        "--failed", type=float, default=0.01, metavar="P", help="share that may fail (0.01)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML there")
    add_folder(parser, "soak")
    add_reports(parser)
    add_json(parser)
    add_cap(parser)
    add_traffic(
        parser,
        "One value each; --requests and --duration-s follow from --one-in. Else as the scenario "
        "says; without one 32 + 32 tokens from 16 clients.",
    )


def soak(args: Namespace) -> int:
    from kit.ui.choices import study_folder
    from kit.ui.commands.study import run_shown
    from kit.ui.consent import Cap
    from kit.ui.soaking import soak_spec

    claim = SoakClaim(one_in=args.one_in, confidence=args.confidence, failed=args.failed)
    spec = soak_spec(
        server_of(args.server, args),
        args.scenario,
        claim=claim,
        workload=None,
        engine=args.engine,
        name=args.name,
        seed=args.seed,
        traffic=one_value_of(args),
    )
    remark(f"{claim.words}: {claim.requests:,} requests without a crash")
    study = run_shown(
        spec,
        args.out or study_folder(spec),
        1,
        Cap(requests=args.most_requests, minutes=args.most_minutes, yes=args.yes),
        on=args.on,
    )

    from kit.report.page import write_report
    from kit.report.soak import checks_table, junit, soak_sentence
    from kit.stats.frames import trials_frame
    from kit.stats.soak_study import SoakStatus, soak_of
    from kit.study.files import write_whole

    with busy("writing the report"):
        found = soak_of(study)
        report = write_report(study, args.reports)
    if args.junit:
        took_s = float(trials_frame(study)["duration_s"].sum())
        write_whole(args.junit, junit(found, seconds=took_s))
    if args.json:
        print_json(
            {
                "folder": str(study.path),
                "report": str(report),
                "status": found.status.value,
                "says": soak_sentence(found),
                "requests": found.requests,
                "checks": [
                    {"name": one.name, "status": one.status.value, "says": one.says}
                    for one in found.checks
                ],
            }
        )
    else:
        print_text(f"{soak_sentence(found)}\n\n{checks_table(found)}\n\nreport: {report}")
    codes = {SoakStatus.PASSED: DONE, SoakStatus.FAILED: CRASHED}
    return codes.get(found.status, NOTHING_LEARNED)

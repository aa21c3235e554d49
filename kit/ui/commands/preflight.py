"""`kit preflight`: check servers, this machine and the traffic before anything is sent."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from kit.study.releases import get_release
from kit.study.spec import ServerKind, ServerSpec
from kit.ui.console import DONE, FAILED, busy, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json, add_list, add_traffic, traffic_of
from kit.ui.server_words import add_server_options, server_of


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "preflight",
        preflight,
        "check a server, this machine and the traffic before anything is sent",
        about="Check servers under a traffic before anything is sent: known crashes of the "
        "release and where to move, vLLM version, KV cache, metrics, GPU, this machine. Nothing "
        "is started or fetched. Ends with 1 if something blocks the study.",
        examples="24.10 --scenario cancel-race\n"
        "http://127.0.0.1:8000 --model llama --concurrency 1,64\n"
        "25.10 --container --model Qwen/Qwen2.5-0.5B --gpus all --protocol grpc-stream",
    )
    parser.add_argument(
        "server",
        nargs="+",
        help="releases (24.05), URLs (http://, grpc://HOST:PORT), or names of images",
    )
    add_list(parser, "--scenario", "scenarios; all", metavar="NAME,NAME")
    parser.add_argument("--parallel", type=int, metavar="N", help="trials at a time (one a core)")
    add_json(parser)
    add_server_options(parser)
    add_traffic(
        parser,
        "What is not given is as each scenario says; without a scenario, 200 requests of 32 + 32 "
        "tokens from 16 clients. Several values are a sweep.",
    )


def preflight(args: Namespace) -> int:
    from kit.ui.preflighting import preflight as check

    servers = [_server_of(text, args) for text in args.server]
    with busy("checking"):
        found = check(servers, args.scenario, parallel=args.parallel, **traffic_of(args))
    if args.json:
        print_json(found.to_json())
    else:
        print_text(repr(found))
    return FAILED if found.blocking else DONE


def _server_of(text: str, args: Namespace) -> ServerSpec:
    """As server_of; a release that no wheel carries is checked as its image."""
    server = server_of(text, args)
    if server.kind is not ServerKind.EMBEDDED or get_release(text).wheel:
        return server
    return replace(server, kind=ServerKind.CONTAINER)

"""`kit vllm`: install real vLLM for the CPU beside the kit, and measure it against the simulated
engine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from kit.ui.console import DONE, print_text, remark
from kit.ui.options import Subparsers, add_command, add_list


def add(commands: Subparsers) -> None:
    family: ArgumentParser = commands.add_parser(
        "vllm", help="install real vLLM for the CPU, and measure it", description=__doc__
    )
    actions = family.add_subparsers(dest="action", required=True, metavar="ACTION")
    into = add_command(
        actions,
        "install",
        install,
        "install it into the cache (2 GB)",
        examples="\n--version 0.32.0,0.27.1\n--all",
    )
    _add_versions(into)
    into.add_argument("--index-url", metavar="URL", help="as for pip")
    into.add_argument("--extra-index-url", action="append", default=[], metavar="URL")
    into.add_argument("--find-links", action="append", default=[], metavar="PLACE")
    _add_versions(add_command(actions, "list", show, "which versions are installed"))
    experiment = add_command(
        actions,
        "experiment",
        run_experiment,
        "KV usage of real vLLM and of the simulated engine under the same traffic",
        about="First real vLLM serves with a cache that never fills, and the simulated engine's "
        "pace is fitted to that. Then both serve with a small cache, through the same Triton "
        "release. The same command goes on where it was stopped.",
        examples="studies/kv",
    )
    experiment.add_argument("folder", type=Path, help="where the studies go, new or to be resumed")


def _add_versions(parser: ArgumentParser) -> None:
    add_list(parser, "--version", "of vLLM (the newest tested)", metavar="0.32.0,0.27.1")
    parser.add_argument("--all", action="store_true", help="every tested version")


def _versions(args: Namespace) -> tuple[str, ...]:
    from kit.servers.vllm_env import VERSIONS

    if args.all:
        return VERSIONS
    return tuple(dict.fromkeys(args.version)) if args.version else VERSIONS[:1]


def install(args: Namespace) -> int:
    from kit.servers import vllm_env

    options = [part for url in args.extra_index_url for part in ("--extra-index-url", url)]
    options += [part for place in args.find_links for part in ("--find-links", place)]
    options += ["--index-url", args.index_url] if args.index_url else []
    for version in _versions(args):
        remark(f"installing vLLM {version} for the CPU: 2 GB, one to ten minutes")
        vllm_env.install(version, pip_options=options)
    return show(args)


def show(args: Namespace) -> int:
    from kit.servers.cache import cache_root
    from kit.servers.vllm_env import installed

    for version in _versions(args):
        state = "installed" if installed(version) else "not installed"
        print_text(f"vLLM {version} for the CPU: {state} in {cache_root() / 'vllm'}")
    return DONE


def run_experiment(args: Namespace) -> int:
    from kit.kv.experiment import run

    run(args.folder, remark)
    return DONE

"""`kit vllm`: install real vLLM beside the kit, for the CPU or for this machine's GPUs, and measure
it against the simulated engine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from kit.ui.console import DONE, FAILED, busy, print_text, remark
from kit.ui.options import Subparsers, add_command, add_list


def add(commands: Subparsers) -> None:
    family: ArgumentParser = commands.add_parser(
        "vllm", help="install real vLLM for the CPU or GPUs, and measure it", description=__doc__
    )
    actions = family.add_subparsers(dest="action", required=True, metavar="ACTION")
    into = add_command(
        actions,
        "install",
        install,
        "install it into the cache (2 GB; for CUDA 8 to 12 GB)",
        examples="\n--version 0.32.0,0.27.1\n--all\n--device cuda --version 0.3.2\n"
        "--device cuda --plan",
    )
    _add_versions(into)
    into.add_argument(
        "--plan", action="store_true", help="for CUDA: say what it would need, and fetch nothing"
    )
    into.add_argument(
        "--anyway", action="store_true", help="for CUDA: also where no GPU here could run it"
    )
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
    parser.add_argument("--all", action="store_true", help="for the CPU: every tested version")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")


def _versions(args: Namespace) -> tuple[str, ...]:
    from kit.servers.vllm_cuda import VERSION
    from kit.servers.vllm_env import VERSIONS

    if args.device == "cuda":
        return tuple(dict.fromkeys(args.version)) if args.version else (VERSION,)
    if args.all:
        return VERSIONS
    return tuple(dict.fromkeys(args.version)) if args.version else VERSIONS[:1]


def install(args: Namespace) -> int:
    from kit.servers import vllm_env

    if args.device == "cuda":
        return _install_cuda(args)
    options = [part for url in args.extra_index_url for part in ("--extra-index-url", url)]
    options += [part for place in args.find_links for part in ("--find-links", place)]
    options += ["--index-url", args.index_url] if args.index_url else []
    for version in _versions(args):
        remark(f"installing vLLM {version} for the CPU: 2 GB, one to ten minutes")
        vllm_env.install(version, pip_options=options)
    return show(args)


def show(args: Namespace) -> int:
    from kit.servers.cache import cache_root
    from kit.servers.vllm_cuda import installed_cuda
    from kit.servers.vllm_env import installed

    for version in _versions(args):
        if args.device == "cuda":
            is_there, what = installed_cuda(version), "CUDA"
        else:
            is_there, what = installed(version) is not None, "the CPU"
        state = "installed" if is_there else "not installed"
        print_text(f"vLLM {version} for {what}: {state} in {cache_root() / 'vllm'}")
    return DONE


def _install_cuda(args: Namespace) -> int:
    """Say what each version needs and what this machine lacks, then install it."""
    from kit.checks.finding import Severity
    from kit.checks.vllm_cuda import cuda_findings
    from kit.servers.vllm_cuda import install_cuda, plan_cuda
    from kit.ui.preflight_card import finding_lines

    for version in _versions(args):
        with busy(f"looking which packages vLLM {version} needs"):
            plan = plan_cuda(version)
        findings = list(cuda_findings(plan))
        print_text(
            f"vLLM {version} for CUDA {plan.cuda or '(not told)'}, Python {plan.python}: "
            f"{len(plan.pins)} packages"
        )
        for finding in findings:
            print_text("\n".join(finding_lines(finding)))
        if args.plan:
            continue
        blocking = [one for one in findings if one.severity is Severity.BLOCKS]
        if blocking and not args.anyway:
            remark("nothing was fetched; --anyway installs it all the same")
            return FAILED
        with busy(f"installing vLLM {version} for CUDA: 3 to 6 GB to fetch"):
            install_cuda(plan, say=remark)
    return DONE if args.plan else show(args)


def run_experiment(args: Namespace) -> int:
    from kit.kv.experiment import run

    run(args.folder, remark)
    return DONE

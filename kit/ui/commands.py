"""Parsed arguments in, an exit code out: the commands of `python -m kit` that read and list."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from kit.study.words import aligned
from kit.ui.console import print_json, read_text, unreadable

if TYPE_CHECKING:
    from kit.crash.diagnose import Diagnosis
    from kit.study.releases import Release
    from kit.study.scenarios import Scenario


def report(args: Namespace) -> int:
    from kit.report.page import write_report

    written = write_report(args.study, args.out)
    print((args.out / "latest.json").read_text(encoding="utf-8") if args.json else written)
    return 0


def compare(args: Namespace) -> int:
    import pandas as pd

    from kit.stats import compare as room
    from kit.stats.frames import requests_frame, trials_frame

    paths = [args.study, args.other] if args.other else [args.study]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    trials, requests = (
        pd.concat(
            [frame(path).assign(study=name) for path, name in zip(paths, names, strict=True)],
            ignore_index=True,
        )
        for frame in (trials_frame, requests_frame)
    )
    by = args.by or ("study" if args.other else "release")
    if args.scenario:
        trials = trials[trials["scenario"].isin(args.scenario)]
    found = room.compare(trials, requests, by=by, levels=args.level)
    if args.json:
        print_json(found)
        return 0
    print("\n".join(room.sentence(one) for one in found))
    if len(found) > 1:
        print(room.overall(trials, by=by, levels=args.level))
    return 0


def releases(args: Namespace) -> int:
    from kit.study.releases import load_releases

    known = load_releases().values()
    if args.json:
        print_json([{**_fields(r), "embedded": r.wheel is not None} for r in known])
        return 0
    header = ("release", "Triton", "vLLM", "tagged", "runs here", "has")
    print(aligned(header, map(_release_row, known)))
    return 0


def _release_row(release: Release) -> tuple[str, ...]:
    abilities = {"generate": release.has_generate, "cancellation": release.has_cancellation}
    return (
        release.release,
        release.triton,
        release.vllm or "-",
        release.date or "-",
        "embedded" if release.wheel else "needs a container",
        " ".join(name for name, there in abilities.items() if there) or "-",
    )


def scenarios(args: Namespace) -> int:
    from kit.study.scenarios import load_scenarios

    known = load_scenarios()
    if args.json:
        print_json(list(known.values()))
        return 0
    header = ("scenario", "kind", "protocol", "needs", "what")
    print(aligned(header, map(_scenario_row, known.values())))
    return 0


def _scenario_row(scenario: Scenario) -> tuple[str, ...]:
    needs = " ".join(scenario.needs) or "-"
    protocol = scenario.workload.protocol.value
    return scenario.name, scenario.kind, protocol, needs, scenario.title


def diagnose(args: Namespace) -> int:
    from kit.crash import diagnose as room
    from kit.crash.stack.maps import MemoryMap

    saved = Path(args.file).with_name("server.maps")  # as in a trial folder
    maps = args.maps or (saved if args.file != "-" and saved.exists() else None)
    known = {
        "believed_release": args.release,
        "maps": MemoryMap.parse(read_text(maps)) if maps else None,
        "modules_of": _modules_of if args.symbols else None,
    }
    try:
        if args.file == "-":
            found = room.diagnose_stream(sys.stdin.buffer, **known)
        else:
            found = room.diagnose_file(Path(args.file), **known)
    except OSError as error:
        raise unreadable(Path(args.file), error) from error
    if args.json:
        print_json(found.to_json())
    else:
        print("\n".join(_diagnosis_lines(found)))
    return 0


def _modules_of(release: str) -> Path:
    from kit.servers.wheels import server_files
    from kit.study.releases import get_release

    return server_files(get_release(release)).root


def _diagnosis_lines(found: Diagnosis) -> list[str]:
    """A diagnosis for people: what died, the stack, what is known of it, what to do."""
    lines = [found.summary]
    if found.stack:
        lines += ["", "Stack, from the fault outward:", *(f"  {frame}" for frame in found.stack)]
    if found.matches:
        fit = any(match.precise for match in found.matches)
        head = "that fit, best first" if fit else "in that component, of which none is recognised"
        lines += ["", f"Known crashes {head}:"]
        for match in found.matches:
            lines += [f"  {match.score:.2f}  {match.id}: {match.title}", f"        {match.why}"]
            lines += [f"        {link}" for link in match.links]
    return [*lines, "", found.advice]


def clean(args: Namespace) -> int:
    from kit.servers.traces import sweep

    removed = sweep()
    if args.json:
        print_json(removed)
        return 0
    for trace in removed:
        print(
            f"run {trace.run}: {len(trace.processes)} processes, "
            f"{len(trace.shared_memory)} shared-memory regions, {len(trace.folders)} folders"
        )
    print("nothing was left behind" if not removed else "removed")
    return 0


def _fields(noun: object) -> dict[str, object]:
    """A frozen dataclass as a dict, one level deep."""
    return {f.name: getattr(noun, f.name) for f in dataclasses.fields(noun)}  # type: ignore[arg-type]

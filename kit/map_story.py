"""A release map's study in, its sentences as Markdown out; computed, so never stale."""

from __future__ import annotations

from collections.abc import Mapping

from kit.agenda import decided, decisions_of
from kit.crash.groups import group_crashes
from kit.frames import trials_frame
from kit.plots.style import in_order
from kit.plots.titles import listing, ranges
from kit.scenarios import load_scenarios
from kit.sequential.wald import Decision, saving
from kit.store import StudyFolder

Cells = Mapping[tuple[str, str], str]

#: Of the faults, those that the kit's own model commits: they tell how a server bears its
#: model's death, not whether traffic can kill the server.
SELF_INFLICTED = frozenset({"stub-dies"})


def map_answer(study: StudyFolder) -> str:
    """Whether any release stands all traffic, and which crashes came back: two sentences."""
    cells = _traffic(decided(study))
    line = in_order(release for release, _ in cells)
    found = {r: {said for (release, _), said in cells.items() if release == r} for r in line}
    standing = [release for release in line if found[release] == {Decision.SURVIVES.value}]
    first = (
        f"Of {len(line)} releases {ranges(standing, line)} stood all the traffic that was tried"
        if standing
        else f"None of {len(line)} releases stands all the traffic that was tried"
    )
    back = came_back(cells)
    second = (
        "; ".join(
            f"{scenario} kills {ranges(dying, line)}, and spares what lies between"
            for scenario, dying in back.items()
        )
        or "no crash that had gone came back"
    )
    return f"{first}. And crashes return: {second}." if back else f"{first}; {second}."


def came_back(cells: Cells) -> dict[str, list[str]]:
    """Scenarios that kill releases before and after one that survives: scenario -> those killed."""
    found = {}
    for scenario in dict.fromkeys(scenario for _, scenario in cells):
        line = in_order(release for release, s in cells if s == scenario)
        said = [cells[release, scenario] for release in line]
        dying = [i for i, word in enumerate(said) if word == Decision.CRASHES]
        if dying and Decision.SURVIVES in said[dying[0] : dying[-1]]:
            found[scenario] = [line[i] for i in dying]
    return found


def what_it_cost(study: StudyFolder) -> str:
    """Trials and time that the map took, against a fixed design and against one at a time."""
    test, cells = study.spec.sequential, decisions_of(study)
    trials = trials_frame(study)
    lived_s = float(trials["duration_s"].sum())
    begun, ended = _span(study)
    wall_s = (ended - begun) / 1e9
    said = (
        f"{len(trials)} trials in {len(cells) or 'fixed'} cells took {wall_s / 60:.0f} minutes of "
        f"wall time for {lived_s / 60:.0f} minutes of trials: running several at a time made it "
        f"{lived_s / wall_s:.1f} times as fast."
    )
    if test is None:
        return said
    spared = saving(test, list(cells.values()))
    open_cells = sum(p.decision in (Decision.UNDECIDED, Decision.OPEN) for p in cells.values())
    more = len(trials) - spared.trials
    rest = f" The other {more} trials tell how soon a release dies, not whether." if more else ""
    return (
        f"{said} The decisions rest on {spared.trials} trials, where a fixed design with the same "
        f"error rates would have needed {spared.fixed}: deciding as it goes saved "
        f"{spared.fraction:.0%}.{rest} {str(open_cells or 'No').capitalize()} "
        f"{'cell is' if open_cells == 1 else 'cells are'} undecided."
    )


def causes(study: StudyFolder) -> str:
    """The deaths grouped by where they happened, largest group first, as a list."""
    crashes = [
        (trial.spec.trial_id, trial.spec.release, result.signature)
        for trial in study.trials()
        if (result := trial.result) and result.signature
    ]
    line = list(study.spec.releases)
    rows = [
        f"- {group.text}: {group.count} deaths, in {ranges(group.releases, line)}"
        + (" (one place, at other offsets in each build)" if group.across_builds else "")
        for group in group_crashes(crashes)
    ]
    trials = trials_frame(study)
    silent = trials[trials["crashed"] & trials["signature"].isna()]
    for verdict, group in silent.groupby("verdict"):
        scenarios = listing(list(dict.fromkeys(group["scenario"])))
        rows.append(f"- no stack, {str(verdict).replace('_', ' ')}: {len(group)} ({scenarios})")
    return "\n".join(rows) or "No server died."


def _traffic(cells: Cells) -> dict[tuple[str, str], str]:
    """The cells of fault scenarios in which the server was not killed by the kit's own model."""
    known = load_scenarios()
    return {
        (release, scenario): said
        for (release, scenario), said in cells.items()
        if scenario not in SELF_INFLICTED and scenario in known and known[scenario].kind == "fault"
    }


def _span(study: StudyFolder) -> tuple[int, int]:
    """When the first trial began and the last one ended, nanoseconds since the epoch."""
    results = [r for trial in study.trials() if (r := trial.result)]
    begun = min(r.started_ns + r.wall_offset_ns for r in results if r.started_ns)
    return begun, max(r.ended_ns + r.wall_offset_ns for r in results if r.ended_ns)

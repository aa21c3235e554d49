"""Writes the sentences of a report; every number in them is computed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict

import pandas as pd

from kit import __version__
from kit.errors import UnknownScenarioError
from kit.plots.titles import crash_title
from kit.servers.watch.names import KV_USAGE
from kit.stats.frames import trials_frame
from kit.stats.intervals import evidence_of_each
from kit.stats.summary import cell_columns, crash_table
from kit.study.folder import StudyFolder
from kit.study.hosts import differences, hosts_words, read_hosts
from kit.study.hybrids import NO_RELEASE, beside_the_line, together
from kit.study.load_hosts import load_hosts_sentence
from kit.study.recorded import is_recorded
from kit.study.releases import in_order
from kit.study.result import Frame
from kit.study.scenarios import get_scenario
from kit.study.sequential import TrialTest
from kit.study.spec import OWN_WORKLOAD, Engine, StudySpec, embedded
from kit.study.words import listing, provenance, ranges


def scenario_title(name: str) -> str:
    try:
        return get_scenario(name).title
    except UnknownScenarioError:
        return name


def scenarios_in_order(trials: pd.DataFrame) -> list[str]:
    """Those in which servers died first, then faults before controls, else as run."""
    order = list(dict.fromkeys(trials["scenario"]))
    died = trials.groupby("scenario")["crashed"].any()
    fault = trials.groupby("scenario")["kind"].first().eq("fault")
    return sorted(order, key=lambda s: (not died[s], not bool(fault.fillna(value=False)[s])))


def headline(trials: pd.DataFrame) -> str:
    """The report's first line: what the deadliest scenario did to the releases."""
    if trials.empty:
        return "No trial has been run yet"
    return crash_title(trials[trials["scenario"] == scenarios_in_order(trials)[0]])


def answer(trials: pd.DataFrame) -> list[str]:
    """Two sentences: what died of what and how soon, what survived and what that is worth. A third
    one where hybrids were among them."""
    counted = trials[trials["counted"]]
    if counted.empty:
        return ["No trial has ended with a verdict on a server.", "Run the study to its end."]
    died, line = counted[counted["crashed"]], in_order(counted["release"])
    if died.empty:
        tried = [int(n) for n in crash_table(counted, cell_columns(counted))["requests"]]
        return [
            f"None of {len(counted)} servers ({ranges(line, line)}) died."
            if len(counted) > 1
            else f"The server ({line[0]}) did not die.",
            f"That is {evidence_of_each(tried)}.",
            *about_hybrids(line),
        ]
    return [_deaths(counted, line), _survivals(counted, line), *about_hybrids(line)]


def about_hybrids(labels: list[str]) -> list[str]:
    """A sentence that hybrids are no releases, where there are some."""
    found = beside_the_line(labels)
    return [f"{together(found)}: {NO_RELEASE}."] if found else []


def _deaths(counted: pd.DataFrame, line: list[str]) -> str:
    parts = []
    cells = crash_table(counted, ("scenario", "release"))
    cells = cells[cells["crashed"] > 0]
    for scenario in scenarios_in_order(counted):
        rows = cells[cells["scenario"] == scenario]
        dead = [release for release in line if release in set(rows["release"])]
        if not dead:
            continue
        iterations = sorted(i for row in rows["iterations"] for i in row)
        span = (
            f"after {iterations[0]:,} to {iterations[-1]:,} requests"
            if iterations[0] != iterations[-1]
            else f"after {iterations[0]:,} requests"
        )
        tally = f"{int(rows['crashed'].sum())} of {int(rows['trials'].sum())} servers"
        parts.append(f"under {scenario}, {ranges(dead, line)} died ({tally}, {span})")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _survivals(counted: pd.DataFrame, line: list[str]) -> str:
    text = "; ".join(evidence_by_scenario(counted, line))
    return text[0].upper() + text[1:] + "." if text else "No release survived any of the traffic."


def evidence_by_scenario(counted: pd.DataFrame, line: list[str] | None = None) -> list[str]:
    """What survived, and what that is worth: "under control, 23.10 survived (0 crashes in …)".

    counted, line: as for survivors_by_scenario.
    """
    found = survivors_by_scenario(counted, line)
    return [f"under {scenario}, {said}" for scenario, said in found.items()]


def survivors_by_scenario(counted: pd.DataFrame, line: list[str] | None = None) -> dict[str, str]:
    """Of each scenario that a release survived: "23.10 survived (0 crashes in …)".

    counted: trials that count. line: all releases in order. Releases, engines and concurrencies
    are not pooled: of several the weakest bound is stated, which each of them keeps.
    """
    line = in_order(counted["release"]) if line is None else line
    cells = crash_table(counted, cell_columns(counted))
    found = {}
    for scenario in scenarios_in_order(counted):
        own = cells[cells["scenario"] == scenario]
        dead = set(own.loc[own["crashed"] > 0, "release"])
        rows = own[~own["release"].isin(dead)]
        if rows.empty:
            continue
        evidence = evidence_of_each([int(n) for n in rows["requests"]])
        found[scenario] = f"{ranges(rows['release'], line)} survived ({evidence})"
    return found


def frame_text(frame: Frame) -> str:
    """A frame without its load address: "libtritonserver.so  TRITONBACKEND_…  +0x1a2b"."""
    offset = None if frame.offset is None else f"+{frame.offset:#x}"
    return "  ".join(filter(None, (frame.module or "?", frame.symbol, offset)))


def command(spec: StudySpec) -> str:
    """The command line that runs this study again.

    What options cannot say is read from its study.json, which the report holds.
    """
    if _as_chosen(spec) != spec:
        return "python -m kit run --spec study.json"
    words = ["python", "-m", "kit", "run", "--name", spec.name]
    words += _options("--release", spec.releases) + _options("--scenario", spec.scenarios)
    if "concurrency" in spec.grid:
        words += ["--concurrency", ",".join(map(str, spec.concurrencies))]
    words += _options("--engine", map(_engine_text, spec.engines))
    words += _test_options(spec.sequential)
    words += ["--least-repeats", str(spec.least_repeats)] if spec.least_repeats > 1 else []
    words += ["--requests", str(spec.requests)] if spec.requests else []
    words += ["--repeats", str(spec.repeats), "--seed", str(spec.seed)]
    return shlex.join(words)


def _as_chosen(spec: StudySpec) -> StudySpec:
    """What the options of the command line would make of this study."""
    engine = Engine(kind=spec.engines[0].kind, version=spec.engines[0].version)
    return StudySpec(
        name=spec.name,
        servers=embedded(*spec.releases),
        scenarios=spec.scenarios or (OWN_WORKLOAD,),
        engines=(engine,),
        grid={name: values for name, values in spec.grid.items() if name == "concurrency"},
        requests=spec.requests,
        repeats=spec.repeats,
        sequential=spec.sequential,
        least_repeats=spec.least_repeats,
        seed=spec.seed,
        left_out=spec.left_out,
    )


def _engine_text(engine: Engine) -> str:
    return ":".join(filter(None, (engine.kind.value, engine.version)))


def _test_options(test: TrialTest | None) -> list[str]:
    """Only what differs from the usual test."""
    if test is None:
        return []
    usual = asdict(TrialTest())
    given = {name: value for name, value in asdict(test).items() if value != usual[name]}
    return ["--sequential", *(word for n, v in given.items() for word in (f"--{n}", f"{v:g}"))]


def _options(name: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (name, value)]


def versions(study: StudyFolder) -> list[tuple[str, str]]:
    """Everything the trials named the version of: ("triton", "2.39.0, 2.46.0"), sorted."""
    seen: dict[str, dict[str, None]] = {}
    for trial in study.trials():
        result = trial.result
        for name, version in (result.versions if result else {}).items():
            seen.setdefault(name, {})[version] = None
    return [(name, ", ".join(sorted(values))) for name, values in sorted(seen.items())]


def source_of(study: StudyFolder) -> str:
    """ "recorded" for a recorded study, else "live"."""
    return "recorded" if is_recorded(study) else "live"


def provenance_of(study: StudyFolder, *, kit: str | None = __version__) -> str:
    """Where a study's data come from, in one line, and the kit that reads them (None: unsaid)."""
    trials = trials_frame(study)
    return provenance(
        source=source_of(study),
        run=study.path.resolve().name,
        triton=trials["triton"].dropna(),
        engines=trials["engine"],
        kit=kit,
        hosts=hosts_words(trials.loc[trials["counted"], "host"].fillna("")),
    )


def hosts_sentence(study: StudyFolder) -> str:
    """That trials ran on several hosts of a cluster, and in what these differ; "": they did not."""
    trials = trials_frame(study)
    ran = trials.loc[trials["counted"], "host"]
    if not hosts_words(ran.fillna("")):
        return ""
    per_host = ran.fillna("the study's own machine").value_counts(sort=False)
    shares = listing([f"{count} on {label}" for label, count in per_host.items()])
    text = f"The trials ran on {len(per_host)} hosts ({shares}): latencies differ by the host, too."
    differ = differences([host for host in read_hosts(study.path) if host.label in set(ran)])
    return f"{text} The hosts differ in {'; '.join(differ)}." if differ else text


def early_sentence(study: StudyFolder) -> str:
    """That loads ended by their own rule, before their last request; "": none did."""
    trials = trials_frame(study)
    early = trials[trials["stopped_early"].notna()]
    if early.empty:
        return ""
    whys = listing([f"{row.stopped_early} in {row.trial_id}" for row in early.head(3).itertuples()])
    more = f", and {len(early) - 3} more" if len(early) > 3 else ""
    return (
        f"In {len(early)} of {len(trials)} trials the load stopped early, since too many requests "
        f"failed ({whys}{more}): what came before says less about crashes than a whole trial."
    )


def load_sentence(study: StudyFolder) -> str:
    """That load came from several hosts, by how much their times may be wrong, and how far apart
    they began; "": it came from where the trials ran."""
    results = (trial.result for trial in study.trials())
    return load_hosts_sentence([result.load_hosts for result in results if result is not None])


def cache_verdict(samples: pd.DataFrame, trials: pd.DataFrame) -> str:
    """Whether a full KV cache can be what killed servers: those that died against the others."""
    usage = samples[samples["name"] == KV_USAGE]
    peaks = usage.groupby("trial_id", observed=True)["value"].max()
    died = set(trials.loc[trials["crashed"], "trial_id"])
    lived = set(trials.loc[trials["counted"] & ~trials["crashed"], "trial_id"])
    of_dead, of_living = peaks[peaks.index.isin(died)], peaks[peaks.index.isin(lived)]
    if of_dead.empty:
        return "No server that exported its KV usage died, so nothing here speaks for the cache."
    if of_living.empty:
        return f"Servers died at up to {of_dead.max():.0%}; none survived to compare them with."
    both = (
        f"{of_dead.min():.0%} to {of_dead.max():.0%} in servers that died "
        f"and {of_living.min():.0%} to {of_living.max():.0%} in servers that lived"
    )
    if of_dead.min() < of_living.max():
        return (
            f"Usage peaked at {both}: "
            "servers died with room that others had used, so a full cache is not what it takes."
        )
    return f"Usage peaked at {both}: this traffic cannot tell the cache from other causes."


def compared(trials: pd.DataFrame, recorded: pd.DataFrame) -> str:
    """Whether the releases that both studies ran crashed in both, scenario by scenario."""
    here, there = _crashed(trials), _crashed(recorded)
    both = here.index.intersection(there.index)
    if both.empty:
        return "The recorded study has no cell in common with this one to compare."
    differ = [cell for cell in both if here[cell] != there[cell]]
    if not differ:
        return f"In all {len(both)} cells that the recorded study shares, the outcome is the same."
    cells = listing([f"{release} under {scenario}" for release, scenario in differ])
    return f"It differs from the recorded one in {cells}: more repeats tell chance from change."


def _crashed(trials: pd.DataFrame) -> pd.Series:
    counted = trials[trials["counted"]]
    return counted.groupby(["release", "scenario"], observed=True)["crashed"].any()

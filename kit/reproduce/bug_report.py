"""Writes REPORT.md: the crash, its traffic, and what the script's runs gave.

Every figure in it was measured; what was not tried is said not to have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kit.crash.stack.site import exact_symbol, short_name
from kit.reproduce.check import ScriptRun, tally
from kit.reproduce.finding import FoundCrash, title_of
from kit.reproduce.script import (
    model_about,
    needs,
    say_traffic,
    serve_commands,
    server_url,
    templates,
)
from kit.reproduce.shrink import ShrinkStep
from kit.stats.intervals import Interval, share
from kit.study.releases import get_release
from kit.study.result import Frame
from kit.study.scenarios import get_scenario
from kit.study.sequential import Decision
from kit.study.spec import Engine, EngineKind, ServerKind, TrialSpec
from kit.study.words import percent

PACKAGE = "nvidia-pytriton"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    what: str
    release: str
    trials: int
    deaths: int
    otherwise: str
    share: str


def render_report(
    found: FoundCrash, trial: TrialSpec, runs: Sequence[ScriptRun], beside: Sequence[ScriptRun]
) -> str:
    """The report. trial: the script's traffic; runs: on its release; beside: on another one."""
    known, shrunk = found.diagnosis, found.shrunk
    return (
        templates()
        .get_template("REPORT.md.j2")
        .render(
            title=title_of(found),
            description=f"{get_scenario(trial.scenario).title}. {say_traffic(trial)}",
            summary=[found.crash.reason, *([known.summary] if known else [])],
            information=list(_information(found)),
            needs=needs(trial),
            traffic=say_traffic(trial),
            serve=serve_commands(trial),
            url=server_url(trial),
            model=model_about(trial),
            rows=list(_rows(found, runs, beside)),
            remarks=list(_remarks(found, trial, runs)),
            said=list(_said([*runs, *beside])),
            stack=[_frame(frame) for frame in found.crash.signature.frames]
            if found.crash.signature
            else [],
            matches=[match for match in known.matches if match.precise] if known else (),
            advice=known.advice if known else None,
            steps=[_step(step) for step in shrunk.steps] if shrunk else [],
            original=say_traffic(shrunk.original) if shrunk else "",
            spent=_spent(found),
            wanted=percent(shrunk.wanted) if shrunk else "",
        )
    )


def _information(found: FoundCrash) -> Iterator[tuple[str, str]]:
    trial, versions = found.trial, found.crash.versions
    release = get_release(trial.release)
    yield "Release", f"{release.release} (Triton {release.triton})"
    if trial.server.kind is ServerKind.EMBEDDED:
        package = f"{PACKAGE} {versions[PACKAGE]}" if PACKAGE in versions else PACKAGE
        yield (
            "Server",
            f"the `tritonserver` binary that the wheel of {package} carries, on a CPU; "
            f"not tried in the container {release.image}",
        )
    yield "Engine in the trials of the kit", engine_of(trial.engine)
    if "server-python" in versions:
        yield "Python of the models", versions["server-python"]
    if "kit" in versions:
        yield "Crash kit", versions["kit"]


def engine_of(engine: Engine) -> str:
    """The engine for people; a simulated one is called so."""
    if engine.kind is EngineKind.SIMULATED:
        return "simulated (a scheduler with a paged KV cache; no model, no vLLM)"
    return f"vLLM {engine.version or ''} on the {'CPU' if 'cpu' in engine.kind else 'GPU'}"


def _rows(
    found: FoundCrash, runs: Sequence[ScriptRun], beside: Sequence[ScriptRun]
) -> Iterator[_Row]:
    for tried in (runs, beside):
        if tried:
            counts = tally(tried, found.crash)
            others = [f"{counts.other} of another crash"] if counts.other else []
            others += [f"{counts.refused} only refused requests"] if counts.refused else []
            yield _Row(
                what="reproduce.py, as it is",
                release=tried[0].release,
                trials=counts.runs,
                deaths=counts.same,
                otherwise=", ".join(others) or "–",
                share=_share(share(counts.same, counts.runs)),
            )
    yield _Row(
        what=f"{say_traffic(found.trial)[:-1]}, sent by the kit to its own model",
        release=found.trial.release,
        trials=found.trials,
        deaths=found.deaths,
        otherwise="–",
        share=_share(found.share),
    )


def _share(interval: Interval) -> str:
    return f"{percent(interval.value)} ({percent(interval.low)} to {percent(interval.high)})"


def _remarks(found: FoundCrash, trial: TrialSpec, runs: Sequence[ScriptRun]) -> Iterator[str]:
    if not runs:
        yield "reproduce.py itself has not been run against a server."
    elif trial.workload != found.trial.workload:
        yield (
            "The script's own small model dies of less only now and then, so it sends more than "
            "the kit needed."
        )
    wanted = found.crash.signature
    if runs and wanted is not None:
        dead = [run for run in runs if run.is_crash(found.crash)]
        same = sum(run.signature is not None and run.signature.text == wanted.text for run in dead)
        yield f'Of the {len(dead)} deaths by reproduce.py, {same} were "{wanted.text}".'
    first, last = found.iterations[0], found.iterations[-1]
    middle = found.iterations[len(found.iterations) // 2]
    span = f"{first}" if first == last else f"{first} to {last} (median {middle})"
    yield f"In the kit's trials the servers had completed {span} requests when they died."


def _said(runs: Sequence[ScriptRun]) -> Iterator[str]:
    for run in runs:
        ended = "" if run.exit_code is None else f" [exit status of the server: {run.exit_code}]"
        yield f"{run.release}: {run.said}{ended}"


def _frame(frame: Frame) -> str:
    symbol = exact_symbol(frame)
    place = frame.module or "?"
    if frame.offset is not None:
        place += f"+{frame.offset:#x}"
    name = short_name(symbol) if symbol else ""
    return f"{frame.index:2d}# {f'{name} in {place}' if name else place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepRow:
    what: str
    trials: int
    deaths: int
    others: str
    kept: str


def _step(step: ShrinkStep) -> _StepRow:
    others = f" (and {step.other_deaths} of another crash)" if step.other_deaths else ""
    kept = "yes" if step.decision is Decision.CRASHES else "no"
    return _StepRow(
        what=f"{'the result, ' if step.final else ''}{step.what}",
        trials=step.trials,
        deaths=step.deaths,
        others=others,
        kept=kept,
    )


def _spent(found: FoundCrash) -> str:
    shrunk = found.shrunk
    if shrunk is None:
        return ""
    return (
        f"{shrunk.spent_trials} server lives, {shrunk.spent_requests:,} requests "
        f"and {shrunk.spent_s:.0f} s of servers' time"
    )

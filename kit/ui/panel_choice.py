"""What is typed into the panel, as plain data: checked field by field, planned, as code.

Nothing here plans trials or imports pandas: whatever the number of trials, a change of a field
is answered at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

import msgspec

from kit.errors import KitError, SpecError
from kit.study.engines import ENGINES
from kit.study.grid import FIELDS, as_grid, several
from kit.study.hybrids import load_hybrids
from kit.study.plan import most_trials, trials_of
from kit.study.releases import embedded_releases
from kit.study.scenarios import load_scenarios
from kit.study.soak import SoakClaim
from kit.study.spec import EngineKind, ServerSpec, StudySpec, Workload
from kit.ui.arguments import MOST_MINUTES
from kit.ui.choices import choose
from kit.ui.limits import limit_spec
from kit.ui.panel_code import command_line, python_call
from kit.ui.panel_plan import expected_minutes, known_before, plan_sentences
from kit.ui.server_words import SCHEMES, server_named
from kit.ui.soaking import soak_spec

#: More than these is a slip of the finger, or needs more machines than one.
LIMITS = {
    "concurrency": 4_096,
    "rate": 100_000,
    "requests": 1_000_000,
    "duration_s": 86_400,
    "prompt_tokens": 1_000_000,
    "output_tokens": 1_000_000,
    "processes": 64,
    "load_hosts": 64,
}
MOST_REPEATS, MOST_TRIALS = 1_000, 20_000
#: Traffic that stands beside the cluster's address, without which it means nothing.
NEEDS_CLUSTER = "load_hosts"
#: Of a Dask scheduler, as kit.run takes it; "local" is Dask within this process.
_CLUSTER = re.compile(r"local|(tcp|tls)://[^\s/]+:\d{1,5}")


class Question(StrEnum):
    """What a study of the panel asks."""

    CRASH = "crash"
    LIMIT = "limit"
    SOAK = "soak"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The panel's fields as they stand; texts as typed, so that what is wrong can be shown."""

    question: str = Question.CRASH.value
    releases: tuple[str, ...] = ()
    images: str = ""  # of containers: releases or names of images, with commas between
    url: str = ""  # of a server that runs already
    model: str = ""  # what the containers or the URL serve
    gpus: str = ""  # of the containers
    agreed: bool = False  # the traffic may go to that URL
    on: str = ""  # a Dask cluster that runs the trials, or sends their load
    engine: str = EngineKind.SIMULATED.value
    scenarios: tuple[str, ...] = ()
    own: bool = False  # traffic of one's own in place of scenarios
    traffic: dict[str, str] = field(default_factory=dict)  # of kit.study.grid.FIELDS
    repeats: str = "3"
    sequential: bool = False
    minutes: str = ""  # budget; "" = none
    goals: dict[str, str] = field(default_factory=dict)  # of a limit: kit.study.limit.Goals
    one_in: str = "1000"  # of a soak: less than one crash in so many requests

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Choice:
        """From plain data, of a browser or a file.

        Raises:
            SpecError: a field that does not exist, or one of the wrong kind.
        """
        try:
            known = {one.name for one in fields(cls)}
            if unknown := sorted(set(given) - known):
                raise SpecError(
                    f"a configuration with {', '.join(unknown)}",
                    f"some of {', '.join(sorted(known))}",
                    "remove what is not known",
                )
            return msgspec.convert(dict(given), cls, strict=False)
        except (msgspec.ValidationError, TypeError) as error:
            raise SpecError(
                f"a configuration in which {error}", "lists and texts", "correct it"
            ) from error

    def as_data(self) -> dict[str, Any]:
        """Plain data, without what is not set."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        for texts in ("traffic", "goals"):
            data[texts] = {name: text for name, text in data[texts].items() if text.strip()}
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a choice comes to."""

    problems: dict[str, str]  # by field; "" = of the whole
    spec: StudySpec | None = None
    trials: int = 0
    minutes: float | None = None  # expected
    budget_min: float | None = None
    on: str | None = None  # where kit.runner.study.run_study is to run it
    plan: tuple[str, ...] = ()  # sentences
    known: str = ""  # of these releases under this traffic, in one line
    known_more: tuple[str, ...] = ()  # what that rests on, and what nobody has measured
    python: str = ""
    command: str = ""


def check(choice: Choice) -> Checked:
    """The study that a choice describes and what it will cost, or what is wrong with each field."""
    problems: dict[str, str] = {}
    servers = _servers(choice, problems)
    if not choice.own and not choice.scenarios and not choice.url.strip():
        problems["scenarios"] = "Choose at least one scenario, or your own traffic."
    grid: dict[str, list[object]] = {}
    for name, text in choice.traffic.items():
        if not text.strip():
            continue
        try:
            grid[name] = values_of(name, text)
        except KitError as error:
            problems[f"traffic.{name}"] = _words(error)
    repeats = _number(problems, "repeats", choice.repeats, MOST_REPEATS)
    budget = _number(problems, "minutes", choice.minutes, 7 * 24 * 60) if choice.minutes else None
    goals = {
        name: _number(problems, f"goals.{name}", text, 1e9)
        for name, text in choice.goals.items()
        if text.strip()
    }
    one_in = _number(problems, "one_in", choice.one_in, 1e9)
    on = choice.on.strip() or None
    if on is not None and not _CLUSTER.fullmatch(on):
        problems["on"] = f"{on!r}. Expected: tcp://HOST:PORT or tls://HOST:PORT of a scheduler."
    if problems:
        return Checked(problems=problems)
    assert repeats is not None
    assert one_in is not None
    try:
        match Question(choice.question):
            case Question.CRASH:
                spec = _crash_spec(choice, servers, grid, int(repeats))
            case Question.LIMIT:
                spec = _limit_spec(choice, servers, grid, goals)
            case Question.SOAK:
                spec = _soak_spec(choice, servers, grid, int(one_in))
        trials = most_trials(spec)
        _check_place(spec, on)
    except ValueError:
        return Checked(problems={"question": f"Choose one of {', '.join(Question)}."})
    except KitError as error:
        return Checked(problems={"": _words(error)})
    if trials > MOST_TRIALS:
        return Checked(
            problems={"": f"{trials:,} trials. Expected: {MOST_TRIALS:,} at most; choose fewer."}
        )
    if choice.url.strip():
        budget = min(budget or MOST_MINUTES, MOST_MINUTES)
    minutes = expected_minutes(spec, trials)
    known, more = known_before(spec)
    return Checked(
        problems={},
        spec=spec,
        trials=trials,
        minutes=minutes,
        budget_min=budget,
        on=on,
        plan=tuple(plan_sentences(spec, trials, minutes, budget, on=on)),
        known=known,
        known_more=more,
        python=python_call(choice),
        command=command_line(choice),
    )


def _check_place(spec: StudySpec, on: str | None) -> None:
    """Refuse servers, or a load, that do not go with where it is to run.

    Raises:
        SpecError: as kit.runner.study.check_where.
    """
    from kit.runner.study import check_where

    one = next(trials_of(spec))  # the others differ in nothing that matters here
    check_where(spec, [replace(one, server=server) for server in spec.servers], on)


def _servers(choice: Choice, problems: dict[str, str]) -> list[str | ServerSpec]:
    """Releases, containers and the URL; what is wrong with them goes into `problems`."""
    servers: list[str | ServerSpec] = list(choice.releases)
    given = {"model": choice.model.strip(), "gpus": choice.gpus.strip()}
    try:
        images = filter(None, (part.strip() for part in choice.images.split(",")))
        servers += [server_named(image, given, container=True) for image in images]
    except KitError as error:
        problems["images"] = _words(error)
    if url := choice.url.strip():
        if not url.startswith(SCHEMES):
            problems["url"] = f"{url!r}. Expected: an address with {', '.join(SCHEMES)}."
        elif not given["model"]:
            problems["model"] = "The name of the model on that server is missing."
        else:
            servers.append(server_named(url, given))
        if not choice.agreed:
            problems["agreed"] = (
                "It may slow that server down, hang it or crash it, for everybody who uses it. "
                "Tick the box if the traffic may go there."
            )
    if not servers and not problems.keys() & {"images", "url", "model"}:
        problems["releases"] = "Choose at least one release, or another server."
    return servers


def _traffic(choice: Choice) -> tuple[tuple[str, ...] | None, Workload | None]:
    """Scenarios, or a workload of one's own."""
    if choice.own or not choice.scenarios:
        return None, Workload()
    return choice.scenarios, None


def _crash_spec(
    choice: Choice,
    servers: list[str | ServerSpec],
    grid: dict[str, list[object]],
    repeats: int,
) -> StudySpec:
    scenarios, workload = _traffic(choice)
    has_others = any(isinstance(server, ServerSpec) for server in servers)
    return choose(
        servers,
        scenarios,
        workload,
        name="panel",
        engine=None if has_others and not choice.releases else choice.engine,
        repeats=repeats,
        sequential=choice.sequential,
        **grid,  # type: ignore[arg-type]
    )


def _single(
    choice: Choice, servers: list[str | ServerSpec], grid: Mapping[str, list[object]]
) -> dict[str, Any]:
    """What a search and a soak take: one server, one traffic.

    Raises:
        SpecError: there are several.
    """
    scenarios, workload = _traffic(choice)
    many = [name for name, values in grid.items() if len(values) > 1]
    if len(servers) > 1 or len(scenarios or ()) > 1 or many:
        what = many[0] if many else "server" if len(servers) > 1 else "scenario"
        raise SpecError(
            f"more than one {what}", f"one {what} for this question", "choose one of them"
        )
    return {
        "server": servers[0],
        "scenario": scenarios[0] if scenarios else None,
        "workload": workload,
        "engine": choice.engine if isinstance(servers[0], str) else None,
        "seed": 0,
        "traffic": {name: values[0] for name, values in grid.items()},
    }


def _limit_spec(
    choice: Choice,
    servers: list[str | ServerSpec],
    grid: dict[str, list[object]],
    goals: Mapping[str, float | None],
) -> StudySpec:
    one = _single(choice, servers, grid)
    requests = one["traffic"].pop("requests", None)
    return limit_spec(
        one.pop("server"),
        one.pop("scenario"),
        goals=goals,
        by=None,
        low=None,
        high=None,
        within=0.05,
        most_trials=12,
        requests=400 if requests is None else int(requests),
        name="limit",
        **one,
    )


def _soak_spec(
    choice: Choice, servers: list[str | ServerSpec], grid: dict[str, list[object]], one_in: int
) -> StudySpec:
    one = _single(choice, servers, grid)
    return soak_spec(
        one.pop("server"), one.pop("scenario"), claim=SoakClaim(one_in=one_in), name="soak", **one
    )


def values_of(name: str, text: str) -> list[object]:
    values: list[object] = list(as_grid({name: text}).get(name, ()))
    for given in several(text, FIELDS[name].is_text) if name in LIMITS else ():
        numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", str(given))]
        if any(number > LIMITS[name] for number in numbers):
            raise SpecError(
                f"{name} {given}", f"{LIMITS[name]:,} at most", "give a number one machine can send"
            )
    return values


def _number(problems: dict[str, str], name: str, text: str, most: float) -> float | None:
    if not re.fullmatch(r"\d+(\.\d+)?", text.strip()) or not 0 < float(text) <= most:
        least = "from 1" if name == "repeats" else "above 0, up"
        problems[name] = f"{name} {text!r}. Expected: a number {least} to {most:,.0f}."
        return None
    if name in ("repeats", "one_in") and "." in text:
        problems[name] = f"{name} {text!r}. Expected: a whole number."
        return None
    return float(text)


def _words(error: KitError) -> str:
    return f"{error.given}. Expected: {error.expected}; {error.hint}."


def form_fields() -> dict[str, Any]:
    """What there is to choose from, for the form."""
    return {
        "releases": [
            *([r.release, f"{r.release} (Triton {r.triton})"] for r in embedded_releases()),
            *([name, f"{name} (no release)"] for name in load_hybrids()),
        ],
        "scenarios": [[name, f"{name}: {s.title}"] for name, s in load_scenarios().items()],
        "engines": [[kind.value, kind.value] for kind in ENGINES],
        "questions": [
            [Question.CRASH, "Which servers crash, and how soon?"],
            [Question.LIMIT, "How much can one server take?"],
            [Question.SOAK, "May I deploy it? (soak)"],
        ],
        "goals": [
            ["p95_ttft_ms", "ms to the first token, p95"],
            ["p95_itl_ms", "ms between two tokens, p95"],
            ["p95_e2e_ms", "ms for a whole answer, p95"],
            ["failed", "share that may fail, such as 0.01"],
            ["kv", "share of the KV cache, such as 0.9"],
        ],
        "traffic": [
            [row.name, row.unit, row.help] for row in FIELDS.values() if row.name != NEEDS_CLUSTER
        ],
        "load_hosts": [NEEDS_CLUSTER, "", "hosts that send to the URL"],
    }

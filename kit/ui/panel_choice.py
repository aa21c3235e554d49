"""What is typed into the panel, as plain data: checked field by field, planned, saved, as code.

Nothing here plans trials or imports pandas: whatever the number of trials, a change of a field
is answered at once.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import yaml

from kit.errors import KitError, SpecError
from kit.study.files import write_whole
from kit.study.grid import FIELDS, as_grid, several
from kit.study.paths import RECORDED
from kit.study.plain_yaml import from_yaml
from kit.study.plan import count
from kit.study.spec import EngineKind, StudySpec, Workload
from kit.ui.choices import choose

#: More than these is a slip of the finger, or needs more machines than one.
LIMITS = {
    "concurrency": 4_096,
    "rate": 100_000,
    "requests": 1_000_000,
    "duration_s": 86_400,
    "prompt_tokens": 1_000_000,
    "output_tokens": 1_000_000,
    "processes": 64,
}
MOST_REPEATS, MOST_TRIALS = 1_000, 20_000
#: vLLM on a processor loads its model before each trial.
VLLM_START_S = 20.0
SUFFIX = ".yaml"
#: Of a saved choice: a plain file name.
_NAME = re.compile(r"\w[\w .-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The panel's fields as they stand; texts as typed, so that what is wrong can be shown."""

    releases: tuple[str, ...] = ()
    engine: str = EngineKind.SIMULATED.value
    scenarios: tuple[str, ...] = ()
    own: bool = False  # traffic of one's own in place of scenarios
    traffic: dict[str, str] = field(default_factory=dict)  # of kit.study.grid.FIELDS
    repeats: str = "3"
    sequential: bool = False
    minutes: str = ""  # budget; "" = none

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
        data["traffic"] = {name: text for name, text in self.traffic.items() if text.strip()}
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a choice comes to."""

    problems: dict[str, str]  # by field; "" = of the whole
    spec: StudySpec | None = None
    trials: int = 0
    minutes: float | None = None  # expected
    budget_min: float | None = None
    plan: tuple[str, ...] = ()  # sentences
    python: str = ""
    command: str = ""


def check(choice: Choice) -> Checked:
    """The study that a choice describes and what it will cost, or what is wrong with each field."""
    problems: dict[str, str] = {}
    if not choice.releases:
        problems["releases"] = "Choose at least one release."
    if not choice.own and not choice.scenarios:
        problems["scenarios"] = "Choose at least one scenario, or your own traffic."
    grid: dict[str, list[object]] = {}
    for name, text in choice.traffic.items():
        if not text.strip():
            continue
        try:
            grid[name] = _values(name, text)
        except KitError as error:
            problems[f"traffic.{name}"] = _words(error)
    repeats = _number(problems, "repeats", choice.repeats, MOST_REPEATS)
    budget = _number(problems, "minutes", choice.minutes, 7 * 24 * 60) if choice.minutes else None
    if problems:
        return Checked(problems=problems)
    assert repeats is not None
    try:
        spec = choose(
            choice.releases,
            None if choice.own else choice.scenarios,
            Workload() if choice.own else None,
            name="panel",
            engine=choice.engine,
            repeats=int(repeats),
            sequential=choice.sequential,
            **grid,  # type: ignore[arg-type]
        )
        trials = count(spec)
    except KitError as error:
        return Checked(problems={"": _words(error)})
    if trials > MOST_TRIALS:
        return Checked(
            problems={"": f"{trials:,} trials. Expected: {MOST_TRIALS:,} at most; choose fewer."}
        )
    minutes = expected_minutes(spec, trials)
    return Checked(
        problems={},
        spec=spec,
        trials=trials,
        minutes=minutes,
        budget_min=budget,
        plan=tuple(_plan(spec, trials, minutes, budget)),
        python=python_call(choice),
        command=command_line(choice),
    )


def _values(name: str, text: str) -> list[object]:
    values: list[object] = list(as_grid({name: text}).get(name, ()))
    for given in several(text, FIELDS[name].is_text) if name in LIMITS else ():
        numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", str(given))]
        if any(number > LIMITS[name] for number in numbers):
            raise SpecError(
                f"{name} {given}", f"{LIMITS[name]:,} at most", "give a number one machine can send"
            )
    return values


def _number(problems: dict[str, str], name: str, text: str, most: int) -> float | None:
    if not re.fullmatch(r"\d+(\.\d+)?", text.strip()) or not 0 < float(text) <= most:
        problems[name] = f"{name} {text!r}. Expected: a number from 1 to {most:,}."
        return None
    if name == "repeats" and "." in text:
        problems[name] = f"repeats {text!r}. Expected: a whole number."
        return None
    return float(text)


def _words(error: KitError) -> str:
    return f"{error.given}. Expected: {error.expected}; {error.hint}."


def _plan(spec: StudySpec, trials: int, minutes: float, budget: float | None) -> list[str]:
    """What Run will do, before it is pressed: its product, time, servers and memory."""
    parts = [_many(len(spec.releases), "release")]
    parts.append(_many(len(spec.scenarios), "scenario") if spec.scenarios else "own traffic")
    parts += [
        f"{len(values)} values of {name}" if len(values) > 1 else f"{name} {values[0]}"
        for name, values in spec.grid.items()
    ]
    parts.append(_many(spec.repeats, "repeat"))
    most = "up to " if spec.sequential else ""
    said = [f"{most}{_many(trials, 'trial')}: {' × '.join(parts)}"]
    at_once = min(trials, os.cpu_count() or 1)
    time = f"about {_minutes(minutes)}, {at_once} at a time, by the pace of recorded trials"
    if budget is not None and budget < minutes:
        time += f"; the budget of {_minutes(budget)} ends it at about "
        time += f"{max(1, int(trials * budget / minutes)):,} trials"
    said.append(time)
    each = server_gib()
    said.append(
        f"starts {_many(trials, 'server')} on 127.0.0.1, one a trial, and removes each afterwards: "
        f"{', '.join(spec.releases)}"
    )
    said.append(f"memory: about {at_once * each:.1f} GiB for {_many(at_once, 'server')} at a time")
    return said


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return "a minute" if minutes > 0.5 else "half a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


@cache
def _pace() -> dict[str, tuple[float, float, int]]:
    """Of each scenario, by the recorded release map: seconds before the load, seconds of load,
    requests asked; "" = over all."""
    import pyarrow.parquet as pq

    rows: dict[str, list[tuple[float, float]]] = {}
    table = pq.read_table(RECORDED / "release_map" / "trials.parquet", columns=["result"])
    for text in table["result"].to_pylist():
        result = msgspec.json.decode(text)
        start, load, end = (result.get(f"{n}_ns") for n in ("started", "load_started", "ended"))
        if None in (start, load, end):
            continue
        seconds = (load - start) / 1e9, (end - load) / 1e9
        for name in (result["trial_id"].split("_")[1], ""):
            rows.setdefault(name, []).append(seconds)
    return {
        name: (median(a for a, _ in found), median(b for _, b in found), 200)
        for name, found in rows.items()
    }


def expected_minutes(spec: StudySpec, trials: int) -> float:
    """Minutes that so many trials take, by recorded ones of the same scenarios (2 cores)."""
    pace = _pace()
    names = spec.scenarios or ("",)
    asked = [float(str(n)) for n in spec.grid.get("requests", ())]
    requests = sum(asked) / len(asked) if asked else float(spec.requests or 200)
    each = []
    for name in names:
        before, load, of = pace.get(name, pace[""])
        each.append(before + load * requests / of)
    seconds = sum(each) / len(each)
    if any(engine.kind is EngineKind.VLLM_CPU for engine in spec.engines):
        seconds += VLLM_START_S
    return seconds * trials / min(trials, os.cpu_count() or 1) / 60


@cache
def server_gib() -> float:
    """Memory of one embedded server with its stubs, GiB: the median peak of recorded trials."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = RECORDED / "first_light" / "samples.parquet"
    names = ("server_rss_bytes", "stub_rss_bytes")
    table = pq.read_table(path, columns=["trial", "name", "value"])
    total = 0.0
    for name in names:
        own = table.filter(pc.equal(table["name"], name))
        peaks = own.group_by("trial").aggregate([("value", "max")])["value_max"].to_pylist()
        total += median(peaks) if peaks else 0.0
    return total / 2**30


def python_call(choice: Choice) -> str:
    """The same study as a call of kit.run."""
    parts = [repr(_one(list(choice.releases)))]
    if choice.own:
        parts.append("workload=kit.Workload()")
    else:
        parts.append(f"scenario={_one(list(choice.scenarios))!r}")
    if choice.engine != EngineKind.SIMULATED:
        parts.append(f"engine={choice.engine!r}")
    for name, text in choice.traffic.items():
        if text.strip():
            parts.append(f"{name}={_one([_literal(v) for v in _values(name, text)])!r}")
    parts.append(f"repeats={int(choice.repeats)}")
    parts += ["sequential=True"] if choice.sequential else []
    return f"kit.run({', '.join(parts)})"


def command_line(choice: Choice) -> str:
    """The same study as a command."""
    words = ["python", "-m", "kit", "run", "--release", ",".join(choice.releases)]
    if not choice.own:
        words += ["--scenario", ",".join(choice.scenarios)]
    if choice.engine != EngineKind.SIMULATED:
        words += ["--engine", choice.engine]
    for name, text in choice.traffic.items():
        if text.strip():
            words += [f"--{name.replace('_', '-')}", ",".join(map(str, _values(name, text)))]
    words += ["--repeats", choice.repeats.strip()]
    words += ["--sequential"] if choice.sequential else []
    return shlex.join(words)


def _literal(value: object) -> object:
    return value if isinstance(value, int | float | str) else str(value)


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def save(choice: Choice, name: str, folder: Path) -> Path:
    """Write the choice as a readable file NAME.yaml into `folder`.

    Raises:
        SpecError: a name that is no plain file name.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"the name {name!r}", "letters, digits, space, dot, - and _", "choose a plain name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{SUFFIX}"
    text = yaml.safe_dump(choice.as_data(), sort_keys=False, allow_unicode=True)
    write_whole(path, text.encode())
    return path


def load(path: Path) -> Choice:
    """Read a saved choice.

    Raises:
        SpecError: it cannot be read, or is none.
    """
    try:
        data = from_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path.name}: {error}", "a saved configuration", "choose one") from error
    if not isinstance(data, dict):
        raise SpecError(
            f"{path.name}, which holds no fields", "a saved configuration", "choose one"
        )
    return Choice.of(data)


def saved(folder: Path) -> list[str]:
    """Names of the saved choices in `folder`; a name that `save` would not take is no such file."""
    names = (path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
    return sorted(name for name in names if _NAME.fullmatch(name))

"""A choice of the panel as the same call of Python, and as the same command."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from kit.study.grid import FIELDS, as_grid
from kit.study.spec import EngineKind

if TYPE_CHECKING:
    from kit.ui.panel_choice import Choice

#: By the question: the function of the front door.
CALLS = {"crash": "run", "limit": "find_limit", "soak": "soak"}


def python_call(choice: Choice) -> str:
    """The same study as a call of the front door."""
    parts = [_listed([*map(repr, choice.releases), *_others(choice)])]
    if choice.own:
        parts.append("workload=kit.Workload()")
    elif choice.scenarios:
        parts.append(f"scenario={_one(list(choice.scenarios))!r}")
    if choice.engine != EngineKind.SIMULATED and choice.releases:
        parts.append(f"engine={choice.engine!r}")
    parts += [f"{name}={_one(values)!r}" for name, values in _traffic(choice)]
    if choice.question == "limit":
        parts += [f"{name}={float(text):g}" for name, text in _goals(choice)]
    elif choice.question == "soak":
        parts.append(f"one_in={int(choice.one_in)}")
    else:
        parts.append(f"repeats={int(choice.repeats)}")
        parts += ["sequential=True"] if choice.sequential else []
    parts += [f"on={choice.on.strip()!r}"] if choice.on.strip() else []
    parts += ["yes=True"] if choice.url.strip() else []
    return f"kit.{CALLS[choice.question]}({', '.join(parts)})"


def command_line(choice: Choice) -> str:
    """The same study as a command."""
    images = [part.strip() for part in choice.images.split(",") if part.strip()]
    others = [*images, *([choice.url.strip()] if choice.url.strip() else [])]
    if choice.question == "crash":
        words = ["run"]
        words += ["--release", ",".join(choice.releases)] if choice.releases else []
        words += ["--server", ",".join(others)] if others else []
    else:
        words = [choice.question, *(choice.releases or others)]
    words += ["--container"] if images and choice.question != "crash" else []
    for name in ("model", "gpus"):
        if text := getattr(choice, name).strip():
            words += [f"--{name}", text]
    if not choice.own and choice.scenarios:
        words += ["--scenario", ",".join(choice.scenarios)]
    if choice.engine != EngineKind.SIMULATED and choice.releases:
        words += ["--engine", choice.engine]
    for name, values in _traffic(choice):
        words += [_option(name), ",".join(map(str, values))]
    if choice.question == "limit":
        for name, text in _goals(choice):
            words += [_option(name), text.strip()]
    elif choice.question == "soak":
        words += ["--one-in", choice.one_in.strip()]
    else:
        words += ["--repeats", choice.repeats.strip()]
        words += ["--sequential"] if choice.sequential else []
    words += ["--on", choice.on.strip()] if choice.on.strip() else []
    words += ["--yes"] if choice.url.strip() else []
    return shlex.join(["python", "-m", "kit", *words])


def _others(choice: Choice) -> list[str]:
    """Containers and the URL, as calls."""
    made = []
    model, gpus = choice.model.strip(), choice.gpus.strip()
    for image in (part.strip() for part in choice.images.split(",")):
        if image:
            given = [f"image={image!r}" if "/" in image or ":" in image else repr(image)]
            given += [f"model={model!r}"] if model else []
            given += [f"gpus={gpus!r}"] if gpus else []
            made.append(f"kit.container({', '.join(given)})")
    if url := choice.url.strip():
        made.append(f"kit.attach({url!r}, model={model!r})")
    return made


def _traffic(choice: Choice) -> list[tuple[str, list[Any]]]:
    return [
        (name, [_literal(v) for v in as_grid({name: text}).get(name, ())])
        for name, text in choice.traffic.items()
        if name in FIELDS and text.strip()
    ]


def _goals(choice: Choice) -> list[tuple[str, str]]:
    return [(name, text) for name, text in choice.goals.items() if text.strip()]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _literal(value: object) -> object:
    return value if isinstance(value, int | float | str) else str(value)


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _listed(calls: list[str]) -> str:
    return calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"

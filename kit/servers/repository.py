"""Writes the Triton model repository of a trial.

A model is a folder of kit/servers/models: a `config.pbtxt` that lists every parameter with its
default, one a line, the allowed words in a comment behind it where only some are allowed, and a
version folder. What several models share (kit/servers/models/common) is copied beside each
model.py, since Triton's Python stub sees only that folder.
"""

from __future__ import annotations

import difflib
import re
import shutil
from pathlib import Path

from kit.errors import SpecError
from kit.study.paths import MODELS
from kit.study.spec import Engine, TrialSpec

_PARAMETER = re.compile(
    r"^parameters \{ key: \"(?P<name>\w+)\" value \{ string_value: \"(?P<default>[^\"\\]*)\" \} \}"
    r"(?:  # (?P<choices>[\w-]+(?: \| [\w-]+)+))?$",
    re.MULTILINE,
)
_SERVES = re.compile(r"^# serves with: (?P<models>[\w ,-]+)$", re.MULTILINE)
_COMMON = "common"


def models() -> list[str]:
    """Names of the models that can be served."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.pbtxt"))


def build_repository(spec: TrialSpec, into: Path) -> Path:
    """Write the repository for `spec` into the new or empty folder `into` and return it.

    A parameter gets its value from the spec's parameters, else from the engine's field of that
    name, else the default. Parameters of a model that the first one calls may be set, too.

    Raises:
        SpecError: no such model or parameter, a word that the parameter does not allow, or a
            cache that cannot hold one sequence.
    """
    names = served_models(spec.model)
    templates = {name: (MODELS / name / "config.pbtxt").read_text() for name in names}
    _check_names(spec, templates)
    values = {
        line["name"]: _value(line, spec)
        for template in templates.values()
        for line in _PARAMETER.finditer(template)
    }
    _check_cache(values)
    for name, template in templates.items():
        config = _PARAMETER.sub(lambda line: _line(line["name"], values), template)
        folder = into / name
        shutil.copytree(MODELS / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "config.pbtxt").write_text(f'name: "{name}"\n{config}', encoding="utf-8")
        for version in (path.parent for path in folder.glob("*/model.py")):
            for module in (MODELS / _COMMON).glob("*.py"):
                shutil.copy(module, version)
    return into


def served_models(model: str) -> list[str]:
    """The model, first, and those that it calls.

    Raises:
        SpecError: no such model.
    """
    known = models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1)
        raise SpecError(
            f"the model {model!r}",
            f"one of {', '.join(known)}",
            f"did you mean {near[0]!r}?" if near else "choose one of them",
        )
    called = _SERVES.search((MODELS / model / "config.pbtxt").read_text())
    return [model, *(re.split(r", *", called["models"]) if called else [])]


def _check_names(spec: TrialSpec, templates: dict[str, str]) -> None:
    known = {line["name"] for text in templates.values() for line in _PARAMETER.finditer(text)}
    for name in spec.parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SpecError(
                f"the parameter {name!r} for the model {spec.model!r}",
                f"one of {', '.join(sorted(known))}",
                f"did you mean {near[0]!r}?" if near else "choose one of them",
            )


def _check_cache(values: dict[str, str]) -> None:
    """Refuse early what the engine would refuse at its start."""
    try:
        blocks, size, longest = (
            int(values[name]) for name in ("blocks", "block_size_tokens", "max_model_tokens")
        )
    except (KeyError, ValueError):
        return  # a model without a cache; what is no number the model itself names
    room = (blocks - 1) * size  # one is the null block
    if blocks and size and room < longest:
        raise SpecError(
            f"a KV cache of {blocks} blocks of {size} tokens for sequences of up to {longest} "
            "tokens",
            f"room for one whole sequence; this cache holds {room} tokens",
            "raise blocks or lower max_model_tokens",
        )


def _value(line: re.Match[str], spec: TrialSpec) -> str:
    """What the spec gives the parameter of a template's line, else its default."""
    name = line["name"]
    value = spec.parameters.get(name, _from_engine(spec.engine, name) or line["default"])
    choices = line["choices"].split(" | ") if line["choices"] else None
    if choices and value not in choices:
        raise SpecError(f"{name} = {value!r}", f"one of {', '.join(choices)}", f"correct {name}")
    return value


def _line(name: str, values: dict[str, str]) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: "{_escaped(values[name])}" }} }}'


def _from_engine(engine: Engine, name: str) -> str | None:
    """The engine's field of that name as a parameter; None where it has none."""
    value = getattr(engine, name, None)
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    """The inside of a quoted protobuf text string."""
    safe = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return "".join(safe)

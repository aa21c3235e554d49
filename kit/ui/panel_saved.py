"""Choices of the panel that are kept under a name, as files that a person can read."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from kit.errors import SpecError
from kit.study.files import write_whole
from kit.study.plain_yaml import from_yaml
from kit.ui.panel_choice import Choice

SUFFIX = ".yaml"
#: Of a saved choice: a plain file name.
_NAME = re.compile(r"\w[\w .-]{0,63}")


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

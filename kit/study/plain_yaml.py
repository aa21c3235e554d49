"""Reads YAML as plain data."""

from __future__ import annotations

from typing import Any

import yaml

#: libyaml's, which is ten times as fast, where PyYAML was built with it.
_SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def from_yaml(text: str | bytes) -> Any:
    """Plain data from YAML; nothing in it can make an object or run code.

    Raises:
        yaml.YAMLError: it is not YAML.

    >>> from_yaml("a: [1, 2]")
    {'a': [1, 2]}
    """
    return yaml.load(text, Loader=_SAFE)  # noqa: S506 - either is a safe loader

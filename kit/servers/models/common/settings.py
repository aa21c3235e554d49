"""Reads the parameters of Triton's model configuration as typed values."""

from __future__ import annotations

import json


class Settings:
    """The `parameters` of a config.pbtxt; every getter raises ValueError naming the parameter."""

    def __init__(self, model_config: str) -> None:
        given = json.loads(model_config).get("parameters", {})
        self._values = {name: value["string_value"] for name, value in given.items()}

    def text(self, name: str) -> str:
        if name not in self._values:
            raise ValueError(f"the parameter {name} is missing in config.pbtxt")
        return self._values[name]

    def whole(self, name: str) -> int:
        try:
            return int(self.text(name))
        except ValueError:
            raise ValueError(f"{name} = {self.text(name)!r}: a whole number is expected") from None

    def number(self, name: str) -> float:
        try:
            return float(self.text(name))
        except ValueError:
            raise ValueError(f"{name} = {self.text(name)!r}: a number is expected") from None

    def flag(self, name: str) -> bool:
        value = self.text(name).lower()
        if value not in ("true", "false"):
            raise ValueError(f"{name} = {value!r}: true or false is expected")
        return value == "true"

    def choice(self, name: str, *allowed: str) -> str:
        value = self.text(name)
        if value not in allowed:
            raise ValueError(f"{name} = {value!r}: one of {', '.join(allowed)} is expected")
        return value

"""Reads older JSON of studies and trials as today's: nothing that lies on disk is rewritten.

Schema 1 (until 2026) knew releases in place of servers, and concurrency as the only traffic
that a study varies.
"""

from __future__ import annotations

from typing import Any

#: What schema 1 meant by a field that its older files do not have.
_CONCURRENCIES_1 = [16]


def migrated(raw: Any, noun: str) -> Any:
    """`raw` as the current schema of the noun ("StudySpec", "TrialSpec") has it.

    What is no JSON object of schema 1 is returned as it is, for the reader to judge.
    """
    if noun not in _FROM_1 or not isinstance(raw, dict) or raw.get("schema", 2) != 1:
        return raw
    return _FROM_1[noun](dict(raw)) | {"schema": 2}


def _study(raw: dict[str, Any]) -> dict[str, Any]:
    kind = raw.pop("server_kind", "embedded")
    releases = raw.pop("releases", [])
    counts = raw.pop("concurrencies", _CONCURRENCIES_1)
    if kind == "attached":  # `kit load`: one trial that says nothing of a scenario
        raw["scenarios"], raw["workload"] = [], {}
        counts = []
    raw["servers"] = [_server(kind, release) for release in releases]
    raw["grid"] = {"concurrency": counts} if counts else {}
    return raw


def _trial(raw: dict[str, Any]) -> dict[str, Any]:
    kind = raw.pop("server_kind", "embedded")
    raw["server"] = _server(kind, raw.pop("release", None), raw.get("model"))
    return raw


def _server(kind: str, release: Any, model: Any = None) -> dict[str, Any]:
    if kind == "attached":
        return {"kind": kind, "model": model or "unknown"}
    return {"kind": kind, "release": release}


_FROM_1 = {"StudySpec": _study, "TrialSpec": _trial}

"""Chooses other releases for those of a notebook that this machine cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kit.crash.catalog import known_crashes
from kit.errors import LibpythonMissingError
from kit.servers.prepare import lacks_here, prepare
from kit.study.releases import embedded_releases, get_release, load_releases

Prepare = Callable[[str], None]


def best_here(
    wanted: Sequence[str], scenarios: Sequence[str], fetch: Prepare | None = None
) -> tuple[list[str], dict[str, str]]:
    """What to run in place of `wanted`, and why each that is left out does not run here.

    A release whose Python is missing, and cannot be fetched, is replaced by the nearest that runs
    here and has the same known crashes under these scenarios, if there is one.
    fetch: gets what such a release lacks here (kit.servers.prepare). Those that lack nothing are
    left to the study, which says what it fetches.

    Raises:
        LibpythonMissingError: none of them, nor any in their place, runs here.
    """
    left_out: dict[str, LibpythonMissingError] = {}
    for name in wanted:
        if lacks_here(get_release(name)) is None:
            continue
        try:
            (fetch or _prepare)(name)
        except LibpythonMissingError as error:
            left_out[name] = error
    chosen = [name for name in wanted if name not in left_out]
    able = [r.release for r in embedded_releases() if r.release not in left_out]
    able = [name for name in able if left_out and lacks_here(get_release(name)) is None]
    for name in left_out:
        stand_in = _nearest_alike(name, [n for n in able if n not in chosen], scenarios)
        chosen += [stand_in] if stand_in else []
    if not chosen:
        raise next(iter(left_out.values()))
    line = list(load_releases())
    return sorted(chosen, key=line.index), {name: e.given for name, e in left_out.items()}


def _nearest_alike(name: str, able: Sequence[str], scenarios: Sequence[str]) -> str | None:
    line = list(load_releases())
    alike = [other for other in able if _fate(other, scenarios) == _fate(name, scenarios)]
    return min(alike, key=lambda other: abs(line.index(other) - line.index(name)), default=None)


def _fate(release: str, scenarios: Sequence[str]) -> frozenset[str]:
    """The known crashes of that release that these scenarios exercise."""
    return frozenset(
        crash.id
        for crash in known_crashes().values()
        if set(crash.scenarios) & set(scenarios) and crash.hits(release)
    )


def _prepare(name: str) -> None:
    prepare([get_release(name)])

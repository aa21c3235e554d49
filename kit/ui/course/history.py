"""The crash's history: what each public commit changed, and which releases hold which fault."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from kit.errors import StoreError
from kit.study.paths import DATA
from kit.study.plain_yaml import from_yaml
from kit.study.releases import load_releases

HISTORY = DATA / "course" / "history.yaml"
#: Rules for telling by git whether a file and a clone agree: nothing is fetched.
GIT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One public commit that changed how long a response factory lives."""

    commit: str  # 40 hex digits
    date: date
    title: str
    first_branch: str  # release branch, "r23.10"
    last_branch: str
    effect: str
    diff: str  # a line of its diff that shows the effect, with its "+" or "-"
    opens: tuple[str, ...]  # names of faults
    closes: tuple[str, ...]


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = from_yaml(HISTORY.read_text("utf-8"))
    return document


def changes() -> list[Change]:
    """The commits, oldest first."""
    return [
        Change(
            commit=row["commit"],
            date=row["date"],
            title=row["title"],
            first_branch=row["branches"][0],
            last_branch=row["branches"][1],
            effect=" ".join(row["effect"].split()),
            diff=row["diff"],
            opens=tuple(row["opens"]),
            closes=tuple(row["closes"]),
        )
        for row in _document()["changes"]
    ]


def history() -> pd.DataFrame:
    """The commits as a table: release (first that holds it), date, commit, title, effect.

    Source: the git history of triton-inference-server/python_backend.

    Example:
        >>> list(history()["release"])
        ['23.10', '23.11', '23.12', '24.08', '24.10']
    """
    return pd.DataFrame(
        {
            "release": change.first_branch.removeprefix("r"),
            "date": change.date.isoformat(),
            "commit": change.commit[:7],
            "title": change.title,
            "effect": change.effect,
        }
        for change in changes()
    )


def faults_by_release() -> pd.DataFrame:
    """Which release holds which fault, by the source: a row a release, a bool column a fault.

    Only releases up to the newest branch that was looked at.
    """
    newest = _document()["newest_branch"].removeprefix("r")
    open_ones: set[str] = set()
    by_release = {change.first_branch.removeprefix("r"): change for change in changes()}
    rows = []
    for release in (name for name in load_releases() if name <= newest):
        if change := by_release.get(release):
            open_ones = (open_ones | set(change.opens)) - set(change.closes)
        rows.append({"release": release} | {f: f in open_ones for f in _document()["faults"]})
    return pd.DataFrame(rows)


def differences(clone: Path) -> list[str]:
    """What this file says and a clone of the repository does not; empty if they agree.

    Compared are each commit's id, date and title, a line of its diff, and the branches at both
    ends of its range.

    Raises:
        StoreError: `clone` is no git repository, or lacks a branch.
    """
    found = []
    for change in changes():
        said = _git(clone, "log", "-1", "--format=%ad|%s", "--date=short", change.commit)
        wanted = f"{change.date.isoformat()}|{change.title}"
        if said != wanted:
            found.append(f"{change.commit[:7]}: here {wanted!r}, there {said!r}")
        shown = _git(clone, "show", "--format=", change.commit).splitlines()
        if change.diff not in [line[:1] + line[1:].strip() for line in shown]:
            found.append(f"{change.commit[:7]}: no line {change.diff!r} in its diff")
        found += [
            f"{change.commit[:7]} is not in {branch}"
            for branch in (change.first_branch, change.last_branch)
            if not _holds(clone, change.commit, branch)
        ]
        before = _branch_before(change.first_branch)
        if before and _holds(clone, change.commit, before):
            found.append(f"{change.commit[:7]} is in {before} already")
    return found


def _branch_before(branch: str) -> str | None:
    line = list(load_releases())
    place = line.index(branch.removeprefix("r"))
    return f"r{line[place - 1]}" if place else None


def _holds(clone: Path, commit: str, branch: str) -> bool:
    return commit in _git(clone, "rev-list", branch).splitlines()


def _git(clone: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(clone), *words], capture_output=True, text=True, timeout=GIT_TIMEOUT_S
    )
    if done.returncode:
        raise StoreError(
            f"git {words[0]} in {clone}: {done.stderr.strip()}",
            f"a clone of {_document()['repository']} with its release branches",
            "clone it, and fetch its branches",
        )
    return done.stdout.strip()

"""Plots the release map: which release dies under which traffic, how fast, and where."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from kit.plots.columns import check_frame
from kit.plots.style import DEATH, FAINT, GRID, contrast
from kit.plots.titles import DECIDED, map_title, set_title
from kit.stats.summary import places_by
from kit.study.hybrids import beside_the_line, hybrid_parts, is_hybrid, on_the_line
from kit.study.releases import in_order
from kit.study.scenarios import is_traffic
from kit.study.words import percent

#: Many requests until death to few: pale to dark, so that grey shows it as well.
SPEED = LinearSegmentedColormap.from_list("speed", ["#f7c9a8", "#e7740f", "#a8321a", "#5c0f1f"])
SAFE = "#dbe9f4"
SLOWEST = 1000.0


def release_map(
    trials: pd.DataFrame, decisions: Mapping[tuple[str, str], str] | None = None
) -> pd.DataFrame:
    """One row a (release, scenario) that was tried: trials, died, median_iteration, verdict,
    signature.

    decisions: what a sequential test said of a cell ("crashes", "survives", "undecided"); without
    one a cell in which any trial died "crashes", one with trials otherwise "survives", and one
    whose trials all say nothing is "undecided". signature: the commonest way to die, in one line,
    since offsets differ from build to build; None where that is to leave no stack.
    """
    check_frame(
        trials,
        "trials",
        ("release", "completed", "crashed", "counted", "verdict"),
        plot="release_map",
    )
    counted = trials["counted"].to_numpy(bool)
    died = counted & trials["crashed"].to_numpy(bool)
    texts = trials["signature_text"].astype(object).where(trials["signature_text"].notna(), None)
    iteration = trials["crash_iteration"].to_numpy(float, na_value=np.nan)
    rows = []
    for (release, scenario), places in places_by(trials, ("release", "scenario")):
        dead, telling = places[died[places]], places[counted[places]]
        verdict = "crashes" if len(dead) else "survives" if len(telling) else "undecided"
        # Deaths without a stack are a kind of their own: a lone stack among hangs names no cell.
        common = Counter(texts.iloc[dead]).most_common(1)
        rows.append(
            {
                "release": str(release),
                "scenario": str(scenario),
                "trials": len(telling),
                "died": len(dead),
                "median_iteration": float(np.median(iteration[dead])) if len(dead) else None,
                "verdict": (decisions or {}).get((str(release), str(scenario)), verdict),
                "signature": common[0][0] if common else None,
            }
        )
    columns = ["release", "scenario", "trials", "died", "median_iteration", "verdict"]
    return pd.DataFrame(rows, columns=[*columns, "signature"])


def plot_release_map(
    cells: pd.DataFrame,
    ax: Axes,
    *,
    not_applicable: Mapping[tuple[str, str], str] | None = None,
    titles: Mapping[str, str] | None = None,
    error: float | None = None,
    untested: int | None = None,
) -> Axes:
    """Releases from left to right, scenarios from top to bottom; a cell says what came of it.

    cells: release_map. not_applicable: cells that cannot be run, and why (kit.study.plan). titles:
        names of scenarios for people. error: chance at which a sequential test calls a cell that
        crashes "survives"; None: such a cell is one in which nothing died. untested: trials at
        the most of those cells that no test decided, where others were.
    Dark red: dies within few requests; pale orange: after many; blue: survives. Written: died of
    trials, and the median crash iteration with the letter of the signature. Hatched: not
    applicable. Behind a gap: hybrids, which are no releases. Dotted with "?": undecided. Blank: not
    tried. A red frame: some died all the same.
    The title is about traffic that could kill: not about controls, nor the kit's own doing.
    """
    skipped = dict(not_applicable or {})
    pairs = pairs_of(cells)
    releases = in_order([*cells["release"], *(release for release, _ in skipped)])
    places = _places(releases)
    scenarios = list(dict.fromkeys([*cells["scenario"], *(scenario for _, scenario in skipped)]))
    letters = signature_letters(cells)
    found = dict(zip(pairs, cells.to_dict("records"), strict=True))
    for y, scenario in enumerate(scenarios):
        for x, release in zip(places, releases, strict=True):
            cell = found.get((release, scenario))
            if cell is not None:
                _draw_cell(ax, x, y, cell, letters)
            elif (release, scenario) in skipped:
                _patch(ax, x, y, fc="none", ec=GRID, hatch="////", lw=0.8, gid="not applicable")
    ax.set_xlim(-0.5, max(places, default=0.0) + 0.5)
    ax.set_ylim(len(scenarios) - 0.5, -0.5)
    ax.set_xticks(places, [_tick(release) for release in releases])
    _name_cores(ax, dict(zip(releases, places, strict=True)))
    ax.set_yticks(range(len(scenarios)), [(titles or {}).get(s, s) for s in scenarios])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(_key(ax, cells, skipped, error, untested), fontsize=8.5, color=FAINT, loc="left")
    set_title(ax, map_title(traffic_cells(cells)))
    return ax


#: Between the line of releases and the hybrids beside it.
_GAP = 0.5


def _places(releases: Sequence[str]) -> list[float]:
    """Of each column along the axis; hybrids, which come last, stand apart from releases."""
    apart = _GAP if on_the_line(releases) else 0.0
    return [x + apart * is_hybrid(release) for x, release in enumerate(releases)]


def _tick(release: str) -> str:
    parts = hybrid_parts(release)
    return release if parts is None else f"frontend\n{parts[0]}"


def _name_cores(ax: Axes, places: Mapping[str, float]) -> None:
    """Beneath the hybrids of each core: that core, and that they are no releases."""
    by_core: dict[str, list[float]] = {}
    for name in beside_the_line(places):
        _, core = hybrid_parts(name) or ("", "")
        by_core.setdefault(core, []).append(places[name])
    if not by_core:
        return
    ax.xaxis.remove_overlapping_locs = False  # it may stand beneath a tick
    centres = [sum(own) / len(own) for own in by_core.values()]
    texts = [f"on core {core}:\nno release{'s' * (len(own) > 1)}" for core, own in by_core.items()]
    ax.set_xticks(centres, texts, minor=True)
    ax.tick_params(axis="x", which="minor", length=0, pad=28, labelsize=8.5, labelcolor=FAINT)


def pairs_of(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(release, scenario) of each row of a release_map."""
    return list(zip(cells["release"], cells["scenario"], strict=True))


def traffic_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Those of a release_map in which traffic alone could kill."""
    return cells[cells["scenario"].map(is_traffic).astype(bool)]


def signature_letters(cells: pd.DataFrame) -> dict[str, str]:
    """A letter for each signature, commonest first; the same whatever the order of the cells."""
    counts = cells["signature"].dropna().value_counts()
    common = sorted(counts.index, key=lambda text: (-counts[text], text))
    names = [*ascii_uppercase, *(f"{a}{b}" for a in ascii_uppercase for b in ascii_uppercase)]
    return dict(zip(common, names, strict=False))


def signature_key(cells: pd.DataFrame) -> list[str]:
    """Lines for beneath the map: "A  SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled"."""
    letters = signature_letters(cells)
    return [f"{letter}  {' '.join(text.split())}" for text, letter in letters.items()]


def _draw_cell(
    ax: Axes, x: float, y: int, cell: dict[Hashable, Any], letters: Mapping[str, str]
) -> None:
    verdict, died, trials = cell["verdict"], cell["died"], cell["trials"]
    if verdict not in DECIDED:
        edge = DEATH if died else FAINT
        _patch(ax, x, y, fc="none", ec=edge, ls=":", lw=1.6 if died else 1.2, gid="undecided")
        ax.text(x, y, f"?\n{died}/{trials}", ha="center", va="center", fontsize=8, color=edge)
        return
    if verdict == "survives":
        _patch(ax, x, y, fc=SAFE, ec=DEATH if died else "none", lw=1.6, gid="survives")
        ax.text(x, y, f"{died}/{trials}", ha="center", va="center", fontsize=9.5, color=INK_ON_SAFE)
        return
    iteration = float(cell["median_iteration"])
    speed = 1 - min(1.0, math.log1p(iteration) / math.log1p(SLOWEST))
    shade = SPEED(speed)
    _patch(ax, x, y, fc=shade, ec="none", gid="crashes")
    ink = LIGHT if contrast(shade, LIGHT) >= contrast(shade, DARK) else DARK
    letter = letters.get(cell["signature"], "")
    ax.text(
        x,
        y - 0.17,
        f"{died}/{trials}",
        ha="center",
        va="center",
        fontsize=10,
        color=ink,
        fontweight="bold",
    )
    ax.text(
        x,
        y + 0.2,
        f"{iteration:.0f} {letter}".strip(),
        ha="center",
        va="center",
        fontsize=9,
        color=ink,
    )


#: Text on the colours of a death; near white, since a report themes what is white.
LIGHT, DARK = "#fefefe", "#1b1b1b"

#: Text on the pale blue of a survivor stays dark in a dark theme as well.
INK_ON_SAFE = "#31414f"


def _patch(ax: Axes, x: float, y: int, **style: Any) -> None:
    ax.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, **style))


def _key(
    ax: Axes,
    cells: pd.DataFrame,
    skipped: Mapping[tuple[str, str], str],
    error: float | None,
    untested: int | None,
) -> str:
    words = ["red: died/trials, median requests until death (darker = sooner)"]
    if len(signature_letters(cells)):
        words[0] += ", signature"
    if error is None:
        words.append("blue: all survived")
    else:
        few = f"; of {untested} or fewer: none died" if untested else ""
        words.append(f"blue: survives ({percent(error)} error{few})")
    if skipped:
        words.append("hatched: not applicable")
    if len({*pairs_of(cells), *skipped}) < cells["release"].nunique() * cells["scenario"].nunique():
        words.append("blank: not tried")
    if cells["release"].map(is_hybrid).any():
        words.append("behind the gap: no releases")
    if (~cells["verdict"].isin(DECIDED)).any():
        words.append("?: undecided")
    if (cells["verdict"].ne("crashes") & cells["died"].gt(0)).any():
        words.append("red frame: some died")
    figure = ax.get_figure(root=True)
    width_in = ax.get_position().width * (figure.get_size_inches()[0] if figure else 6.4)
    lines = words[:1]
    for word in words[1:]:
        longer = f"{lines[-1]}  ·  {word}"
        lines[-1:] = [longer] if len(longer) <= 15 * width_in else [lines[-1], word]
    return "\n".join(lines)

"""Figures that a reader looks into: the last requests before a death, and whole distributions.

The same data and words as the plain figures, with zoom, choice and reading of single values, by
mouse or keys. It works alike in JupyterLab, in Voilà and in a saved page: the markup carries its
own small script (explore.js) and needs neither a network nor a running kernel. Where scripts are
off, as on GitHub, the plain figure stands in its place.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kit.cleaning import clean_text, safe_html
from kit.errors import NotEnoughDataError
from kit.plots.distribution import distribution_samples, distribution_title
from kit.plots.last_seconds import LOOKS, last_seconds_title, requests_before_death
from kit.plots.latency import MEASURES
from kit.plots.style import DASHES
from kit.plots.titles import cell_colours, varying
from kit.stats.latency import LatencySample
from kit.stats.timings import measured
from kit.study.result import Outcome
from kit.study.words import percent

FOLDER = Path(__file__).parent
#: Requests that are kept of one life, the last ones: what a browser draws without delay.
MOST_REQUESTS = 2000
#: Points of a distribution's line beyond which it is thinned; its last ones are all kept.
MOST_POINTS, LAST_POINTS = 1000, 100
LANE_KEYS = (
    "Drag to look closer, double click for all. Keys: ↑ ↓ choose a request, ← → move in time, "
    "+ − zoom, Home shows all. ¦ long tick: first token or byte; short ticks: further tokens."
)
SHARE_KEYS = (
    "Point at a time, or move with ← →, to read every line there. Drag to look closer, double "
    "click or Home for all, + − zoom. A line that ends below 100 %: the rest was never answered."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """One such figure; the last line of a cell shows it, `save` writes a page of its own."""

    data: dict[str, Any]  # what explore.js draws
    picture: str = ""  # markup of the plain figure

    @property
    def title(self) -> str:
        return str(self.data["title"])

    def _repr_html_(self) -> str:
        data = _script_json(self.data)
        name = f"kit-explore-{sha256(data.encode()).hexdigest()[:12]}"  # a page may have several
        return (
            f"<style>{_text('explore.css')}</style>"
            f'<div class="kit-explore" id="{name}">'
            f"{self.picture or safe_html(self.title)}"
            f"</div><script>({_text('explore.js').rstrip()})({json.dumps(name)}, {data});</script>"
        )

    def save(self, path: str | Path) -> Path:
        """Write one HTML page that needs nothing else; the path."""
        whole = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{safe_html(self.title)}</title>"
            "<style>:root { color-scheme: light dark } body { margin: 1rem }</style>"
            f"<body>{self._repr_html_()}</body></html>\n"
        )
        path = Path(path)
        path.write_text(whole, encoding="utf-8")
        return path


def explore_last_seconds(
    requests: pd.DataFrame,
    trials: pd.DataFrame,
    *,
    gaps: pd.DataFrame | None = None,
    note: str = "",
    picture: str = "",
    most: int = MOST_REQUESTS,
) -> Exploration:
    """The requests of one server that died, a row each, against seconds before its death.

    requests, trials, gaps: as for kit.plots.last_seconds.plot_last_seconds, whose columns it reads.
    note: where the data come from. picture: markup that stands there without scripts, trusted.
    most: the last so many requests are kept.

    Raises:
        SpecError: no trial in `trials` died.
        NotEnoughDataError: none of its requests is on record.
    """
    life = requests_before_death(requests, trials, gaps=gaps, rows=most)
    rows: list[dict[str, Any]] = []
    for row in life.shown.to_dict("records"):
        begin = float(row["t_s"]) - life.died_s
        ended = row["outcome"] != Outcome.IN_FLIGHT and row["end_s"] == row["end_s"]
        first = float(row["first_byte_ms"])
        rows.append(
            {
                "request": int(row["request"]),
                "begin": round(begin, 6),
                "first": None if math.isnan(first) else round(begin + first / 1e3, 6),
                "tokens": [round(t, 6) for t in life.tokens_s.get(row["request"], [])],
                "end": round(float(row["end_s"]) - life.died_s, 6) if ended else 0.0,
                "look": str(row["outcome"]),
            }
        )
    seen = {row["look"] for row in rows}
    first_s = float(life.shown["t_s"].min()) - life.died_s
    looks = {
        outcome.value: {"word": look.word, "colour": look.colour, "sign": look.sign}
        for outcome, look in LOOKS.items()
        if outcome.value in seen
    }
    data = {
        "title": clean_text(last_seconds_title(life), lines=False),
        "axis": "time before the death of the server",
        "keys": LANE_KEYS,
        "note": clean_text(note, lines=False),
        "unit_ms": 1000,
        "log": False,
        "range": [1.02 * first_s, 0.03 * abs(first_s)],
        "looks": looks,
        "rows": rows,
        "sent": len(life.sent),
        "refused": life.refused,
    }
    return Exploration(data=data, picture=picture)


def explore_distribution(
    requests: pd.DataFrame, *, latency: str | None = None, note: str = "", picture: str = ""
) -> Exploration:
    """Share of all judged requests answered within a time, one line a cell (ECDF).

    requests, latency: as for kit.plots.distribution.plot_distribution. A line of more than
    MOST_POINTS answers is thinned to so many of equal share, and its slowest LAST_POINTS are kept.

    Raises:
        NotEnoughDataError: no judged request was answered.
    """
    latency = latency or measured(requests)
    samples = distribution_samples(requests, latency)
    shades = cell_colours(requests[requests["judged"].to_numpy(bool)], varying(requests))
    looks, lines, words = {}, [], []
    for number, (name, sample) in enumerate(samples.items()):
        ms, share = _line(sample)
        look = f"line-{number}"
        shown = clean_text(name, lines=False)
        dash = DASHES[number % len(DASHES)]
        looks[look] = {"word": shown, "colour": shades[name], "sign": "—", "dash": _svg_dash(dash)}
        lines.append({"look": look, "ms": ms.round(4).tolist(), "share": share.round(6).tolist()})
        lost = f", {percent(sample.failed_fraction)} never" if sample.failed_fraction else ""
        words.append(f"{shown}: n {sample.n:,}{lost}")
    answered = [line["ms"] for line in lines if line["ms"]]
    if not answered:
        raise NotEnoughDataError(
            "no judged request that was answered", "one or more", "run with requests recorded"
        )
    low = max(min(ms[0] for ms in answered), 1e-3)  # a microsecond: the axis is logarithmic
    data = {
        "title": clean_text(distribution_title(samples, latency), lines=False),
        "axis": MEASURES[latency],
        "keys": SHARE_KEYS,
        "note": clean_text(note, lines=False),
        "unit_ms": 1,
        "log": True,
        "range": [low / 1.2, 1.2 * max(ms[-1] for ms in answered)],
        "looks": looks,
        "lines": lines,
        "said": "; ".join(words) + ".",
    }
    return Exploration(data=data, picture=picture)


def _line(sample: LatencySample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Answered latencies, rising, and the share of all requests up to each."""
    answered = np.isfinite(sample.values_ms)
    ms, share = sample.values_ms[answered], sample.cumulative[answered] / max(sample.n, 1)
    if ms.size > MOST_POINTS:
        even = np.linspace(0, ms.size - 1, MOST_POINTS).round().astype(int)
        kept = np.union1d(even, np.arange(ms.size - LAST_POINTS, ms.size))
        ms, share = ms[kept], share[kept]
    return ms, share


def _svg_dash(dash: str | tuple[int, tuple[int, int]]) -> str:
    named = {"-": "none", "--": "7 4", "-.": "8 3 2 3"}
    return named[dash] if isinstance(dash, str) else "2 3"


def _script_json(data: dict[str, Any]) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")

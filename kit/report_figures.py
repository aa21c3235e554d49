"""Frames in, the figures of a report out, as SVG that follows the reader's light or dark theme."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from kit.plots.crash import plot_crash_strip, plot_survival
from kit.plots.kv import plot_kv_usage
from kit.plots.latency import plot_latency
from kit.plots.release_map import plot_release_map, release_map, signature_key
from kit.plots.style import COLOURS, DEATH, FAINT, GRID, INK, STYLE, footnote
from kit.report_text import scenario_title, scenarios_in_order

#: Text of a figure so wide can still be read on a phone's screen, without scrolling.
WIDTH_IN = 6.2
#: With so many releases and scenarios the map says more than a strip.
MAP_RELEASES, MAP_SCENARIOS = 4, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure of the report; `svg` is markup of ours, its texts escaped."""

    name: str
    caption: str
    svg: Markup
    shape: str = "narrow"  # "wide": scrolls on a narrow screen, rather than shrink


def hero(
    trials: pd.DataFrame, skipped: dict[tuple[str, str], str], provenance: str
) -> Picture | None:
    """The map where there is much to map, else the result strip of the deadliest scenario."""
    if trials.empty:
        return None
    cells = release_map(trials)
    scenarios = scenarios_in_order(trials)
    if cells["release"].nunique() >= MAP_RELEASES and len(scenarios) >= MAP_SCENARIOS:
        return _map(cells, skipped, provenance)
    return strip(trials, scenarios[0], provenance, titled=False)


def strip(trials: pd.DataFrame, scenario: str, provenance: str, *, titled: bool = True) -> Picture:
    own = trials[trials["scenario"] == scenario]
    cells = own.groupby(["release", "engine", "concurrency"], dropna=False).ngroups
    svg = draw(
        partial(plot_crash_strip, own),
        (WIDTH_IN, 1.5 + 0.36 * cells),
        note=provenance,
        name=f"strip-{scenario}",
        titled=titled,
    )
    return Picture(
        name=f"strip-{scenario}",
        caption=f"{scenario}: {scenario_title(scenario)}. One mark a server: a cross at the "
        "number of requests after which it died, an arrow where it was still alive.",
        svg=svg,
    )


def _map(cells: pd.DataFrame, skipped: dict[tuple[str, str], str], provenance: str) -> Picture:
    releases, scenarios = cells["release"].nunique(), cells["scenario"].nunique()
    note = "  ·  ".join([*signature_key(cells), provenance])
    svg = draw(
        partial(plot_release_map, cells, not_applicable=skipped),
        (2.4 + 0.62 * releases, 1.8 + 0.46 * scenarios),
        note=note,
        name="map",
    )
    return Picture(name="map", caption="Every release under every scenario.", svg=svg, shape="wide")


def pictures(
    trials: pd.DataFrame, requests: pd.DataFrame, samples: pd.DataFrame, provenance: str
) -> Iterable[Picture]:
    """Per scenario: deaths, survival, latency and KV usage; what has no data is left out."""
    for i, scenario in enumerate(scenarios_in_order(trials)):
        own = trials[trials["scenario"] == scenario]
        if i:
            yield strip(trials, scenario, provenance)
        if own["crashed"].any():  # without a death there is no curve
            yield Picture(
                name=f"survival-{scenario}",
                caption=f"{scenario}: share of servers still alive, Kaplan-Meier with 95 % "
                "intervals; upright ticks are servers that were alive when their requests ended.",
                svg=draw(
                    partial(plot_survival, own),
                    (WIDTH_IN, 3.4),
                    note=provenance,
                    name=f"survival-{scenario}",
                ),
            )
        asked = requests[requests["scenario"] == scenario]
        cells = asked.groupby(["release", "concurrency"], observed=True, dropna=False).ngroups
        if asked["judged"].any():
            yield Picture(
                name=f"latency-{scenario}",
                caption=f"{scenario}: median (filled) and 95th percentile (open) of all "
                "requests, with 95 % intervals; a failure counts as never answered.",
                svg=draw(
                    partial(plot_latency, asked),
                    (max(WIDTH_IN, 1.0 + 0.95 * cells), 4.2),
                    note=provenance,
                    name=f"latency-{scenario}",
                ),
                shape="narrow" if cells <= 6 else "wide",
            )
        seen = samples[samples["scenario"] == scenario]
        yield Picture(
            name=f"kv-{scenario}",
            caption=f"{scenario}: share of KV-cache blocks in use, one line a server.",
            svg=draw(
                partial(plot_kv_usage, seen, own),
                (WIDTH_IN, 3.4),
                note=provenance,
                name=f"kv-{scenario}",
            ),
        )


def draw(
    plot: Callable[[Axes], object],
    size_in: tuple[float, float],
    *,
    note: str,
    name: str,
    titled: bool = True,
) -> Markup:
    """A figure of the kit's style with one axes that `plot` fills, as SVG markup.

    titled: False where the page says the figure's title just above it.
    """
    buffer = io.StringIO()
    with style.context(STYLE):
        figure = _figure(plot, size_in, note=note, titled=titled)
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return Markup(themed(buffer.getvalue(), prefix=name))  # noqa: S704 - matplotlib escapes texts


def _figure(
    plot: Callable[[Axes], object], size_in: tuple[float, float], *, note: str, titled: bool = True
) -> Figure:
    figure = Figure(figsize=size_in, layout="constrained")
    ax = figure.add_subplot()
    plot(ax)
    if not titled:
        ax.set_title("")
    footnote(figure, "\n".join(textwrap.wrap(note, int(size_in[0] * 17))))
    return figure


def themed(svg: str, *, prefix: str) -> str:
    """The SVG for use inside a page: no header, ids of its own, colours as CSS variables."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    safe = re.sub(r"[^a-zA-Z0-9_-]", "-", prefix)
    body = re.sub(r'\bid="([^"]*)"', lambda m: f'id="{safe}-{_word(m[1])}"', body)
    body = re.sub(r"url\(#([^)]*)\)", lambda m: f"url(#{safe}-{_word(m[1])})", body)
    body = re.sub(r'xlink:href="#([^"]*)"', lambda m: f'xlink:href="#{safe}-{_word(m[1])}"', body)
    for shade, (variable, _) in THEMED.items():
        body = body.replace(shade, f"var({variable})")
    return re.sub(r"<svg ", '<svg role="img" ', body, count=1)


def _word(identity: str) -> str:
    return re.sub(r"\s+", "_", identity)


def _lighter(shade: str) -> str:
    """A release's colour for a dark page: a third of the way to white."""
    red, green, blue = (c + (1 - c) / 3 for c in to_rgb(shade))
    return to_hex((red, green, blue))


#: Colours that change with the reader's theme: CSS variable, and its value in the dark. The ink
#: of the figures is the ink of the page, and white outlines of marks are the page's background.
THEMED = {
    INK: ("--ink", "#e6edf3"),
    FAINT: ("--faint", "#9aa4ae"),
    GRID: ("--grid", "#363c44"),
    "#ffffff": ("--page", "#16191d"),
    **{shade: (f"--c{shade[1:]}", _lighter(shade)) for shade in [*COLOURS.values(), DEATH]},
}
